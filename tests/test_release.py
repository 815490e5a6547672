"""A run as a bundle: what is in it, that it checks itself, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from incentive import harness, recipes, release
from incentive.files import RunError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole small run: evaluation, two steps, evaluation."""
    folder = tmp_path_factory.mktemp("run") / "r"
    small = {
        "max_steps": 2,
        "problems_per_step": 4,
        "num_generations": 4,
        "eval_steps": 0,
        "sampling": {"max_tokens": 48},
    }
    asked = {
        "tasks": ["countdown3"],
        "problems": 8,
        "samples": 4,
        "sampling": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 48},
    }
    recipes.run("zero-tiny", folder, plain=True, rl=small, eval=asked, threads=1)
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    harness.evaluate(str(run), ["mini"], k=2, problems=2, max_tokens=32, threads=1, out=out / "eval")
    return release.release(run, out / "tiny", evals=[out / "eval"], say=lambda _: None)


def test_what_is_in_it(bundle: Path, run: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    names = {p.name for p in bundle.iterdir()}
    assert set(manifest["files"]) == names - {"manifest.json"}
    assert {
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "README.md",
        "results.json",
        "recipe.toml",
    } <= names
    assert (manifest["released"], manifest["base"], manifest["licence"]) == ("zero", "base-mini", "apache-2.0")
    stages = {s["stage"]: s for s in manifest["stages"]}
    assert stages["after"]["made_from"] == ["zero"]
    assert stages["zero"]["settings"]["num_generations"] == 4
    results = json.loads((bundle / "results.json").read_text())
    assert list(results["model"]) == ["after"]
    assert list(results["base"]) == ["before"]
    assert set(results["suites"][0]["tasks"]) >= {"countdown3", "logic"}
    assert (bundle / "recipe.toml").read_text() == (run / "config.toml").read_text()


def test_the_card_says_what_was_measured_and_what_was_not(bundle: Path) -> None:
    card = (bundle / "README.md").read_text()
    results = json.loads((bundle / "results.json").read_text())["model"]["after"]["countdown3"]
    low, high = results["ci95"]
    assert f"| countdown3 | 8 | 4 | {results['pass@1']:.1%} ({low:.1%} to {high:.1%}) |" in card
    for part in (
        "license: apache-2.0",
        "## Limits",
        "## Safety",
        "Not measured: harmful answers",
        "## Cost",
        "core-hours",
        "incentive run recipe.toml",
    ):
        assert part in card
    assert "None" not in card
    assert str(Path.home()) not in card
    assert str(bundle.parent) not in card


def test_the_recipe_in_it_is_the_run(bundle: Path) -> None:
    found = recipes.resolve(recipes.load(str(bundle / "recipe.toml")))
    assert found.rl is not None
    assert (found.rl.max_steps, found.seed) == (2, 0)


def changed(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_a_changed_bundle_fails_its_check(bundle: Path, tmp_path: Path) -> None:
    release.check(bundle)
    folder = changed(bundle, tmp_path)
    (folder / "README.md").write_text("better")
    with pytest.raises(RunError, match=r"README.md has changed"):
        release.check(folder)
    (folder / "README.md").unlink()
    with pytest.raises(RunError, match=r"README.md is missing"):
        release.check(folder)


def test_strange_files_and_nan_are_found(bundle: Path, tmp_path: Path) -> None:
    folder = changed(bundle, tmp_path)
    (folder / "evil.bin").write_bytes(b"x")
    with pytest.raises(RunError, match=r"evil\.bin is not in the manifest"):
        release.check(folder)
    (folder / "evil.bin").unlink()
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values()))[0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = release.file_hash(folder / "model.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="NaN"):
        release.check(folder)


def test_an_unfinished_or_foreign_run_is_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "r"))
    with pytest.raises(RunError, match="holds other files"):
        release.release(copy, tmp_path)
    with pytest.raises(RunError, match=r"no such model in .*\nStages with one: zero"):
        release.release(copy, stage="after")
    with pytest.raises(RunError, match="no finished evaluation"):
        release.release(copy, evals=[tmp_path])
    foreign = tmp_path / "e"
    foreign.mkdir()
    (foreign / "results.json").write_text(json.dumps({"model": "0" * 16, "tasks": {}}))
    with pytest.raises(RunError, match="of another model"):
        release.release(copy, evals=[foreign])
    assert not (copy / "release").exists()
    (copy / "done.json").unlink()
    with pytest.raises(RunError, match="is not finished") as error:
        release.release(copy)
    assert "--resume" in str(error.value)
    with pytest.raises(RunError, match="no run here"):
        release.release(tmp_path / "nothing")


def test_a_bundle_that_fails_leaves_nothing(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "r"))
    (copy / "zero/model/generation_config.json").unlink()
    with pytest.raises(RunError, match=r"generation_config.json is missing from the bundle"):
        release.release(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
