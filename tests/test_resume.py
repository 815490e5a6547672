"""Stop or kill a run anywhere and go on: the metrics, rollouts and weights are those of the run never stopped.

The long check, twenty kills at random moments, is `prove/kills.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from incentive import config, rewards
from incentive.files import RunError
from incentive.hacking import Fall, Watch
from incentive.keys import Artifact, folder_key
from incentive.model.checkpoint import resolve
from incentive.records import Group
from incentive.run import Run
from incentive.stage import Stopped
from incentive.stages.pretrain import pretrain
from incentive.stages.rl import describe, rl
from incentive.tasks import SHIPPED, Mixture

RL: dict[str, Any] = {
    "tasks": {"arithmetic": 1.0}, "max_steps": 5, "problems_per_step": 2, "num_generations": 4, "eval_steps": 2,
    "eval_problems": 2, "save_steps": 2, "sampling": {"max_tokens": 10}, "optim": {"learning_rate": 1e-2},
    "engine": {"max_num_seqs": 6}, "rewards": {"accuracy": 1.0, "format": 1.0, "coin": 1.0},
}  # fmt: skip
ONE_BY_ONE = {**RL, "beta": 0.0, "save_steps": 1}
REFRESHED = {**RL, "beta": 0.05, "ref_sync_steps": 3, "steps_per_generation": 2, "epsilon": 0.2}
DYNAMIC = {**RL, "dynamic_sampling": True, "beta": 0.0, "steps_per_generation": 2}


class Asked:
    """An interrupt that comes at a chosen moment: when the stage has shown `kind` for the n-th time."""

    def __init__(self, kind: str = "step", after: int = 0):
        self.kind, self.left, self.requested = kind, after, False

    def show(self, event: dict[str, Any]) -> None:
        if event["phase"] == self.kind:
            self.left -= 1
            self.requested = self.requested or self.left == 0


def train(folder: Path, model: Path, settings: dict[str, Any], asked: Asked | None = None) -> Artifact:
    """The stage of `zero-tiny` with tiny settings, opened or gone on with."""
    asked = asked or Asked()
    cfg = config.build({"recipe": "resume-test", "base": str(model), "threads": 1, "rl": settings})
    assert cfg.rl
    task = Mixture({n: SHIPPED[n] for n in cfg.rl.tasks}, cfg.rl.tasks)
    grade = rewards.each(rewards.shipped(task.check), cfg.rl.rewards)
    start = Artifact("weights", resolve(model), folder_key(model))
    resume = (folder / "run.json").exists()
    with Run.open(folder, cfg, resume, asked, say=lambda _: None) as run:  # type: ignore[arg-type]
        return run.stage("zero", partial(rl, show=asked.show), cfg.rl, start=start, task=task, grade=grade)


def rows(stage: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = (stage / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def files(stage: Path) -> dict[str, bytes]:
    """All that must be the same bit for bit: models, rollouts, the best, the checkpoints that stay."""
    kept = ("model/", "best/", "rollouts/", "checkpoints/", "corpus/", "best.json")
    names = {p.relative_to(stage).as_posix(): p for p in sorted(stage.rglob("*")) if p.is_file()}
    return {n: p.read_bytes() for n, p in names.items() if n.startswith(kept)}


def agree(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    x, y = files(a), files(b)
    assert x.keys() == y.keys()
    assert [n for n in x if x[n] != y[n]] == []
    assert "model/model.safetensors" in x


# reinforcement learning


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run never stopped, by settings; made once for each."""
    made: dict[str, Path] = {}

    def get(settings: dict[str, Any]) -> Path:
        key = json.dumps(settings, sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "run"
            train(made[key], tiny_model, settings)
        return made[key] / "zero"

    return get


@pytest.mark.parametrize("settings", [ONE_BY_ONE, REFRESHED, DYNAMIC], ids=["one-by-one", "refreshed", "dynamic"])
def test_stop_at_every_step(settings: dict[str, Any], whole: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Each sitting ends as soon as it may: after one rollout."""
    sittings = 0
    while True:
        sittings += 1
        try:
            train(tmp_path / "run", tiny_model, settings, Asked("rollout", 1))
            break
        except Stopped:
            assert sittings < 10
    assert sittings == -(-settings["max_steps"] // settings.get("steps_per_generation", 1))
    stopped, through = tmp_path / "run/zero", whole(settings)
    for stage in (stopped, through):  # a stop saves a checkpoint more; the last is common to both
        for path in (stage / "checkpoints").iterdir():
            if path.name != f"step-{settings['max_steps']:06d}":
                shutil.rmtree(path)
    agree(stopped, through)


class Killed(BaseException):
    """Takes the place of a SIGKILL within the process: nothing is saved any more."""


@pytest.mark.parametrize(
    "moment", [("sampling", 1), ("rollout", 2), ("update", 4), ("step", 3), ("step", 5), ("probe", 2)]
)
@pytest.mark.parametrize("settings", [REFRESHED], ids=["refreshed"])
def test_break_off_between_checkpoints(
    moment: tuple[str, int], settings: dict[str, Any], whole: Any, tiny_model: Path, tmp_path: Path
) -> None:
    class Dies(Asked):
        def show(self, event: dict[str, Any]) -> None:
            super().show(event)
            if self.requested:
                raise Killed

    try:
        train(tmp_path / "run", tiny_model, settings, Dies(*moment))
        assert moment[0] == "sampling"  # shown by the clock only, so perhaps never
    except Killed:
        train(tmp_path / "run", tiny_model, settings)
    through = whole(settings)
    assert rows(tmp_path / "run/zero") == rows(through)
    model = "model/model.safetensors"
    assert (tmp_path / "run/zero" / model).read_bytes() == (through / model).read_bytes()


@pytest.mark.parametrize("settings", [REFRESHED, DYNAMIC], ids=["refreshed", "dynamic"])
def test_run_ends_at_max_steps_with_a_smaller_last_rollout(settings: dict[str, Any], whole: Any) -> None:
    """Five steps of rollouts that feed two: the last rollout feeds one, and draws as many problems as one needs."""
    from incentive.stage import Stage

    stage = whole(settings)
    assert [r["step"] for r in rows(stage)] == [0, 1, 2, 3, 4, 5]
    assert sorted(p.name[:6] for p in (stage / "rollouts").iterdir()) == ["000001", "000003", "000005"]
    drawn = [len(Stage(stage).read_rollouts(s)) for s in (1, 3, 5)]
    assert max(drawn[:2]) <= 4
    assert drawn[2] <= 2
    if not settings.get("dynamic_sampling"):
        assert drawn == [4, 4, 2]
    assert "val/accuracy" in rows(stage)[-1]


def test_weights_moved_and_the_reference_counted(whole: Any, tiny_model: Path) -> None:
    """Guards the tests above: a run that learns nothing would resume exactly, too."""
    told = rows(whole(REFRESHED))
    assert all(r["grad_norm"] > 0 for r in told[1:])
    assert told[2]["kl"] > 0
    model = (whole(REFRESHED) / "model/model.safetensors").read_bytes()
    assert model != (tiny_model / "model.safetensors").read_bytes()


def test_more_steps_extend_a_run(whole: Any, tiny_model: Path, tmp_path: Path) -> None:
    short = {**ONE_BY_ONE, "max_steps": 3, "eval_steps": 0}
    train(tmp_path / "run", tiny_model, short)
    train(tmp_path / "run", tiny_model, {**short, "max_steps": 5})
    through = whole({**ONE_BY_ONE, "eval_steps": 0})
    assert rows(tmp_path / "run/zero") == rows(through)
    model = "model/model.safetensors"
    assert (tmp_path / "run/zero" / model).read_bytes() == (through / model).read_bytes()


def test_describe_names_every_reward(whole: Any) -> None:
    from incentive.stage import Stage

    groups: list[Group] = Stage(whole(ONE_BY_ONE)).read_rollouts(1)
    told = describe(groups, RL["rewards"])
    assert {f"rewards/{n}/mean" for n in RL["rewards"]} <= told.keys()
    first = rows(whole(ONE_BY_ONE))[1]
    assert {k: first[k] for k in told} == json.loads(json.dumps(told))


# pretraining


PRETRAIN: dict[str, Any] = {
    "documents": 250, "tokens_per_step": 2500, "save_seconds": 1e-9,
    "model": {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 48, "vocab_size": 320, "max_position_embeddings": 512,
    },
    "optim": {"optimizer": "muon", "learning_rate": 5e-3, "lr_scheduler_type": "cosine", "warmup_steps": 2},
}  # fmt: skip


def make_base(folder: Path, asked: Asked | None = None, **more: Any) -> Path:
    asked = asked or Asked()
    cfg = config.build({"recipe": "resume-test", "threads": 1, "pretrain": {**PRETRAIN, **more}})
    with Run.open(folder, cfg, (folder / "run.json").exists(), asked, say=lambda _: None) as run:  # type: ignore[arg-type]
        run.stage("base", partial(pretrain, show=asked.show), cfg.pretrain)
    return folder / "base"


def test_pretraining_stopped_and_gone_on_with(tmp_path: Path) -> None:
    through = make_base(tmp_path / "through", save_seconds=1e9)
    steps = rows(through)[-1]["step"]
    assert steps >= 5
    for after in (1, 2):
        with pytest.raises(Stopped):
            make_base(tmp_path / "stopped", Asked("pretrain", after))
    stopped = make_base(tmp_path / "stopped")
    assert rows(stopped) == rows(through)
    assert rows(through)[-1]["nll"] < rows(through)[0]["nll"]
    for name in ("model/model.safetensors", "model/tokenizer.json", "corpus/tokens.npy", "model/corpus_keys.npy"):
        assert (stopped / name).read_bytes() == (through / name).read_bytes()


# a real SIGKILL


def command(recipe: str, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "incentive", "run", recipe, "--run", str(folder), "--plain", *more]


def test_sigkill_of_the_command_at_a_random_moment(tiny_model: Path, tmp_path: Path) -> None:
    """The moment is drawn within the steps of the run: a while after its first metrics, which a pipe would not slow."""
    plain = {
        "base": tiny_model, "threads": 1, "rl.max_steps": 12, "rl.problems_per_step": 2, "rl.num_generations": 4,
        "rl.sampling.max_tokens": 16, "rl.steps_per_generation": 2, "rl.beta": 0.01, "rl.ref_sync_steps": 3,
        "rl.save_steps": 2, "rl.eval_steps": 4, "rl.eval_problems": 2, "eval.problems": 2, "eval.samples": 2,
        "eval.sampling.max_tokens": 16,
    }  # fmt: skip
    sets = [x for k, v in plain.items() for x in ("--set", f"{k}={v}")]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command("zero-tiny", tmp_path / "through", *sets), check=True, env=environment, **quiet)
    child = subprocess.Popen(command("zero-tiny", tmp_path / "killed", *sets), env=environment, **quiet)
    metrics, wanted = tmp_path / "killed/zero/metrics.jsonl", random.randrange(1, 10)
    while child.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= wanted):
        time.sleep(0.002)
    time.sleep(random.random() * 0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    assert not (tmp_path / "killed/done.json").exists()
    subprocess.run(command("zero-tiny", tmp_path / "killed", "--resume"), check=True, env=environment, **quiet)
    agree(tmp_path / "killed/zero", tmp_path / "through/zero")
    after = "after/results.json"
    assert (tmp_path / "killed" / after).read_bytes() == (tmp_path / "through" / after).read_bytes()


# the hacking monitor within the stage


class Alarm:
    """A monitor that sees a fall at its third look, and would go back to the first."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def see(self, **look: Any) -> list[Fall]:
        self.seen.append(look)
        return [Fall("code", look["step"], 2, 0.9, 0.5, (0.3, 0.5), 0.1, 0.8)] if len(self.seen) == 3 else []


WATCHED: dict[str, Any] = {**RL, "max_steps": 6, "eval_steps": 2, "save_steps": 1}


def watched(
    folder: Path, model: Path, steps: int, stops: tuple[tuple[str, int], ...] = ()
) -> tuple[Artifact, list[str]]:
    """The stage with a monitor, stopped and gone on with; the artifact, and what was said."""
    cfg = config.build(
        {"recipe": "resume-test", "base": str(model), "threads": 1, "rl": {**WATCHED, "max_steps": steps}}
    )
    assert cfg.rl
    task = Mixture({n: SHIPPED[n] for n in cfg.rl.tasks}, cfg.rl.tasks)
    grade = rewards.each(rewards.shipped(task.check), cfg.rl.rewards)
    start = Artifact("weights", resolve(model), folder_key(model))
    how: dict[str, Any] = {
        "start": start,
        "task": task,
        "grade": grade,
        "watch": Watch("coin", {"code": ("arithmetic",)}),
    }
    said: list[str] = []
    for asked in [*(Asked(*s) for s in stops), Asked()]:
        resume = (folder / "run.json").exists()
        with Run.open(folder, cfg, resume, asked, say=said.append) as run, contextlib.suppress(Stopped):  # type: ignore[arg-type]
            artifact = run.stage("zero", partial(rl, show=asked.show), cfg.rl, **how)
    return artifact, said


def weights(folder: Path) -> bytes:
    return (folder / "zero/model/model.safetensors").read_bytes()


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> list[Alarm]:
    made: list[Alarm] = []
    monkeypatch.setattr("incentive.stages.rl.Monitor", lambda: made.append(Alarm()) or made[-1])
    return made


@pytest.mark.parametrize("stops", [(), (("rollout", 3),), (("rollout", 1), ("rollout", 4))])
def test_a_gamed_stage_ends_with_the_weights_before_the_fall(
    stops: tuple[tuple[str, int], ...], tiny_model: Path, tmp_path: Path, alarms: list[Alarm]
) -> None:
    artifact, said = watched(tmp_path, tiny_model, 6, stops)
    looks = [json.loads(line) for line in (tmp_path / "zero/looks.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks] == [2, 4, 6] == [look["step"] for look in alarms[-1].seen]
    coins = [row["rewards/coin/mean"] for row in rows(tmp_path / "zero") if "rewards/coin/mean" in row]
    assert [look["reward"] for look in looks] == pytest.approx([sum(coins[i : i + 2]) / 2 for i in (0, 2, 4)])
    assert all(len(look["truths"]["code"]) == 2 for look in looks)
    assert artifact.meta["kept_step"] == 2
    assert any("gamed" in line and "step 2" in line for line in said)
    train(tmp_path / "plain", tiny_model, {**WATCHED, "max_steps": 2})
    assert weights(tmp_path) == weights(tmp_path / "plain")


@pytest.mark.usefixtures("alarms")
def test_a_fall_seen_after_an_extension_leads_back_to_weights_from_before_it(tiny_model: Path, tmp_path: Path) -> None:
    assert watched(tmp_path / "run", tiny_model, 4)[0].meta["kept_step"] is None
    last = weights(tmp_path / "run")
    assert watched(tmp_path / "run", tiny_model, 6)[0].meta["kept_step"] == 2
    train(tmp_path / "plain", tiny_model, {**WATCHED, "max_steps": 2})
    assert weights(tmp_path / "run") == weights(tmp_path / "plain") != last


@pytest.mark.usefixtures("alarms")
def test_a_stage_whose_looks_are_gone_is_not_gone_on_with(tiny_model: Path, tmp_path: Path) -> None:
    watched(tmp_path, tiny_model, 4)
    shutil.rmtree(tmp_path / "zero/looks")
    with pytest.raises(RunError, match=r"looks/step-000002 is gone(.|\n)*--rerun zero"):
        watched(tmp_path, tiny_model, 6)
