"""What a stage function is given: its folder, and word of when to stop.

On resume, whatever is later than the checkpoint is cut off, so that the files end as if nothing had happened; for that,
everything of step N (record, rollouts, best.json) is written before `checkpoint(N)`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import orjson

from incentive.files import (
    RunError,
    disk,
    dumps,
    file_hash,
    read_json,
    read_lines,
    sync,
    write_all,
    write_atomic,
    write_folder,
    write_json,
    write_lines,
)
from incentive.records import SCHEMA, Group, group_from_json, to_json


class Stopped(Exception):
    """A run that was asked to stop and has saved. The message says how to go on."""


def say(text: str) -> None:
    """A message on stderr, where no view takes them."""
    print(text, file=sys.stderr, flush=True)


class Interrupt:
    """While open, the first Ctrl-C or SIGTERM asks the stage to save and stop; a Ctrl-C after that stops at once."""

    requested = False

    def __enter__(self) -> Interrupt:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = True
            text = b"\nsaving after this step; press Ctrl-C again to stop at once (the last checkpoint is kept)\n"
            with contextlib.suppress(OSError):  # os.write: print is not safe in a handler
                os.write(2, text)


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """Step -> path, in order of steps, of the folder's entries whose whole name matches."""
    names = os.listdir(folder) if folder.exists() else []
    return dict(sorted((int(m[1]), folder / n) for n in names if (m := re.fullmatch(pattern, n))))


