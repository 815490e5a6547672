"""The whole recipe end to end, small: every stage runs, hands over, is remembered, and goes on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from incentive import recipes
from incentive.recipes import r1
from incentive.records import Problem, Sample, Score
from incentive.run import read_lines

STAGES = ("zero", "cold-start", "dev1", "dev2", "rows", "rejection-sampling", "dev3", "pairs", "labels", "helpful", "safety",
          "r1-reasoning", "r1", "student")  # fmt: skip


def small() -> dict[str, Any]:
    """On the base in the package, which knows two of the tasks and no talk: no claim to learn."""
    tasks = {"countdown3": 1.0, "logic": 1.0}
    length = {"temperature": 1.0, "max_tokens": 64}
    talk = {**length, "max_tokens": 128}
    rl = {
        "tasks": tasks,
        "problems_per_step": 4,
        "num_generations": 4,
        "eval_steps": 0,
        "save_steps": 1,
        "sampling": length,
    }
    drawn = {"samples": 4, "sampling": length}
    curate = {"tasks": tasks, "problems": 64, **drawn}
    return {
        "base": "base-mini",
        "student": "base-mini",
        "threads": 1,
        "rl": {**rl, "max_steps": 2},
        "r1": {
            "cold": curate, "dev1": {"epochs": 1}, "dev2": {**rl, "max_steps": 1}, "reject": {**curate, "problems": 128},
            "dev3": {"epochs": 3, "tokens_per_step": 2048}, "rows": 300,
            "pairs": {"tasks": {"general": 1.0}, "problems": 300, "threshold": 0.0, "samples": 6, "sampling": talk},
            "labels": {"tasks": {"harm": 1.0}, "problems": 128, "samples": 4, "sampling": talk},
            "helpful": {"batch": 64}, "safety": {"kind": "pointwise", "batch": 64},
            "reasoning": {**rl, "max_steps": 1}, "general": {**rl, "max_steps": 3, "num_generations": 2},
            "general_tasks": {"general": 1.0, "harm": 1.0}, "student": {"epochs": 1},
        },
        "eval": {"tasks": ["countdown3", "harm"], "problems": 8, "samples": 2, "also_t1": False,
                 "sampling": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 64}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("r1") / "run"
    return folder, recipes.run("r1-mini", folder, plain=True, **small())


def test_every_stage_is_done_and_hands_over(done: tuple[Path, dict[str, Any]]) -> None:
    folder, told = done
    keys = {}
    for name in STAGES:
        keys[name] = json.loads((folder / name / "done.json").read_text())
    assert set(told["table"]) == {"base", "zero", "dev1", "dev2", "dev3", "r1", "student"}
    for child, parent in (("cold-start", "zero"), ("dev1", "cold-start"), ("dev2", "dev1"), ("rejection-sampling", "dev2"),
                          ("rejection-sampling", "rows"), ("dev3", "rejection-sampling"), ("helpful", "pairs"),
                          ("safety", "labels"), ("r1", "r1-reasoning"), ("student", "rejection-sampling")):  # fmt: skip
        assert keys[parent]["artifact"] in keys[child]["inputs"], (child, parent)
    assert keys["r1"]["meta"]["steps"] == 3


def test_every_score_has_beside_it_what_its_model_had_seen(done: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = done
    found = {m: json.loads((folder / f"eval-{m}/results.json").read_text()) for m in ("base", "dev1", "r1")}
    for by_task in found.values():
        assert all(r["contaminated"]["met"] == 0 and r["contaminated"]["of"] == 8 for r in by_task.values())
    sets = {m: list(by_task["harm"]["contaminated"]["sets"]) for m, by_task in found.items()}
    assert sets["base"] == ["corpus"]
    assert sets["dev1"] == ["corpus", "zero", "dev1"]  # its rows are R1-Zero's answers
    assert {"dev1", "dev2", "dev3", "pairs", "labels", "r1-reasoning", "r1"} <= set(
        sets["r1"]
    )  # the reward models' too
    told = json.loads((folder / "contamination.json").read_text())["training"]
    assert told["corpus"]["rows"] > 200_000
    assert told["zero"]["rows"] == 8
    assert (folder / "table.md").read_text().count("0 of 8") == 2


def test_the_last_part_grades_each_prompt_by_its_own_rewards(done: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = done
    parts: dict[str, set[str]] = {}
    for file in sorted((folder / "r1/rollouts").glob("*.jsonl.zst")):
        for group in read_lines(file):
            for score in group["scores"]:
                parts.setdefault(group["problem"]["tags"]["task"], set()).update(score["parts"])
    ruled = {"accuracy", "summarised", "language"}
    wanted = {"countdown3": ruled, "logic": ruled, "general": {"helpful", "format"}, "harm": {"safe", "format"}}
    assert parts
    assert all(parts[task] == wanted[task] for task in parts)


def test_a_second_start_does_nothing_and_a_change_reruns_what_follows(done: tuple[Path, dict[str, Any]]) -> None:
    folder, told = done
    before = {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    settings = small()
    settings["r1"]["safety"]["epochs"] = 1
    assert recipes.run("r1-mini", folder, resume=True, plain=True, **settings)["table"].keys() == told["table"].keys()
    after = {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    assert {name for name in STAGES if before[name] != after[name]} == {"safety", "r1"}
    settings["eval"]["problems"] = 6  # other evaluation problems are no other training
    recipes.run("r1-mini", folder, resume=True, plain=True, **settings)
    assert after == {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    assert json.loads((folder / "eval-r1/results.json").read_text())["harm"]["contaminated"]["of"] == 6


def test_a_prompt_goes_to_its_own_grade() -> None:
    def grade(total: float) -> Any:
        return lambda problem, samples: [Score(total) for _ in samples]  # noqa: ARG005

    routed = r1.Routed({"a": grade(1.0), "b": grade(2.0)}, "1")
    sample: list[Sample] = [None]  # type: ignore[list-item]
    assert [routed(Problem("", "", "", "", {"task": t}), sample)[0].total for t in "ab"] == [1.0, 2.0]
