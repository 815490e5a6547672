"""The run directory under what happens to it: kills at any moment, full disks, two processes, changed settings."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incentive import config
from incentive.files import RunError, write_folder, write_json
from incentive.keys import Artifact, counting, environment, folder_key
from incentive.records import Group, Problem, Sample, Score
from incentive.run import Run, stored_config
from incentive.stage import Interrupt, Stage, Stopped


def settings(recipe: str = "toy", seed: int = 0, **rl: object) -> config.Run:
    return config.build({"recipe": recipe, "seed": seed, "rl": {"max_steps": 6, "save_steps": 2, **rl}})


def group(step: int) -> Group:
    logp = np.asarray([-0.1 * step, -1 / 3], dtype=np.float32)
    ids = np.asarray([1, step])
    sample = Sample("s", "p", ids, ids, np.asarray([True, False]), logp, 1.0, "stop", (step, step), 7, "größer")
    return Group(Problem("p", "1 2 3", "make 6", 6), [sample], [Score(None, {"accuracy": 1.0}, "no verdict")])


def learn(stage: Stage, section: config.RL, die: int = 0, **_: object) -> Artifact:
    """A stage in the shape of all: a running product stands for the weights, so a lost or doubled step shows."""
    found = stage.resume()
    step, state, best = 0, 1.0, 0.0
    if found:
        step = found[0]
        saved = json.loads((found[1] / "state.json").read_text())
        state, best = saved["state"], saved["best"]
    elif section.eval_steps:
        stage.record({"step": 0, "probe": 0.5})
    while step < section.max_steps:
        step += 1
        state = state * 1.1 + step * (2 if section.beta > 0.01 else 1)
        stage.rollouts(step, [group(step)])
        stage.record({"step": step, "loss": state})
        if step == die:
            os.kill(os.getpid(), signal.SIGKILL)
        if state % 7 > best:
            best = state % 7
            write_json(stage.dir / "best.json", {"step": step, "value": best})
        if step % section.save_steps == 0 or step == section.max_steps or stage.stopping:
            with stage.checkpoint(step) as tmp:
                (tmp / "state.json").write_text(json.dumps({"state": state, "best": best}))
            stage.prune_checkpoints()
        if stage.stopping:
            raise stage.stopped(step)
    with write_folder(stage.dir / "model") as tmp:
        (tmp / "weights").write_text(repr(state))
    return Artifact("weights", stage.dir / "model", meta={"step": step})


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(
    directory: Path, cfg: config.Run, resume: bool = False, fn: Any = learn, **kw: Any
) -> tuple[Artifact, list[str]]:
    said: list[str] = []
    with Run.open(directory, cfg, resume=resume, say=said.append, **kw) as r:
        return r.stage("zero", fn, cfg.rl), said


def steps_of(stage_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (stage_dir / "metrics.jsonl").read_text().splitlines()]


# --- creating and reopening ---


def test_layout_and_no_machine_in_it(tmp_path: Path):
    artifact, _ = run(tmp_path / "r", settings())
    names = {p.name for p in (tmp_path / "r").iterdir()}
    assert names == {"config.toml", "environment.json", "run.json", "lock", "zero"}
    assert config.build(stored_config(tmp_path / "r") or {}) == settings()
    env = (tmp_path / "r/environment.json").read_text()
    assert os.uname().nodename not in json.loads(env).values()
    assert str(Path(__file__).parents[1]) not in env
    assert json.loads(env)["torch"]
    assert "torch" not in subprocess.run(
        [sys.executable, "-c", "import incentive.run, sys; print([m for m in sys.modules if m == 'torch'])"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert artifact.path == tmp_path / "r/zero/model"
    assert (tmp_path / "r/zero/done.json").exists()


def test_used_directory_is_refused(tmp_path: Path):
    run(tmp_path, settings())
    before = tree(tmp_path)
    with pytest.raises(RunError, match=r"used by recipe toy at step 6 of zero\nAdd --resume to go on or choose"):
        run(tmp_path, settings(max_steps=9))
    with pytest.raises(RunError, match="belongs to recipe toy, not other"):
        run(tmp_path, settings("other"), resume=True)
    before.pop("lock")
    assert before.items() <= tree(tmp_path).items()


def test_half_made_directory_starts(tmp_path: Path):
    """Killed before run.json: nothing was made yet."""
    for name in ("lock", "config.toml", ".environment.json.tmp"):
        (tmp_path / name).write_text("")
    _, said = run(tmp_path, settings(), resume=True)
    assert "nothing to resume" in said[0]


def test_bad_directories(tmp_path: Path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(RunError, match="is a file"):
        run(tmp_path / "file", settings())
    with pytest.raises(RunError, match="is a file, not a folder"):
        run(tmp_path / "file/under", settings())
    with pytest.raises(RunError, match="holds other files and no run"):
        run(tmp_path, settings(), resume=True)
    assert (tmp_path / "file").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="no permission"):
        run(tmp_path / "r", settings())


def test_no_permission_as_an_error_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match="no permission"):
        run(tmp_path / "r", settings())


def test_newer_schema(tmp_path: Path):
    run(tmp_path, settings())
    write_json(tmp_path / "run.json", {"schema": 99, "recipe": "toy"})
    with pytest.raises(RunError, match="schema"):
        run(tmp_path, settings(), resume=True)


# --- kills ---


def killed(directory: Path, die: int, resume: bool = False) -> None:
    code = (
        "import functools, pathlib, sys; sys.path.insert(0, sys.argv[1]); import test_run as t\n"
        "t.run(pathlib.Path(sys.argv[2]), t.settings(), resume=sys.argv[4] == 'True',"
        " fn=functools.partial(t.learn, die=int(sys.argv[3])))"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, here, str(directory), str(die), str(resume)], timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("deaths", [[1], [3], [1, 5, 5, 6]])
def test_kill_and_resume_gives_the_same_files(tmp_path: Path, deaths: list[int]):
    run(tmp_path / "whole", settings())
    for i, die in enumerate(deaths):
        killed(tmp_path / "cut", die, resume=i > 0)
    run(tmp_path / "cut", settings(), resume=True)
    assert tree(tmp_path / "cut/zero") == tree(tmp_path / "whole/zero")


def test_torn_files_are_forgotten(tmp_path: Path):
    """What a SIGKILL inside a write leaves: half a metrics line, half a checkpoint, half a rollout file."""
    run(tmp_path / "whole", settings())
    killed(tmp_path / "cut", 5)
    zero = tmp_path / "cut/zero"
    with (zero / "metrics.jsonl").open("ab") as f:
        f.write(b'{"step": 3, "lo')
    for torn in ("checkpoints/.step-000006.tmp", ".model.tmp"):
        (zero / torn).mkdir()
        (zero / torn / "state.json").write_text("{")
    (zero / "rollouts/.000005.jsonl.zst.tmp").write_text("x")
    run(tmp_path / "cut", settings(), resume=True)
    assert tree(tmp_path / "cut/zero") == tree(tmp_path / "whole/zero")


def damage(path: Path, how: str) -> None:
    if how == "flip":
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    elif how == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "gone":
        path.unlink()
    else:
        (path.parent / "manifest.json").write_text('{"files"')


@pytest.mark.parametrize("how", ["flip", "short", "gone", "manifest"])
def test_damaged_checkpoint_falls_back(tmp_path: Path, how: str):
    run(tmp_path / "whole", settings())
    killed(tmp_path / "cut", 5)
    damage(tmp_path / "cut/zero/checkpoints/step-000004/state.json", how)
    _, said = run(tmp_path / "cut", settings(), resume=True)
    assert any("step-000004 is damaged" in text for text in said)
    assert tree(tmp_path / "cut/zero") == tree(tmp_path / "whole/zero")


def test_all_checkpoints_damaged_loses_nothing(tmp_path: Path):
    killed(tmp_path, 5)
    for state in tmp_path.glob("zero/checkpoints/*/state.json"):
        damage(state, "flip")
    before = (tmp_path / "zero/metrics.jsonl").read_bytes()
    for _ in range(2):  # the second try must not mistake it for a fresh stage
        with pytest.raises(RunError, match="every checkpoint is damaged"):
            run(tmp_path, settings(), resume=True)
    assert (tmp_path / "zero/metrics.jsonl").read_bytes() == before


# --- stages ---


def test_memo_and_extension(tmp_path: Path):
    first, _ = run(tmp_path / "r", settings())
    again, said = run(tmp_path / "r", settings(), resume=True, fn=None)  # calling it would fail
    assert again == first
    assert said == ["zero: done"]
    fewer, said = run(tmp_path / "r", settings(max_steps=3, save_steps=5, keep="last"), resume=True, fn=None)
    assert fewer == first
    assert said[-1] == "zero: done (6 steps, 3 asked)"
    more, said = run(tmp_path / "r", settings(max_steps=10), resume=True)
    assert said[-1] == "zero: 6 steps are done, on to 10"
    assert more.key != first.key, "what follows from an extended stage must be made again"
    straight, _ = run(tmp_path / "straight", settings(max_steps=10))
    assert more.key == straight.key
    assert tree(tmp_path / "r/zero") == tree(tmp_path / "straight/zero")


def test_extension_killed_is_not_done(tmp_path: Path):
    run(tmp_path, settings())

    def boom(stage: Stage, _: config.RL, **__: object) -> Artifact:
        stage.resume()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, settings(max_steps=10), resume=True, fn=boom)
    assert not (tmp_path / "zero/done.json").exists()


def test_changed_key_steps_aside_and_comes_back(tmp_path: Path):
    first, _ = run(tmp_path, settings())
    before = tree(tmp_path / "zero")
    second, said = run(tmp_path, settings(beta=0.1), resume=True)
    (old,) = tmp_path.glob("zero.old-*")
    assert tree(old) == before
    assert "rl.beta 0.001 -> 0.1" in said[0]
    assert "section.beta 0.001 -> 0.1" in said[1]
    assert str(old) in said[1]
    assert second.key != first.key
    third, said = run(tmp_path, settings(), resume=True, fn=None)
    assert third == first
    assert tree(tmp_path / "zero") == before
    assert len(list(tmp_path.glob("zero.old-*"))) == 1


def test_what_counts_in_a_key(tmp_path: Path):
    def key(cfg: config.Run, **kw: Any) -> str:
        directory = tmp_path / str(len(list(tmp_path.iterdir())))

        def fn(stage: Stage, _: config.RL, **__: object) -> Artifact:
            return Artifact("eval", stage.dir)

        with Run.open(directory, cfg, say=lambda _: None) as r:
            r.stage("zero", fn, cfg.rl, **kw)
        return json.loads((directory / "zero/stage.json").read_text())["key"]

    base, other = Artifact("weights", tmp_path, "a"), Artifact("weights", tmp_path, "b")
    same = key(settings(), start=base, template="mini")
    assert same == key(settings(save_steps=3, keep="last"), start=base, template="mini")
    variants = [
        key(settings(), start=other, template="mini"),
        key(settings(), start=base, template="chat"),
        key(settings(), start=base, template="mini", data=[other]),
        key(settings(seed=1), start=base, template="mini"),
        key(settings(beta=0.5), start=base, template="mini"),
        key(settings(), start=base, template="mini", policy=other),
        key(settings(), start=base, template="mini", task=learn),
    ]
    assert len({same, *variants}) == 1 + len(variants)
    # under a schedule the last step shapes every step: more steps are another run
    assert key(settings()) == key(settings(max_steps=7))
    cosine: Any = {"optim": {"lr_scheduler_type": "cosine"}}
    assert key(settings(**cosine)) != key(settings(max_steps=7, **cosine))


def test_folder_key(tmp_path: Path):
    with pytest.raises(RunError, match="no model here"):
        folder_key(tmp_path)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    key = folder_key(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert folder_key(tmp_path) == key
    (tmp_path / "tokenizer.json").write_text("other")
    assert folder_key(tmp_path) != key


def test_a_setting_that_came_later_counts_where_it_is_not_its_default():
    """So that runs made before it go on, and the same stage elsewhere is another."""
    asked = config.Eval(tasks=("countdown3",))
    assert "device" not in counting(asked)
    assert counting(asked.model_copy(update={"device": "cuda"}))["device"] == "cuda"
    assert counting(config.RL(tasks={"countdown3": 1.0}))["learner"]["device"] == "cpu"


def test_inputs_are_lineage_and_names_are_unique(tmp_path: Path):
    with Run.open(tmp_path, settings(), say=lambda _: None) as r:
        base = Artifact("weights", tmp_path, "base")
        zero = r.stage("zero", learn, r.config.rl, start=base)
        assert zero.inputs == ("base",)
        with pytest.raises(ValueError, match="used once"):
            r.stage("zero", learn, r.config.rl, start=zero)
        with pytest.raises(ValueError, match="lower-case"):
            r.stage("../zero", learn, r.config.rl)
        r.finish({"steps": 6})
        assert (tmp_path / "done.json").exists()
    with Run.open(tmp_path, settings(max_steps=8), resume=True, say=lambda _: None) as r:
        r.stage("zero", learn, r.config.rl, start=base)
        assert not (tmp_path / "done.json").exists()


def test_moved_run_directory(tmp_path: Path):
    run(tmp_path / "a", settings())
    (tmp_path / "a").rename(tmp_path / "b")
    artifact, _ = run(tmp_path / "b", settings(), resume=True, fn=None)
    assert artifact.path == tmp_path / "b/zero/model"


def test_deleted_model_is_made_again(tmp_path: Path):
    first, _ = run(tmp_path, settings())
    before = tree(tmp_path / "zero")
    shutil.rmtree(first.path)
    assert run(tmp_path, settings(), resume=True)[0] == first
    assert tree(tmp_path / "zero") == before


def test_other_environment_warns(tmp_path: Path):
    run(tmp_path, settings())
    path = tmp_path / "environment.json"
    env = json.loads(path.read_text())
    path.write_text(json.dumps({**env, "torch": "2.0.0", "threads": 8, "code": "abc", "platform": "Plan 9"}))
    _, said = run(tmp_path, settings(), resume=True)
    assert said[0].startswith("warning: torch 2.0.0 -> ")
    assert "threads 8 -> 2" in said[0]
    assert "code abc -> " in said[0]
    assert "Plan 9" not in said[0]
    assert "results may differ" in said[0]
    assert json.loads(path.read_text())["earlier"][0]["torch"] == "2.0.0"
    _, said = run(tmp_path, settings(), resume=True)
    assert said == ["zero: done"]
    assert json.loads(path.read_text())["earlier"][0]["torch"] == "2.0.0"
    assert environment(2) == environment(2)


# --- a full disk ---


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_at_creation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match="disk full"):
            run(tmp_path / "r", settings())
    run(tmp_path / "r", settings())  # the lock is free again and nothing is in the way


# --- two processes, and signals ---

HOLD = """
import os, sys, time
from incentive import config
from incentive.run import Run
run = Run.open(sys.argv[1], config.build({"recipe": "toy", "rl": {}}), resume=True, say=lambda _: None)
if sys.argv[2] == "plain" or os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["plain", "fork"])
def test_two_processes(tmp_path: Path, how: str):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), how], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    child = int(holder.stdout.readline())
    try:
        for resume in (True, False):
            with pytest.raises(RunError, match=f"in use by pid {holder.pid} on "):
                run(tmp_path, settings(), resume=resume)
        holder.kill()
        holder.wait()
        run(tmp_path, settings(), resume=True)  # a stale lock file, and perhaps an orphaned worker, are no obstacle
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        if how == "fork":
            os.kill(child, signal.SIGKILL)


def test_interrupted_stage_saves_and_says_how_to_go_on(tmp_path: Path):
    run(tmp_path / "whole", settings())
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped, match=rf"step 1 of zero.*incentive run toy --run '{tmp_path}/a b' --resume"):
            run(tmp_path / "a b", settings(), interrupt=interrupt)
    assert signal.getsignal(signal.SIGINT) == before
    run(tmp_path / "a b", settings(), resume=True)
    assert tree(tmp_path / "a b/zero") == tree(tmp_path / "whole/zero")
