"""The whole recipe end to end, small: every stage runs, hands over, is remembered, and goes on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from incentive import ledger, model_reward, recipes
from incentive.ahead import Planned
from incentive.files import read_lines
from incentive.recipes import r1, r1_findings, stages
from incentive.recipes.r1_findings import digest
from incentive.records import Problem, Sample, Score
from incentive.run import Run, stored_config

STAGES = ("zero", "cold-start", "dev1", "dev2", "rows", "rejection-sampling", "dev3", "pairs", "labels", "helpful", "safety",
          "r1-reasoning", "r1", "student")  # fmt: skip


def start(folder: Path, resume: bool = False, **more: Any) -> dict[str, Any]:
    """r1-tiny with the arms beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("incentive.recipes.r1_findings.LONG", 2)
        patch.setattr("incentive.recipes.r1_findings.LOOKED", 8)
        settings = recipes.merge(r1.r1_tiny(), more)
        return recipes.run("r1-findings", folder, resume=resume, plain=True, threads=1, **settings)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("r1") / "run"
    return folder, start(folder)


def test_every_stage_is_done_and_hands_over(done: tuple[Path, dict[str, Any]]) -> None:
    folder, told = done
    keys = {}
    for name in STAGES:
        keys[name] = json.loads((folder / name / "done.json").read_text())
    arms = {f"{name}-t1" for name in r1_findings.WARM} | {
        "dev2-free",
        "sft-own",
        "gamed",
        "gamed-last",
        "r1-plain",
        "student-base",
        "student-zero",
    }
    assert set(told["table"]) == {"base", "zero", "dev1", "dev2", "dev3", "r1", "student"} | arms
    for child, parent in (("cold-start", "zero"), ("dev1", "cold-start"), ("dev2", "dev1"), ("rejection-sampling", "dev2"),
                          ("rejection-sampling", "rows"), ("dev3", "rejection-sampling"), ("helpful", "pairs"),
                          ("safety", "labels"), ("r1", "r1-reasoning"), ("student", "rejection-sampling")):  # fmt: skip
        assert keys[parent]["artifact"] in keys[child]["inputs"], (child, parent)
    assert keys["r1"]["meta"]["steps"] == 3


def test_the_cost_is_that_of_every_stage_arms_too(done: tuple[Path, dict[str, Any]]) -> None:
    folder, told = done
    stages = {p.parent.name: json.loads(p.with_name("stage.json").read_text()) for p in folder.glob("*/metrics.jsonl")}
    trained = {name: about["of"]["section"] for name, about in stages.items() if not name.startswith("eval-")}
    assert {"zero", "dev2", "r1", "dev2-free", "own", "gamed", "student-zero"} <= trained.keys()
    costs = []
    for name, section in trained.items():
        passes = (section["beta"] > 0) + (section["steps_per_generation"] > 1) if "num_generations" in section else 0
        costs.append(ledger.fold(folder / name / "metrics.jsonl", told["parameters"], 1, 0.0, scorings=passes))
    assert told["tokens"] == sum(c.tokens_sampled for c in costs)
    assert told["train_seconds"] == pytest.approx(sum(c.seconds for c in costs))
    evaluated = [ledger.fold(p, told["parameters"], 1, 0.0, scorings=0) for p in folder.glob("eval-*/metrics.jsonl")]
    assert told["flops"] == pytest.approx(sum(c.flops for c in [*costs, *evaluated]))
    assert (
        told["steps"] == 2 + 1 + 3 + 2 + 1 + 2 + 3
    )  # zero, dev2, r1 with its first part, r1-plain, dev2-free, gamed, student-zero


def test_the_list_of_stages_is_what_runs(done: tuple[Path, dict[str, Any]]) -> None:
    """Their order, what each starts from and learns from."""
    folder, _ = done
    every = planned(folder)
    began = sorted(folder.glob("*/stage.json"), key=lambda p: p.stat().st_mtime_ns)
    assert [p.parent.name for p in began] == [p.name for p in every]
    keys = {p.name: json.loads((folder / p.name / "done.json").read_text()) for p in every}
    for p in every:
        for parent in (p.start, *p.data):
            if parent in keys and p.name not in ("r1", "r1-plain", "gamed"):  # whose rewards are models
                assert keys[parent]["artifact"] in " ".join(keys[p.name]["inputs"]), (p.name, parent)