def step_of(line: bytes) -> float:
    """The step of one metrics line; infinite where the line is torn."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def line_of(group: Group) -> str:
    """`to_json` as a line of JSON; by orjson, 17 times as fast for a step of zero-mini, where all numbers are finite and fit into 64 bits."""
    numbers = [x for score in group.scores for x in (score.total, *score.parts.values()) if x is not None]
    if all(map(math.isfinite, numbers)) and all(np.isfinite(s.sampler_logp).all() for s in group.samples):
        try:
            return orjson.dumps(group, option=orjson.OPT_SERIALIZE_NUMPY).decode()
        except orjson.JSONEncodeError:
            pass
    return dumps(to_json(group))


class Stage:
    """What a stage function writes to. `Stage(folder)` alone does for a test or a notebook."""

    def __init__(
        self,
        directory: Path,
        seed: int = 0,
        interrupt: Interrupt | None = None,
        command: str = "the same command and --resume",
        say: Callable[[str], None] = say,
    ) -> None:
        self.dir, self.seed, self.interrupt, self.command, self.say = directory, seed, interrupt, command, say

    @property
    def stopping(self) -> bool:
        """True once the user asked to stop: look between steps, save, `raise stage.stopped(step)`."""
        return self.interrupt is not None and self.interrupt.requested

    def stopped(self, step: int) -> Stopped:
        return Stopped(f"stopped at step {step} of {self.dir.name}, saved; go on with: {self.command}")

    def record(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl. `row["step"]` says which update it belongs to."""
        if not isinstance(row.get("step"), int):
            raise ValueError("a metrics row needs a step: resume cuts the file by it")
        path, line = self.dir / "metrics.jsonl", (dumps(row) + "\n").encode()
        with disk(path):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            size = os.fstat(fd).st_size
            try:
                write_all(fd, line)
            except OSError:
                os.ftruncate(fd, size)  # no half line
                raise
            finally:
                os.close(fd)

    def _rollouts(self) -> dict[int, Path]:
        return _numbered(self.dir / "rollouts", r"(\d+)\.jsonl\.zst")

    def rollouts(self, step: int, groups: list[Group]) -> None:
        """Store the groups that fed the updates from `step` on."""
        write_lines(self.dir / f"rollouts/{step:06d}.jsonl.zst", groups, line_of)

    def read_rollouts(self, step: int) -> list[Group]:
        return [group_from_json(line) for line in read_lines(self.dir / f"rollouts/{step:06d}.jsonl.zst")]

    def prune_rollouts(self, keep: Literal["all", "last", "evals"], step: int, eval_steps: int = 0) -> None:
        """Apply `rl.keep` after `step`: all; those of the last 100 steps; also those that every eval step drew from."""
        paths = self._rollouts()
        if keep == "all" or not paths:
            return
        steps, kept = list(paths), {s for s in paths if s > step - 100}
        if keep == "evals" and eval_steps:
            kept |= {steps[max(bisect_right(steps, e) - 1, 0)] for e in range(0, step + 1, eval_steps)}
        for s in set(steps) - kept:
            paths[s].unlink()

    def checkpoints(self) -> dict[int, Path]:
        """Step -> folder, oldest first, damaged ones too."""
        return _numbered(self.dir / "checkpoints", r"step-(\d+)")

    @contextlib.contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """Fill the yielded folder; it becomes checkpoints/step-NNNNNN with a manifest, whole or not at all."""
        with write_folder(self.dir / f"checkpoints/step-{step:06d}") as tmp:
            yield tmp
            if (metrics := self.dir / "metrics.jsonl").exists():
                sync(metrics)
            files = {
                str(p.relative_to(tmp)): [p.stat().st_size, file_hash(p)] for p in sorted(tmp.rglob("*")) if p.is_file()
            }
            best = read_json(self.dir / "best.json")
            write_json(tmp / "manifest.json", {"schema": SCHEMA, "step": step, "best": best, "files": files})

    def latest(self) -> tuple[int, Path] | None:
        """The newest sound checkpoint, or None where there was never one.

        Raises:
            RunError: every checkpoint is damaged. Starting over would cut off the metrics, so the user decides.
        """
        found = self.checkpoints()
        for step, path in reversed(found.items()):
            fault = _fault(path)
            if fault is None:
                return step, path
            self.say(f"warning: {path} is damaged ({fault}); falling back to the checkpoint before it")
        if found:
            raise RunError(f"{self.dir}: every checkpoint is damaged\nDelete that folder to start the stage over.")
        return None

    def truncate(self, step: int) -> None:
        """Forget what came after `step` (-1: all): metrics rows, rollouts, the best so far; later checkpoints are set
        aside as `.dropped` until the run has passed them."""
        metrics, best = self.dir / "metrics.jsonl", self.dir / "best.json"
        with disk(self.dir):
            if metrics.exists():
                old = metrics.read_bytes()
                new = b"".join(line for line in old.splitlines(keepends=True) if step_of(line) <= step)
                if new != old:
                    write_atomic(metrics, new)
            for s, path in self._rollouts().items():
                if s > step:
                    path.unlink()
            manifest = read_json(self.dir / f"checkpoints/step-{step:06d}/manifest.json") or {}
            if manifest.get("best") is None:
                best.unlink(missing_ok=True)
            elif manifest["best"] != read_json(best):
                write_json(best, manifest["best"])
            for s, path in self.checkpoints().items():
                if s > step:
                    aside = path.with_name(f"{path.name}.dropped")
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)

    def resume(self) -> tuple[int, Path] | None:
        """How every stage starts: the newest sound checkpoint, and the files cut back to it (or to nothing)."""
        found = self.latest()
        self.truncate(found[0] if found else -1)
        return found

    def prune_checkpoints(self, keep_last: int = 2, also: Collection[int] = ()) -> None:
        """Delete all but the newest `keep_last` checkpoints and those of the steps in `also` (the best)."""
        found = self.checkpoints()
        kept = {*list(found)[-keep_last:], *also}
        dropped = _numbered(self.dir / "checkpoints", r"step-(\d+)\.dropped")
        passed = [p for s, p in dropped.items() if found and s <= max(found)]
        for path in [*(p for s, p in found.items() if s not in kept), *passed]:
            shutil.rmtree(path)


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, by its manifest; None if nothing is."""
    manifest = read_json(checkpoint / "manifest.json")
    if not isinstance(manifest, dict):
        return "manifest.json is missing or torn"
    for name, (size, digest) in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size or file_hash(path) != digest:
            return f"{name} has changed"
    return None
