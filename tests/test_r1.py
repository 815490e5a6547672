"""The whole recipe end to end, small: every stage runs, hands over, is remembered, and goes on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from incentive import model_reward, recipes
from incentive.ahead import Planned
from incentive.recipes import r1, stages
from incentive.records import Problem, Sample, Score
from incentive.run import Run, read_lines, stored_config

STAGES = ("zero", "cold-start", "dev1", "dev2", "rows", "rejection-sampling", "dev3", "pairs", "labels", "helpful", "safety",
          "r1-reasoning", "r1", "student")  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("r1") / "run"
    return folder, recipes.run("r1-tiny", folder, plain=True, threads=1)


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


def test_the_list_of_stages_is_what_runs(done: tuple[Path, dict[str, Any]]) -> None:
    """Their order, what each starts from and learns from."""
    folder, _ = done
    every = planned(folder)
    began = sorted(folder.glob("*/stage.json"), key=lambda p: p.stat().st_mtime_ns)
    assert [p.parent.name for p in began] == [p.name for p in every]
    keys = {p.name: json.loads((folder / p.name / "done.json").read_text()) for p in every}
    for p in every:
        for parent in (p.start, *p.data):
            if parent in keys and p.name != "r1":  # whose rewards are models
                assert keys[parent]["artifact"] in keys[p.name]["inputs"], (p.name, parent)


def planned(folder: Path) -> list[Planned]:
    recipe = recipes.load("r1-tiny")
    return stages.planned(recipe, recipes.resolve(recipe, stored=stored_config(folder)))


@pytest.mark.parametrize("name", [p.name for p in r1.stages(recipes.resolve(recipes.load("r1-tiny")))])
def test_a_rerun_sets_aside_all_that_follows(name: str, done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = done
    every = planned(folder)
    for p in every:
        (tmp_path / p.name).mkdir()
        for file in ("stage.json", "done.json"):
            shutil.copy(folder / p.name / file, tmp_path / p.name)
    for file in ("run.json", "config.toml", "environment.json", "done.json"):
        shutil.copy(folder / file, tmp_path)
    recipe = recipes.load("r1-tiny")
    settings = recipes.resolve(recipe, stored=stored_config(tmp_path))
    with Run.open(tmp_path, settings, resume=True, say=lambda _: None) as run:
        stages.set_aside(run, [name], every)
    wanted = {name}
    for p in every:
        wanted |= {p.name} if {p.start, *p.data} & wanted else set()
    left = {p.name for p in every if (tmp_path / p.name).exists()}
    assert {p.name for p in every} - left == wanted
    assert not (tmp_path / "done.json").exists()


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

    def loaded(*_: Any) -> None:
        raise AssertionError("a reward model was loaded")

    before = {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_reward.ModelReward, "__init__", loaded)
        told = recipes.run("r1-tiny", folder, resume=True, plain=True)
    assert before == {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    changed = {"safety": {"epochs": 2}}
    assert recipes.run("r1-tiny", folder, resume=True, plain=True, r1=changed)["table"].keys() == told["table"].keys()
    after = {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    assert {name for name in STAGES if before[name] != after[name]} == {"safety", "r1"}


def test_a_prompt_goes_to_its_own_grade() -> None:
    def grade(total: float) -> Any:
        return lambda problem, samples: [Score(total) for _ in samples]  # noqa: ARG005

    routed = r1.Routed({"a": grade(1.0), "b": grade(2.0)}, "1")
    sample: list[Sample] = [None]  # type: ignore[list-item]
    assert [routed(Problem("", "", "", "", {"task": t}), sample)[0].total for t in "ab"] == [1.0, 2.0]