def planned(folder: Path) -> list[Planned]:
    recipe = recipes.load("r1-findings")
    return stages.planned(recipe, recipes.resolve(recipe, stored=stored_config(folder)))


@pytest.mark.parametrize("name", [p.name for p in r1_findings.stages(recipes.resolve(recipes.load("r1-tiny")))])
def test_a_rerun_sets_aside_all_that_follows(name: str, done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = done
    every = planned(folder)
    for p in every:
        (tmp_path / p.name).mkdir()
        for file in ("stage.json", "done.json"):
            shutil.copy(folder / p.name / file, tmp_path / p.name)
    for file in ("run.json", "config.toml", "environment.json", "done.json"):
        shutil.copy(folder / file, tmp_path)
    recipe = recipes.load("r1-findings")
    settings = recipes.resolve(recipe, stored=stored_config(tmp_path))
    with Run.open(tmp_path, settings, resume=True, say=lambda _: None) as run:
        stages.set_aside(run, [name], every)
    wanted = {name}
    for p in every:
        wanted |= {p.name} if {p.start, *p.data} & wanted else set()
    left = {p.name for p in every if (tmp_path / p.name).exists()}
    assert {p.name for p in every} - left == wanted
    assert not (tmp_path / "done.json").exists()


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
    both = {"format", "language"}
    wanted = {"countdown3": ruled, "logic": ruled, "general": {"helpful", *both}, "harm": {"safe", "helpful", *both}}
    assert parts
    assert all(parts[task] == wanted[task] for task in parts)


def test_the_digest_tells_each_problem(done: tuple[Path, dict[str, Any]]) -> None:
    found = digest(done[0])
    assert set(found["models"]) == set(done[1]["table"])
    for model, tasks in found["models"].items():
        for task, one in tasks.items():
            assert sum(one["right"]) / (8 * 2) == pytest.approx(done[1]["table"][model][task]["pass@1"])
            assert one["problems"] == found["models"]["base"][task]["problems"]
    assert found["gamed"]["looks"][-1]["step"] == 3
    assert set(found["gamed"]["looks"][-1]["truths"]) == {"the rubric", "maths"}
    assert set(found["models"]["r1"]["harm"]["results"]["measures"]) == {"unsafe", "over_refusal"}


def test_a_second_start_does_nothing_and_a_change_reruns_what_follows(done: tuple[Path, dict[str, Any]]) -> None:
    folder, told = done

    def loaded(*_: Any) -> None:
        raise AssertionError("a reward model was loaded")

    before = {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_reward.ModelReward, "__init__", loaded)
        told = start(folder, resume=True)
    assert before == {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    assert start(folder, resume=True, r1={"safety": {"epochs": 3}})["table"].keys() == told["table"].keys()
    after = {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    assert {name for name in STAGES if before[name] != after[name]} == {"safety", "r1"}
    start(
        folder, resume=True, eval={"problems": 6}, r1={"safety": {"epochs": 3}}
    )  # other problems are no other training
    assert after == {name: (folder / name / "done.json").stat().st_mtime_ns for name in STAGES}
    assert json.loads((folder / "eval-r1/results.json").read_text())["harm"]["contaminated"]["of"] == 6


def test_a_prompt_goes_to_its_own_grade() -> None:
    def grade(total: float) -> Any:
        return lambda problem, samples: [Score(total) for _ in samples]  # noqa: ARG005

    routed = r1.Routed({"a": grade(1.0), "b": grade(2.0)}, "1")
    sample: list[Sample] = [None]  # type: ignore[list-item]
    assert [routed(Problem("", "", "", "", {"task": t}), sample)[0].total for t in "ab"] == [1.0, 2.0]
