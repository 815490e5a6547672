"""The command line as a user meets it: commands, faults in a line or two with exit code 2, stop and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from incentive import config, live, recipes
from incentive.cli import app
from incentive.panel import sparkline
from incentive.recipes.plan import plan
from incentive.records import Group, Problem, Sample, Score
from incentive.terminal import printable

np = pytest.importorskip("numpy")

SMALL = {
    "threads": 1, "rl.max_steps": 2, "rl.sampling.max_tokens": 24, "rl.problems_per_step": 4, "rl.num_generations": 4,
    "rl.eval_problems": 4, "rl.eval_steps": 2, "rl.save_steps": 1, "eval.problems": 4, "eval.samples": 2,
    "eval.sampling.max_tokens": 24, "eval.also_t1": "false",
}  # fmt: skip


def sets(**more: Any) -> list[str]:
    every = {**SMALL, **{k.replace("__", "."): v for k, v in more.items()}}
    return [x for k, v in every.items() for x in ("--set", f"{k}={v}")]


def call(*args: str | Path, code: int = 0) -> str:
    """stdout and stderr of a command that ends with `code`."""
    done = CliRunner().invoke(app, [str(a) for a in args])
    text = done.stdout + done.stderr
    assert done.exit_code == code, (text, done.exception)
    return text


def mistake(*args: str | Path) -> str:
    """The message of a user's mistake: at most two lines, no traceback."""
    text = call(*args, code=2)
    assert "Traceback" not in text
    told = [line for line in text.strip().splitlines() if not line.startswith("warning:")]  # another commit, say
    assert len(told) <= 2, text
    return text


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that went through, and what it printed."""
    run = tmp_path_factory.mktemp("cli") / "run"
    return run, call("run", "zero-tiny", "--run", run, "--plain", "--seed", "3", *sets(base=tiny_model))


# help and lists


def test_help_names_every_recipe_and_command() -> None:
    text = call("run", "--help")
    assert all(name in text for name in recipes.RECIPES)
    assert all(c in call("--help") for c in ("run", "eval", "sample", "compare", "report", "tasks"))


def test_cli_and_package_import_no_torch() -> None:
    code = "import sys, incentive, incentive.cli, incentive.recipes, incentive.live; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_tasks_show_an_example_each() -> None:
    from incentive.tasks import SHIPPED

    text = call("tasks")
    assert all(name in text for name in SHIPPED)
    assert text.count("problem:") == len(SHIPPED)


def test_closed_pipe_ends_quietly() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "incentive", "tasks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == 141
    child.stderr.close()


# mistakes


def test_unknown_recipe_setting_task_and_reward_are_named(tmp_path: Path, tiny_model: Path) -> None:
    run = tmp_path / "run"
    base = ["--run", run, "--set", f"base={tiny_model}"]
    assert "did you mean 'zero-mini'?" in mistake("run", "zero-mni", "--run", run)
    assert "did you mean 'rl.num_generations'?" in mistake("run", "zero-mini", "--set", "rl.num_generation=4")
    assert "rl.max_steps" in mistake("run", "zero-mini", "--set", "rl.max_steps=many")
    assert "rl.num_generations" in mistake("run", "zero-mini", "--set", "rl.num_generations=1")
    assert "did you mean 'countdown3'?" in mistake("run", "zero-mini", *base, "--set", "rl.tasks={countdwn3=1.0}")
    assert "did you mean 'accuracy'?" in mistake("run", "zero-mini", *base, "--set", "rl.rewards={acuracy=1.0}")
    assert "key=value" in mistake("run", "zero-mini", "--set", "rl.max_steps")
    assert not run.exists()


def test_missing_base_leaves_nothing_behind(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "no such model" in mistake("run", "zero-tiny", "--run", run, "--set", "base=/nowhere/at/all")
    assert not run.exists()


def test_nan_base_is_refused_before_step_one_and_the_same_command_works_after(tmp_path: Path, tiny_model: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    bad, run = tmp_path / "bad", tmp_path / "run"
    shutil.copytree(tiny_model, bad)
    weights = load_file(bad / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, bad / "model.safetensors", metadata={"format": "pt"})
    assert torch.isnan(next(iter(weights.values()))).any()
    text = call("run", "zero-tiny", "--run", run, "--plain", *sets(base=bad), code=2)
    assert "NaN" in text
    assert "Traceback" not in text
    assert not run.exists()


def test_run_on_a_file_and_in_a_used_directory(tmp_path: Path, finished: tuple[Path, str], tiny_model: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file" in mistake("run", "zero-tiny", "--run", file)
    used = mistake("run", "zero-tiny", "--run", finished[0], "--set", f"base={tiny_model}")
    assert "--resume" in used
    assert "belongs to recipe" in call(
        "run", "zero-mini", "--run", finished[0], "--resume", *sets(base=tiny_model), code=2
    )


def test_broken_files_are_told_with_their_line(tmp_path: Path) -> None:
    toml, py, jsonl = tmp_path / "a.toml", tmp_path / "a.py", tmp_path / "a.jsonl"
    toml.write_text("recipe = \n")
    assert "a.toml" in mistake("run", toml)
    toml.write_text('recipe = "zero-mini"\n[rl]\nmax_step = 3\n')
    assert "did you mean 'rl.max_steps'?" in mistake("run", toml)
    py.write_text("x = 1\nraise KeyError('gone')\n")
    assert "a.py:2: KeyError" in mistake("run", py)
    py.write_text("x = (\n")
    assert "a.py:1: SyntaxError" in mistake("run", py)
    py.write_text("tasks = {'mine': 3}\n")
    assert "lacks problem()" in mistake("run", py)
    jsonl.write_text('{"prompt": "a", "answer": "1"}\n{"prompt": \n')
    assert "2" in mistake("eval", "nowhere", "--task", jsonl)
    assert "no such file" in mistake("run", "mine.py")


def test_eval_and_sample_mistakes(tiny_model: Path) -> None:
    assert "did you mean 'countdown3'" in mistake("eval", tiny_model, "--task", "countdown33")
    assert "--split" in mistake("eval", tiny_model, "--split", "train")
    assert "template" in mistake("sample", tiny_model, "x", "--template", "nope")
    assert "context is 512" in mistake("sample", tiny_model, "x", "--max-tokens", "9999")
    assert "empty" in mistake("sample", tiny_model, " ")
    assert "no such model" in mistake("sample", "/nowhere", "x")
    assert "temperature" in mistake("sample", tiny_model, "x", "--temperature", "-1")


# plans and recipes


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_every_recipe_resolves_and_has_a_plan(name: str) -> None:
    found = recipes.load(name)
    settings = recipes.resolve(found)
    assert found.doc
    assert config.build(config.tomllib.loads(config.to_toml(settings))) == settings
    assert len(plan(found, settings)) > 3


def test_paper_preset_is_the_papers() -> None:
    rl = recipes.resolve(recipes.load("paper")).rl
    assert rl is not None
    assert (rl.optim.learning_rate, rl.beta, rl.epsilon, rl.num_generations) == (3e-6, 0.001, 10, 16)
    assert (rl.problems_per_step, rl.steps_per_generation, rl.ref_sync_steps, rl.max_steps) == (32, 16, 400, 8200)
    assert (rl.sampling.temperature, rl.sampling.max_tokens) == (1.0, 32768)


def test_dry_run_says_the_arithmetic_and_starts_nothing(tmp_path: Path, tiny_model: Path) -> None:
    run = tmp_path / "run"
    text = call(
        "run", "zero-mini", "--run", run, "--dry-run", "--set", f"base={tiny_model}", "--set", "rl.max_steps=50"
    )
    assert "32 problems x 8 answers = 256 answers" in text
    assert "12,800 answers" in text
    assert "4,096,000 tokens at most" in text
    assert "max_steps = 50" in text
    assert "memory about" in text
    assert not run.exists()


def test_toml_stands_on_a_recipe_and_replaces_shares_whole(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('recipe = "zero-mini"\nseed = 7\n[rl]\ntasks = { logic = 1.0 }\n[rl.optim]\nlearning_rate = 1e-5\n')
    found = recipes.resolve(recipes.load(str(file)))
    assert found.rl is not None
    assert (found.recipe, found.seed, found.rl.tasks) == ("zero-mini", 7, {"logic": 1.0})
    assert found.rl.optim.learning_rate == 1e-5
    assert found.rl.loss_type == "token_mean"


def test_resume_starts_from_the_stored_settings(finished: tuple[Path, str]) -> None:
    stored = recipes.stored_config(finished[0])
    found = recipes.resolve(recipes.load("zero-tiny"), ["rl.max_steps=9"], None, stored)
    assert found.rl is not None
    assert (found.seed, found.rl.max_steps, found.rl.problems_per_step) == (3, 9, 4)


OWN = '''
"""Say the last digit."""
from incentive.records import Problem
from incentive.tasks.base import in_split, streams

class Last:
    name = "last"
    def problem(self, seed, split, i):
        n = next(n for n in (r.randrange(10000) for r in streams("last", seed, split, i)) if in_split(f"last:{n}", split))
        return Problem(f"last/{split}/{seed}/{i}", f"last:{n}", f"last digit of {n}", str(n % 10))
    def check(self, problem, answer): return answer.strip() == problem.answer
    def gold(self, problem): return problem.answer
    def vote_key(self, answer): return answer.strip() or None

def short(problem, samples): return [1.0 if len(s.ids) < 20 else 0.0 for s in samples]

tasks, rewards = [Last()], [short]
'''


def test_own_task_and_reward_in_a_python_file(tmp_path: Path, tiny_model: Path) -> None:
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(OWN)
    more = sets(base=tiny_model, rl__rewards="{accuracy=1.0,short=0.5}", rl__max_steps=1)
    text = call("run", file, "--run", run, "--plain", *more)
    assert "last:" in text
    row = json.loads((run / "zero/metrics.jsonl").read_text().splitlines()[-1])
    assert "rewards/short/mean" in row
    assert "rewards/accuracy/last" in row


# a run


def test_a_run_prints_lines_and_ends_with_what_was_learned(finished: tuple[Path, str]) -> None:
    run, text = finished
    assert text.isascii()
    assert "zero, 2 of 3  step 2/2" in text
    assert "What was learned" in text
    assert "the report: " in text
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["before"]) == set(summary["after"]) == {"countdown3", "countdown4"}
    wanted = {
        "pass@1",
        "pass@2",
        "maj@2",
        "ci95",
        "mean_tokens",
        "reflections_per_response",
        "reflections_per_1k_tokens",
    }
    assert wanted <= set(summary["after"]["countdown3"])
    assert summary["steps"] == 2
    assert summary["tokens"] > 0
    assert summary["train_seconds"] > 0
    assert summary["cost"] > 0
    assert '"groups"' not in (run / "zero/metrics.jsonl").read_text()


def test_rerun_of_a_stage_does_what_follows_too(finished: tuple[Path, str], tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    assert "no such stage" in mistake("run", "zero-tiny", "--run", run, "--rerun", "befor", "--plain")
    before = (run / "zero/metrics.jsonl").read_text()
    text = call("run", "zero-tiny", "--run", run, "--rerun", "zero", "--plain")
    assert "after: runs anew" in text
    assert "before: done" in text
    assert (run / "zero.old-rerun1/metrics.jsonl").read_text() == before
    kept = [json.loads(line)["reward"] for line in before.splitlines() if "reward" in line]
    again = (run / "zero/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["reward"] for line in again if "reward" in line] == kept


def test_ctrl_c_saves_and_resume_finishes_under_an_ascii_locale(tmp_path: Path, tiny_model: Path) -> None:
    run = tmp_path / "run"
    args = ["run", "zero-tiny", "--run", str(run), *sets(base=tiny_model, rl__max_steps=500)]
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONUNBUFFERED": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "incentive", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )  # fmt: skip
    assert child.stdout is not None
    seen = b""
    for line in child.stdout:
        seen += line
        if b"step 2/" in line:
            child.send_signal(signal.SIGINT)
            break
    rest, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert b"--resume" in err
    assert b"Traceback" not in err
    assert (seen + rest).isascii()
    text = call("run", "zero-tiny", "--run", run, "--resume", "--plain", "--set", "rl.max_steps=2")
    assert "What was learned" in text


def test_from_python(tmp_path: Path, tiny_model: Path) -> None:
    import incentive

    small = {"problems": 2, "samples": 2, "also_t1": False, "sampling": {"max_tokens": 16}}
    found = incentive.run_recipe("zero-tiny", tmp_path / "run", base=str(tiny_model), rl=None, eval=small, threads=1)
    assert set(found["before"]) == {"countdown3", "countdown4"}
    assert "after" not in found


# eval, sample, compare, report


def test_eval_prints_json_with_each_problem(tiny_model: Path) -> None:
    text = call("eval", tiny_model, "--problems", 3, "--samples", 2, "--max-tokens", 16, "--json", "--threads", 1)
    found = json.loads(text)
    assert len(found["tasks"]["countdown3"]["by_problem"]) == 3
    assert 0 <= found["tasks"]["countdown3"]["pass@1"] <= 1


def test_sample_shows_answers_and_the_same_seed_repeats(finished: tuple[Path, str]) -> None:
    args = ["sample", finished[0], "use 3,7,25 to make 46", "-n", 2, "--max-tokens", 8, "--raw", "--threads", 1]
    assert call(*args) == call(*args) != call(*args, "--seed", 5)


def eval_json(path: Path, by: dict[str, float], task: str = "countdown3") -> Path:
    path.write_text(json.dumps({"tasks": {task: {"by_problem": by}}}))
    return path


def test_compare_pairs_equal_problems_and_says_so_otherwise(tmp_path: Path, finished: tuple[Path, str]) -> None:
    a = eval_json(tmp_path / "a.json", {f"p{i}": 0.25 * (i % 2) for i in range(60)})
    b = eval_json(tmp_path / "b.json", {f"p{i}": 0.25 * (i % 2) + 0.5 for i in range(60)})
    c = eval_json(tmp_path / "c.json", {f"q{i}": 0.5 for i in range(60)})
    d = eval_json(tmp_path / "d.json", {"p1": 0.5}, "logic")
    found = json.loads(call("compare", a, b, "--json"))["countdown3"]
    assert found["paired"] == 60
    assert found["difference"] == pytest.approx(0.5)
    assert found["p"] < 0.001
    assert "B is better" in call("compare", a, b)
    assert "A is better" in call("compare", b, a)
    assert "no clear difference" in call("compare", a, a)
    assert "not paired" in call("compare", a, c)
    assert "no task in common" in mistake("compare", a, d)
    d.write_text("{}")
    assert "incentive eval --json" in mistake("compare", a, d)
    run = finished[0]
    assert "paired on 4 problems" in call("compare", run / "before", run)


def test_report_needs_a_run(tmp_path: Path, finished: tuple[Path, str]) -> None:
    assert "no run here" in mistake("report", tmp_path)
    assert "report" in call("report", finished[0])


# the view


def test_sparkline_averages_and_clips() -> None:
    assert sparkline([0, 1], 8, 0, 1) == "▁█"
    assert sparkline([0, 0, 1, 1], 2, 0, 1, "_#") == "_#"
    assert sparkline([0, 0], 8, 0) == "▁▁"
    assert sparkline([], 8, 0) == ""


def test_model_text_cannot_drive_the_terminal() -> None:
    assert printable("a\033[2Jb\r\x07\nü") == "a?[2Jb??\nü"
    assert printable("ü", True) == "?"


def group(texts: list[str], right: list[bool]) -> Group:
    ids = [np.zeros(len(t), dtype=np.int64) for t in texts]
    made = [
        Sample(f"p/{i}", "p", ids[0], x, x > 0, np.zeros(len(x), np.float32), 1.0, "stop", (0, 0), i, t)
        for i, (x, t) in enumerate(zip(ids, texts, strict=True))
    ]
    return Group(
        Problem("p", "p", "use 1", "1", {"task": "t"}), made, [Score(1.0, {"accuracy": float(r)}) for r in right]
    )


def test_the_thought_shown_is_right_and_reflects() -> None:
    texts = [
        "<think>wait wait wait</think>",
        "<think>a</think><answer>1</answer>",
        "<think>wait</think><answer>1</answer>",
    ]
    found = live.pick([group(texts, [False, True, True])])
    assert found is not None
    assert found[1].text == texts[2]
    assert live.pick([]) is None


def test_panel_draws_progress_curves_thought_and_findings(tmp_path: Path) -> None:
    from rich.console import Console

    from incentive.guard import Finding

    settings = recipes.resolve(recipes.load("zero-mini"))
    view = live.View(settings, tmp_path, plain=True)
    view.show({"phase": "begin", "stage": "zero", "metrics": Path("none")})
    view.show({"phase": "rollout", "step": 3, "groups": [group(["<think>[b]wait</think><answer>1</answer>"], [True])]})
    for step in range(1, 5):
        row = {"rewards/accuracy/mean": 0.2 * step, "completions/mean_length": 30.0 * step, "time/step": 2.0}
        view.rows.append({"step": step, **row})
    view.step = 4
    view.findings = [Finding("warn", "all cut", "raise it")]
    console = Console(width=100, force_terminal=True, color_system=None, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(view.panel())
    text = console.export_text()
    for part in ("step 4/120", "3 min 52 s left", "right answers", "80%", "[b]wait", "all cut", "a core-hour"):
        assert part in text, text
    console.file.close()


def test_digest_of_a_run_is_what_its_results_say(finished: tuple[Path, str]) -> None:
    from incentive.recipes import findings

    found = findings.digest(finished[0])
    after = found["after"]
    for task, result in after["results"].items():
        assert sum(after["right"][task]) / (result["problems"] * result["samples"]) == pytest.approx(result["pass@1"])
    assert found["before"]["problems"] == after["problems"]
    assert found["config"]["rl"]["learner"]["dtype"] in ("float32", "bfloat16")  # `auto` is settled when a run starts
