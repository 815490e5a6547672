"""One stage's folder: rows, rollouts and checkpoints, cut back on resume, under a full disk; signals that ask it to stop."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_run import full, group, steps_of, tree

from incentive.files import RunError, write_atomic, write_folder, write_json
from incentive.records import group_from_json, to_json
from incentive.stage import Stage, line_of


def test_truncate(tmp_path: Path):
    stage = Stage(tmp_path)
    for step in range(7):
        stage.record({"step": step, "x": step})
        stage.rollouts(step, [group(step)])
        write_json(tmp_path / "best.json", {"step": step})
        if step in (2, 6):
            with stage.checkpoint(step) as tmp:
                (tmp / "w").write_text("w")
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 1}')  # torn: all of a row but its newline
    stage.truncate(2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(lines[:3])
    assert sorted(p.name for p in (tmp_path / "rollouts").iterdir()) == [f"{s:06d}.jsonl.zst" for s in range(3)]
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 2}
    assert list(stage.checkpoints()) == [2]
    stage.truncate(-1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    assert not (tmp_path / "best.json").exists()


def test_resume_without_checkpoint_starts_clean(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.record({"step": 0, "probe": 1.0})
    assert stage.resume() is None
    assert steps_of(tmp_path) == []


def test_metrics_are_strict_json(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.record({"step": 1, "loss": float("nan"), "kl": np.float32("inf"), "n": np.int64(3), "parts": {"a": -np.inf}})
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert row == {
        "step": 1, "loss": None, "kl": None, "n": 3, "parts": {"a": None},
        "nonfinite": {"loss": "nan", "kl": "inf", "parts.a": "-inf"},
    }  # fmt: skip
    with pytest.raises(ValueError, match="needs a step"):
        stage.record({"loss": 1.0})


def test_a_row_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writes: list[bytes] = []

    def write(_: int, data: bytes) -> int:
        writes.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    Stage(tmp_path).record({"step": 1, "text": "größer"})
    assert writes == ['{"step": 1, "text": "größer"}\n'.encode()]


def test_rollouts_round_trip(tmp_path: Path):
    stage = Stage(tmp_path)
    stage.rollouts(3, [group(3), group(4)])
    assert [to_json(g) for g in stage.read_rollouts(3)] == [to_json(group(3)), to_json(group(4))]
    with pytest.raises(RunError, match="no readable rollouts"):
        stage.read_rollouts(4)
    (tmp_path / "rollouts/000003.jsonl.zst").write_bytes(b"torn")
    with pytest.raises(RunError, match="no readable rollouts"):
        stage.read_rollouts(3)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.none() | st.floats(), st.integers())
@settings(max_examples=200, deadline=None)
def test_a_line_is_the_record(logp: list[float], total: float | None, number: int) -> None:
    """Numbers come back bit for bit, whichever encoder wrote them; one that is not finite is told as such."""
    one = group(0)
    sample = replace(one.samples[0], sampler_logp=np.array(logp, np.float32), ids=np.arange(len(logp)))
    score, problem = replace(one.scores[0], total=total), replace(one.problem, tags={"number": number})
    line = line_of(replace(one, problem=problem, samples=[sample], scores=[score]))
    found = group_from_json({k: v for k, v in json.loads(line).items() if k != "nonfinite"})
    assert found.problem == problem
    finite = np.isfinite(logp).all() and (total is None or math.isfinite(total))
    assert ("nonfinite" in json.loads(line)) == (not finite)
    if finite:
        assert found.samples[0].sampler_logp.tobytes() == sample.sampler_logp.tobytes()
        assert found.scores == [score]
        for name in ("ids", "mask", "prompt_ids"):
            assert getattr(found.samples[0], name).tolist() == getattr(sample, name).tolist()


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("all", {*range(1, 241, 8)}),
        ("last", {*range(145, 241, 8)}),
        ("evals", {1, 49, 97, 145, *range(145, 241, 8)}),  # 1 for 0; 49 feeds 50, 97 feeds 100, 145 feeds 150
    ],
)
def test_prune_rollouts(tmp_path: Path, keep: Any, kept: set[int]):
    """One rollout feeds eight updates: the one that an eval step drew from is kept, also when pruning at each."""
    stage = Stage(tmp_path)
    for step in range(1, 241, 8):
        stage.rollouts(step, [])
        stage.prune_rollouts(keep, step + 7, eval_steps=50)
    assert {int(p.name[:6]) for p in (tmp_path / "rollouts").iterdir()} == kept


def test_prune_checkpoints(tmp_path: Path):
    stage = Stage(tmp_path)
    for step in range(1, 6):
        with stage.checkpoint(step) as tmp:
            (tmp / "w").write_text("w")
    stage.prune_checkpoints(keep_last=2, also={1})
    assert list(stage.checkpoints()) == [1, 4, 5]


# --- a full disk, a kill between two renames ---


@pytest.mark.parametrize("call", ["write", "replace"])
def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    write_atomic(tmp_path / "f", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(RunError, match=r"/f: disk full \([\d,]+ MB free\)\n.*--resume"):
            write_atomic(tmp_path / "f", "new")
    assert tree(tmp_path) == {"f": b"old"}


def test_full_disk_leaves_no_half_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stage, write = Stage(tmp_path), os.write
    stage.record({"step": 1})
    calls: Any = iter([lambda fd, data: write(fd, data[:5]), full])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: next(calls)(fd, data))
        with pytest.raises(RunError, match="disk full"):
            stage.record({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), RuntimeError("I/O error: No space left on device")])
def test_full_disk_in_a_checkpoint(tmp_path: Path, error: Exception):
    stage = Stage(tmp_path)
    with stage.checkpoint(1) as tmp:
        (tmp / "w").write_text("w")

    def fail(tmp: Path) -> None:
        (tmp / "w").write_text("half")
        raise error

    with pytest.raises(RunError, match="disk full"), stage.checkpoint(2) as tmp:
        fail(tmp)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    with pytest.raises(KeyError), stage.checkpoint(2):
        raise KeyError("a bug stays a bug")


def test_killed_between_the_two_renames(tmp_path: Path):
    """Replacing a folder takes two renames; between them the old one lies under another name."""
    (tmp_path / ".model.old").mkdir()
    (tmp_path / ".model.old/weights").write_text("old")
    with pytest.raises(ZeroDivisionError), write_folder(tmp_path / "model"):
        raise ZeroDivisionError
    assert tree(tmp_path) == {"model/weights": b"old"}


# --- signals ---

LOOP = """
import sys, time
from incentive.stage import Interrupt
with Interrupt() as interrupt:
    print("ready", flush=True)
    try:
        while not interrupt.requested:
            time.sleep(0.01)
        print("asked", flush=True)
        if sys.argv[1] == "twice":
            for _ in range(6000):  # a signal just before a sleep begins is seen when it ends
                time.sleep(0.01)
    except KeyboardInterrupt:
        print("at once", flush=True)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", ["once", "twice"])
def test_signals(first: signal.Signals, times: str):
    command = [sys.executable, "-c", LOOP, times]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == "asked\n"
        began = time.monotonic()
        if times == "twice":
            process.send_signal(signal.SIGTERM)  # a second SIGTERM changes nothing: it is saving
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert out == ("at once\n" if times == "twice" else "")
    assert err.count("press Ctrl-C again to stop at once") == 1
    assert time.monotonic() - began < 20
    assert process.returncode == 0
