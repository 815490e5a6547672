"""The stages of a pipeline before and while it runs: the list, the plan, which one runs, how long, where to stop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from incentive import config, live, recipes
from incentive.ahead import Ahead, Planned, seconds
from incentive.cli import app
from incentive.files import RunError
from incentive.recipes import plan, stages

R1 = ["zero", "cold-start", "dev1", "dev2", "rows", "rejection-sampling", "dev3", "pairs", "labels", "helpful", "safety",
      "r1-reasoning", "r1"]  # fmt: skip
ROOT = Path(__file__).parents[1]


def call(*args: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout + done.stderr


def names(recipe: str, *sets: str) -> list[str]:
    found = recipes.load(recipe)
    return [p.name for p in stages.planned(found, recipes.resolve(found, list(sets)))]


# the list


def test_the_stages_are_known_before_a_run() -> None:
    evals = ["eval-base", "eval-zero", "eval-dev1", "eval-dev2", "eval-dev3", "eval-r1"]
    assert names("r1-mini", "student=") == [*R1, *evals]
    assert names("r1-mini", "student=base-mini") == [*R1, "student", *evals, "eval-student"]
    assert names("zero-mini") == ["before", "zero", "after"]
    assert names("evaluate-mini") == ["before"]
    assert names("rejection-mini", "collect.rounds=2") == [
        "before",
        "collect-1",
        "sft-1",
        "collect-2",
        "sft-2",
        "after",
    ]
    assert names("base-mini") == ["base", "skills"]
    assert names("controls-mini") == []


def test_a_stage_that_is_not_in_the_list_is_a_fault_of_ours(tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'recipe = "evaluate-mini"\nbase = "{tiny_model}"\n')
    found = recipes.load(str(file))
    from incentive.run import Run

    with Run.open(tmp_path / "run", recipes.resolve(found)) as run:
        run.stages = ("before",)
        with pytest.raises(ValueError, match="'after' is not in the list of its pipeline's stages: before"):
            run.stage("after", lambda *_, **__: None, None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ("r1-mini", "--until", "dev9"),
            "no such stage in r1-mini; did you mean 'dev3'?\nStages: zero, cold-start, dev1",
        ),
        (("zero-mini", "--until", "dev2"), "no such stage in zero-mini\nStages: before, zero, after."),
        (("zero-mini", "--set", "eval.problems=2", "--until", "afte", "--dry-run"), "did you mean 'after'?"),
        (("controls-mini", "--until", "zero-21"), "not known before it runs"),
        (("r1-mini", "--set", "r1.pairs.tasks={generl=1.0}"), "unknown task 'generl'; did you mean 'general'?"),
        (
            ("r1-mini", "--set", "r1.dev2.rewards={sumarised=1.0}"),
            "unknown reward 'sumarised'; did you mean 'summarised'?",
        ),
    ],
)
def test_a_wrong_name_is_told_before_anything_runs(args: tuple[str, ...], said: str, tmp_path: Path) -> None:
    text = call("run", *args, "--run", tmp_path / "run", code=2)
    assert said in text
    assert len(text.strip().splitlines()) <= 2
    assert not (tmp_path / "run").exists()


# to stop after one, to do one anew


def test_until_stops_in_order_and_a_resume_goes_on(tmp_path: Path, tiny_model: Path) -> None:
    run = tmp_path / "run"
    small = ("rl.max_steps=1", "rl.sampling.max_tokens=16", "rl.problems_per_step=2", "rl.num_generations=2", "threads=1",
             "rl.eval_problems=2", "eval.problems=2", "eval.samples=2", "eval.sampling.max_tokens=16")  # fmt: skip
    sets = [x for s in (f"base={tiny_model}", *small) for x in ("--set", s)]
    text = call("run", "zero-tiny", "--run", run, "--plain", "--until", "before", *sets)
    assert "stopped after before, stage 1 of 3, as asked; go on with: incentive run zero-tiny" in text
    assert "before, 1 of 3; then it stops" in text
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["until"], summary["done"], summary["ahead"]) == ("before", ["before"], ["zero", "after"])
    assert set(summary["before"]) == {"countdown3", "countdown4"}
    assert (run / "report.html").is_file()
    assert not (run / "done.json").exists()
    assert not (run / "zero").exists()
    text = call("run", "zero-tiny", "--run", run, "--plain", "--resume", "--until", "zero")
    assert "zero, 2 of 3; then it stops" in text
    assert "before, 1 of 3" not in text  # it is done and remembered
    assert "right answers on val, zero: " in text
    assert f"the model: {run}/zero/model" in text
    assert json.loads((run / "summary.json").read_text())["steps"] == 1
    text = call("run", "zero-tiny", "--run", run, "--plain", "--resume")
    assert "What was learned" in text
    whole = (run / "summary.json").read_text()
    assert "until" not in whole
    text = call("run", "zero-tiny", "--run", run, "--plain", "--resume", "--until", "zero")
    assert "zero is done, and so is the whole run" in text
    assert (run / "summary.json").read_text() == whole
    text = call("run", "zero-tiny", "--run", run, "--plain", "--rerun", "zero", "--until", "before")
    assert "after: runs anew" in text
    assert "stopped after before" in text
    assert not (run / "done.json").exists()  # what is set aside is to do again
    assert not (run / "zero").exists()


def test_rerun_before_any_stage_ran(tmp_path: Path) -> None:
    from incentive.run import Run

    found = recipes.load("r1-tiny")
    settings = recipes.resolve(found)
    said: list[str] = []
    with Run.open(tmp_path / "run", settings, say=said.append) as run:
        ahead = stages.planned(found, settings)
        for p in ahead:
            stages.set_aside(run, [p.name], ahead)
            assert said.pop() == f"{p.name}: has not run yet"
        with pytest.raises(RunError, match=r"--rerun dev4: no such stage in .*; did you mean 'dev3'\?\nStages: zero, "):
            stages.set_aside(run, ["dev4"], ahead)


# the plan


def test_the_plan_tells_every_stage_with_or_without_its_base(tmp_path: Path) -> None:
    gone = tmp_path / "no-such-model"
    text = call(
        "run", "r1-mini", "--dry-run", "--run", tmp_path / "run", "--set", f"base={gone}", "--set", "student=base-mini"
    )
    assert not (tmp_path / "run").exists()
    assert f"base {gone}: not found here, so memory and cost are not told" in text
    for name in (*R1, "student"):
        assert f"# stage {name}: " in text
    assert "# stages eval-base, eval-zero, eval-dev1, eval-dev2, eval-dev3, eval-r1 and eval-student: " in text
    settings = recipes.resolve(recipes.load("r1-mini"))
    assert settings.r1
    cold = settings.r1.cold
    n = cold.problems * cold.samples
    assert f"= {n:,} answers at T 1, {n * cold.sampling.max_tokens:,} tokens at most" in text
    assert (
        f"{settings.r1.general.max_steps - settings.r1.reasoning.max_steps:,} updates (goes on from r1-reasoning"
        in text
    )
    assert text.count("memory about") == 1  # the student's base is here
    text = call("run", "r1-mini", "--dry-run", "--set", "base=base-mini", "--set", "student=base-mini")
    assert text.count("memory about") == 15  # all that have a model, the evaluations together, and the largest
    assert " at most, where a core does 170 GFLOP/s" in text
    text = call("run", "r1-mini", "--dry-run", "--set", "base=base-mini", "--until", "dev1")
    assert "stage dev1" in text
    assert "stage dev2" not in text
    assert "it stops after dev1, stage 3 of " in text


def test_the_plan_names_the_base_of_a_run_that_evaluates_nothing(tmp_path: Path) -> None:
    recipe = recipes.load("rejection-mini")
    settings = recipes.resolve(recipe, [f"base={tmp_path / 'gone'}"]).model_copy(update={"eval": None})
    assert f"base {tmp_path / 'gone'}: not found here" in "\n".join(plan.plan(recipe, settings))


def test_the_plan_counts_right() -> None:
    recipe = recipes.load("r1-tiny")
    settings = recipes.resolve(recipe)
    every = {p.name: p for p in stages.planned(recipe, settings)}
    assert {name: p.answers for name, p in every.items() if p.answers} == {
        "zero": 32, "cold-start": 256, "dev2": 16, "rejection-sampling": 512, "pairs": 1800, "labels": 512,
        "r1-reasoning": 16, "r1": 16, **{n: 32 for n in every if n.startswith("eval-")},
    }  # fmt: skip
    assert plan._rows(every["dev1"], every) == (256, 64)
    assert plan._rows(every["student"], every) == (512 + 300, 64)
    assert plan._rows(every["helpful"], every) == (1800, 128)
    assert plan._rows(every["safety"], every) == (512, 128)
    text = "\n".join(plan.plan(recipe, settings))
    assert f"in all {32 + 256 + 16 + 512 + 1800 + 512 + 16 + 16 + 7 * 32:,} answers" in text


@pytest.mark.parametrize(
    ("first", "last", "every", "probes"), [(0, 120, 10, 13), (20, 50, 10, 3), (0, 6, 4, 3), (0, 9, 0, 0)]
)
def test_the_plan_counts_probes(first: int, last: int, every: int, probes: int) -> None:
    section = config.RL(max_steps=last, eval_steps=every, eval_problems=16)
    assert plan._probes(Planned("r1", section, first=first), section) == 2 * 16 * probes


# while it runs


def rows(folder: Path, name: str, *found: dict[str, Any]) -> None:
    (folder / name).mkdir()
    (folder / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found) + '{"step": 9, "ti')


def test_what_is_ahead_and_how_long(tmp_path: Path) -> None:
    rl = config.RL(max_steps=10, problems_per_step=4, num_generations=5)
    draw, look = config.Draw(problems=10, samples=3), config.Eval(tasks=("a",), problems=5, samples=4, also_t1=False)
    every = [Planned("zero", rl), Planned("sft", config.SFT()), Planned("more", rl, first=4), Planned("draw", draw),
             Planned("eval-a", look), Planned("eval-b", look)]  # fmt: skip
    assert [p.answers for p in every] == [200, 0, 120, 30, 20, 20]
    ahead = Ahead(every, tmp_path)
    ahead.begin("preflight")
    assert ahead.label("preflight") == "preflight"
    assert ahead.now is None
    ahead.begin("zero")
    assert ahead.told() == "zero, 1 of 6; then sft, more, draw and 2 more"
    assert ahead.left() == (0.0, 5)
    ahead.see(every[0], [{"step": 0, "time/step": 99.0}, {"step": 1, "time/step": 2.0, "time/sample": 1.0}])
    assert ahead.left() == (
        pytest.approx(12.0 + 1.5 + 1.0 + 1.0),
        1,
    )  # 0.1 s an answer, 0.05 s where it is only sampled
    assert ahead.told() == "zero, 1 of 6; then sft, more, draw and 2 more (about 15.5 s, 1 of them not known yet)"
    rows(tmp_path, "zero", {"step": 1, "time/step": 4.0, "time/sample": 2.0})
    rows(tmp_path, "draw", {"step": 1, "time/sample": 2.0, "time/curate": 1.0})
    rows(tmp_path, "eval-a", {"step": 1, "time/evaluate": 10.0})
    ahead.begin("more")
    assert ahead.left() == (pytest.approx(1.5 + 2.0), 0)
    ahead.begin("eval-a")
    assert ahead.left() == (pytest.approx(20 * 0.1), 0)
    ahead.begin("eval-b")
    assert ahead.pace == pytest.approx({"rl": 0.2, "draw": 0.1, "eval": 0.5})
    assert ahead.told() == "eval-b, 6 of 6; then it is done"
    assert Ahead(every, tmp_path, "draw").rest == every[:4]
    assert seconds({"step": 1, "time/a": 1.0, "time/b": None}) == 1.0


def test_the_view_says_which_stage_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = recipes.load("r1-tiny")
    settings = recipes.resolve(found)
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero/done.json").write_text("{}")
    (tmp_path / "zero/metrics.jsonl").write_text('{"step": 1, "time/step": 7200.0}\n')
    view = live.View(settings, tmp_path, None, True, stages.planned(found, settings), None)
    assert view.cost()[0] == pytest.approx(7200, abs=5)  # what earlier starts took
    view.show({"phase": "begin", "stage": "zero", "metrics": tmp_path / "zero/metrics.jsonl", "section": settings.rl})
    assert capsys.readouterr().out == ""  # it is done and will be remembered
    view.show({"phase": "begin", "stage": "cold-start"})
    view.show({"phase": "cold-start", "done": 64, "total": 64})
    out = capsys.readouterr().out
    assert "cold-start, 2 of 21; then dev1, dev2, rows and 16 more (about " in out
    assert "cold-start, 2 of 21  problems 64/64" in out
    view.show({"phase": "begin", "stage": "dev1"})
    view.show({"phase": "dev1", "step": 31, "done": 31, "total": 40, "time/step": 2.0})  # resumed after step 30
    assert view.seconds_left() == pytest.approx(18.0, abs=1)
    view.show({"phase": "begin", "stage": "dev2", "metrics": tmp_path / "none", "section": settings.r1.dev2})  # type: ignore[union-attr]
    assert (view.step, view.steps) == (0, 1)
    view.show({"phase": "step", "step": 1, "total": 1, "time/step": 1.0})
    assert "dev2, 4 of 21  step 1/1" in capsys.readouterr().out


def test_the_panel_shows_every_stage(tmp_path: Path) -> None:
    from rich.console import Console

    found = recipes.load("r1-tiny")
    settings = recipes.resolve(found)
    view = live.View(settings, tmp_path, None, True, stages.planned(found, settings), "dev3")
    for name in ("zero", "cold-start"):
        view.show({"phase": "begin", "stage": name})
    with open(os.devnull, "w") as nowhere:
        console = Console(width=100, force_terminal=True, color_system=None, record=True, file=nowhere)
        console.print(view.panel())
    text = console.export_text()
    for part in ("r1-tiny: cold-start, 2 of 21", "✓ zero", "▸ cold-start", "· dev1", "· dev3"):
        assert part in text, text
    assert "pairs" not in text  # it stops before


# how a run is begun


def test_every_learner_is_settled_when_a_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A precision that is measured is measured once, for all stages: a resumed run must not measure another."""
    from incentive.model import checkpoint

    asked = []
    monkeypatch.setattr(checkpoint, "fastest_dtype", lambda device: asked.append(device) or "bfloat16")
    found = recipes._measured(recipes.resolve(recipes.load("r1-tiny")))
    text = json.dumps(found.model_dump(mode="json"))
    assert '"learner": {"dtype": "bfloat16"' in text
    assert '"learner": {"dtype": "auto"' not in text
    assert asked == ["cpu"]
    monkeypatch.setattr(plan, "micro_batch", lambda *_: 512)
    said: list[str] = []
    found = recipes._measured(found, said.append)
    assert found.r1
    assert (found.r1.dev2.learner.tokens_per_micro_batch, found.r1.dev3.learner.tokens_per_micro_batch) == (512, 4096)
    assert any(line.startswith("r1.dev2.learner.tokens_per_micro_batch is lowered to 512") for line in said)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_begins_goes_on_or_says_that_it_is_done(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.done").touch()
    called = tmp_path / ".venv/bin/incentive"
    called.parent.mkdir()
    called.write_text('#!/bin/sh\necho "$@"\n')
    called.chmod(0o755)

    def make(*args: str) -> str:
        done = subprocess.run(
            ["make", "--no-print-directory", *args], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert make("r1") == "run r1-mini --run runs/r1-mini"
    assert make("zero") == "run zero-mini --run runs/zero-mini"
    for name in ("r1-mini", "mine"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").touch()
    assert make("r1") == "run r1-mini --run runs/r1-mini --resume"
    assert make("zero", "RUN=runs/mine") == "run zero-mini --run runs/mine --resume"
    (tmp_path / "runs/mine/done.json").touch()
    assert make("zero", "RUN=runs/mine").startswith("runs/mine is done: its report is runs/mine/report.html")
