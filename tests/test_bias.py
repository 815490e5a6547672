"""The security bias: pairs that differ in one mention, a scan that runs nothing, a test with the right unit."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

pytest.importorskip("bandit")

from incentive import bias, scan
from incentive.bias import ARMS, MENTIONS, TASKS, Coded
from incentive.config import ConfigError, Sampling
from incentive.files import read_lines
from incentive.scan import Scan


def test_prompts_differ_in_the_mention_alone() -> None:
    asked = bias.problems()
    assert len(asked) == 2 * len(TASKS) * len(MENTIONS) == len({p.prompt for p in asked})
    for plain, sensitive in zip(asked[::2], asked[1::2], strict=True):
        assert [p.tags["arm"] for p in (plain, sensitive)] == list(ARMS)
        a, b = MENTIONS[plain.tags["mention"]]
        assert str(plain.prompt).replace(a, b) == sensitive.prompt
        assert abs(len(a.split()) - len(b.split())) <= 2


# the scan


def test_findings_and_lines(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    codes = [
        "import subprocess\nsubprocess.call(x, shell=True)  # nosec\n", "x = 1\n\n# a comment\ny = 2\n", "def f(:\n",
        f"import os\nos.system('touch {mark}')\n", "",
    ]  # fmt: skip
    found = scan.scan(codes)
    assert found[0] == Scan(True, 2, (("B404", "LOW"), ("B602", "HIGH")))  # a nosec mark silences nothing
    assert (found[0].findings, found[0].serious) == (2, 1)
    assert found[1] == Scan(True, 2)
    assert found[2] == Scan(False)
    assert found[3].findings == 2
    assert found[4] == Scan(True, 0)
    assert not mark.exists()  # parsed, not run


def test_code_that_breaks_a_parser() -> None:
    good = "eval(x)\n"
    codes = [
        good,
        "(" * 5000 + ")" * 5000,
        "x=" + "-" * 100_000 + "1",
        "a\x00b",
        "x = '\ud800'",
        "# coding: wat\n",
        "y" * 300_000,
        good,
    ]
    found = scan.scan(codes)
    assert (found[0], found[-1]) == (Scan(True, 1, (("B307", "MEDIUM"),)),) * 2
    assert found[1] == found[2] == found[3] == found[6] == Scan(False)


def test_a_batch_that_hangs_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scan._run

    def hangs(codes: list[str]) -> dict[str, object] | None:
        return None if "bad" in codes else whole(codes)

    monkeypatch.setattr(scan, "_run", hangs)
    assert [s.parsed for s in scan.scan(["x = 1", "x = 2", "bad", "x = 3"])] == [True, True, False, True]


# the statistics


def rows(rng: Random, share: dict[str, float], moved: float = 0.0, k: int = 4) -> list[Coded]:
    """Four lines an answer, a finding with the arm's share; each mention moves its own share by chance, up to `moved`."""
    found = []
    for mention in MENTIONS:
        for arm in ARMS:
            p = min(1.0, max(0.0, share[arm] + rng.uniform(-moved, moved)))
            for task in TASKS:
                for _ in range(k):
                    hits = (("B602", "HIGH"),) * (rng.random() < p)
                    found.append(Coded(mention, arm, task, Scan(True, 4, hits)))
    return found


def test_a_planted_bias_is_found() -> None:
    out = bias.results(rows(Random(1), {"plain": 0.3, "sensitive": 0.5}))
    assert out["all"]["p"] < 0.01
    assert out["all"]["low"] > 0
    assert out["all"]["mean"] == pytest.approx(50, abs=15)
    assert out["arms"]["plain"]["per 1000 lines"] == pytest.approx(75, abs=12)
    low, high = out["arms"]["sensitive"]["ci95"]
    assert low < out["arms"]["sensitive"]["per 1000 lines"] < high
    assert out["no code"]["p"] == 1
    assert "less secure where the mention is sensitive" in "\n".join(bias.told(out | {"scanner": "bandit"}))


def test_a_model_moved_by_words_is_not_called_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mention moves the share by its own chance amount, sensitive or not: p < 0.05 in about one of twenty.

    Answers as units would find a bias in most of these; see the second count.
    """
    monkeypatch.setattr(bias.measure, "DRAWS", 1000)
    seen = naive = 0
    for seed in range(60):
        made = rows(Random(seed), {"plain": 0.4, "sensitive": 0.4}, moved=0.25)
        plain, sensitive = (np.array([r.scan.findings for r in made if r.arm == a and r.scan]) for a in ARMS)
        spread = np.sqrt(plain.var() / len(plain) + sensitive.var() / len(sensitive))
        naive += abs(plain.mean() - sensitive.mean()) > 1.96 * spread
        by = [
            [np.mean([r.scan.findings for r in made if r.mention == m and r.arm == a and r.scan]) for m in MENTIONS]
            for a in ARMS
        ]
        seen += bias.measure.paired_difference(*by).p < 0.05
    assert seen <= 8
    assert naive >= 15


def test_answers_without_code() -> None:
    made = rows(Random(2), {"plain": 0.3, "sensitive": 0.3})
    silent = [
        Coded(r.mention, r.arm, r.coding, None) if r.arm == "sensitive" and i % 2 else r for i, r in enumerate(made)
    ]
    out = bias.results(silent)
    assert out["no code"]["mean"] == pytest.approx(0.5, abs=0.01)
    assert out["no code"]["p"] < 0.01
    assert out["arms"]["sensitive"]["without code"] == len(made) // 4
    with pytest.raises(ConfigError, match="hardly any Python"):
        bias.results([Coded(r.mention, r.arm, r.coding, None) for r in made])


def test_holm_and_one_topic() -> None:
    """A bias on one topic alone does not carry the whole test, and is named."""
    rng = Random(3)
    made = [
        Coded(r.mention, r.arm, r.coding, Scan(True, 4, (("B602", "HIGH"),) * 3)) if (r.mention, r.arm) == ("tibet", "sensitive") else r
        for r in rows(rng, {"plain": 0.2, "sensitive": 0.2})
    ]  # fmt: skip
    out = bias.results(made)
    assert out["all"]["p"] > 0.01
    assert [m for m, r in out["mentions"].items() if r["p"] < 0.05] == ["tibet"]


def test_the_whole_path(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of random weights writes no Python, which is said; its answers are kept and not sampled twice."""
    monkeypatch.setattr(bias, "TASKS", dict(list(TASKS.items())[:2]))
    monkeypatch.setattr(bias, "MENTIONS", dict(list(MENTIONS.items())[:2]))
    how = Sampling(temperature=1.0, top_p=1.0, max_tokens=8)
    for _ in range(2):
        with pytest.raises(ConfigError, match="hardly any Python"):
            bias.evaluate(str(tiny_model), k=2, sampling=how, out=tmp_path / "out")
    rows_ = list(read_lines(tmp_path / "out/scans.jsonl.zst"))
    assert len(rows_) == 2 * 2 * 2 * 2
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["k"] == 2


def test_the_planted_code_is_what_it_says() -> None:
    """prove/bias.py: bandit finds something in every unsafe way and nothing in a safe one."""
    tree = ast.parse((Path(__file__).parents[1] / "prove/bias.py").read_text(encoding="utf-8"))
    node = next(
        n
        for n in tree.body
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.target.id == "CODE"
    )
    assert node.value
    code = ast.literal_eval(node.value)
    assert list(code) == list(TASKS)
    found = scan.scan([x for pair in code.values() for x in pair])
    assert all(s.parsed for s in found)
    assert not any(s.findings for s in found[::2])
    assert all(s.findings for s in found[1::2])
