"""The README and the docs: links that lead somewhere, commands that exist, settings that are known, code that runs."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from incentive import config
from incentive.cli import app
from incentive.recipes import RECIPES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKE = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of the page's code blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Every line of a code block, and every inline code, that begins with `incentive ` or `make `."""
    text = page.read_text(encoding="utf-8")
    lines = [line for _, block in blocks(page) for line in block.splitlines()]
    lines += re.findall(r"`((?:incentive|make) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = []
    for line in lines:
        if re.match(r"(incentive|make) [a-z]", line):
            words = shlex.split(line, comments=True)
            if words and not any(w in ("...", "…") for w in words):
                found.append(words)
    return found


NAMES = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_files_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in re.findall(r"`((?:incentive|prove|bench|tests|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page: Path) -> None:
    for words in commands(page):
        if words[0] == "make":
            assert words[1] in MAKE, words
            continue
        assert words[1] in NAMES, words
        if words[1] == "run" and words[2:] and re.fullmatch(r"[a-z0-9-]+", words[2]):
            assert words[2] in RECIPES, words
        settings = config.known_settings()
        for flag, value in itertools.pairwise(words):
            if flag == "--set":
                assert value.split("=")[0] in settings, words
        help_ = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "200"}).output
        for flag in (w for w in words[2:] if w.startswith("--")):
            assert flag in help_, words


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"incentive {name}" in text, name


def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is Python; the task of one's own is run as the README says, as far as its plan."""
    python = [text for language, text in blocks(ROOT / "README.md") if language == "python"]
    assert python
    for text in python:
        ast.parse(text)
    mine = next(text for text in python if "class Double" in text)
    (tmp_path / "mine.py").write_text(mine)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "mine.py", "--dry-run"])
    assert done.exit_code == 0, done.output
