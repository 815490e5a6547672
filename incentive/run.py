"""The run directory: everything a run knows lies on disk, and a kill at any moment loses nothing that mattered.

    DIR/  config.toml environment.json run.json lock summary.json done.json report.html
    DIR/<stage>/  stage.json metrics.jsonl rollouts/000010.jsonl.zst checkpoints/step-000010/ best.json model/ done.json

Three rules carry it. A file or folder appears whole (temp beside it, fsync, rename) or not at all; only metrics.jsonl
grows, a whole line at a time. A stage is memoised: `stage.json` holds all that its key hashes, `done.json` is written
last. On resume, whatever is later than the checkpoint is cut off (`stage`).
"""

from __future__ import annotations

import dataclasses
import fcntl
import math
import os
import re
import shlex
import socket
import tomllib
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from incentive import config
from incentive.files import RunError, disk, read_json, sync_tree, write_atomic, write_json
from incentive.keys import Artifact, changes, counting, digest, environment, ident
from incentive.records import SCHEMA
from incentive.stage import Interrupt, Stage, say, step_of


class Reached(Exception):
    """The stage is done that a run was to go up to."""


_LOCKS: set[int] = set()


def _drop_locks() -> None:
    """In a forked child: a worker that outlives a killed run must not hold its lock."""
    for fd in _LOCKS:
        os.close(fd)
    _LOCKS.clear()


os.register_at_fork(after_in_child=_drop_locks)


def _lock(directory: Path) -> int:
    path = directory / "lock"
    with disk(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
        os.close(fd)
        raise RunError(f"{directory} is in use by {owner}\nWait for it, stop it, or choose another --run.") from None
    os.ftruncate(fd, 0)
    with disk(path):
        os.pwrite(fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _LOCKS.add(fd)
    return fd


def _where(directory: Path) -> str:
    """How far a run has come, from the metrics written last."""
    found = [p for p in directory.glob("*/metrics.jsonl") if ".old-" not in p.parent.name]
    if not found:
        return "before its first step"
    newest = max(found, key=lambda p: p.stat().st_mtime)
    steps = [s for line in newest.read_bytes().splitlines(keepends=True) if (s := step_of(line)) < math.inf]
    return f"at step {max(steps, default=0)} of {newest.parent.name}"


def stored_config(directory: Path) -> dict[str, Any] | None:
    """The settings a run was last started with, or None. A resume starts from these, then applies its own --set."""
    return config.load_toml(directory / "config.toml") if (directory / "run.json").is_file() else None


class Run:
    """An open run directory, locked against a second process. Make one with `Run.open`."""

    def __init__(
        self, directory: Path, settings: config.Run, interrupt: Interrupt | None, say: Callable[[str], None], lock: int
    ) -> None:
        self.dir, self.config, self.interrupt, self.say, self._fd = directory, settings, interrupt, say, lock
        self.stages: tuple[str, ...] = ()  # of the pipeline, where they are known before it runs
        self.until: str | None = None  # the stage to stop after
        self.warnings: list[str] = []
        self.command = f"incentive run {shlex.quote(settings.recipe)} --run {shlex.quote(str(directory))} --resume"
        self._keys: dict[str, str] = {}

    @classmethod
    def open(
        cls,
        directory: Path | str,
        settings: config.Run,
        resume: bool = False,
        interrupt: Interrupt | None = None,
        say: Callable[[str], None] = say,
    ) -> Run:
        """Create a run directory, or reopen it with `resume`.

        Raises:
            RunError: used already, in use now, another recipe's, no run directory at all, or the disk refuses.
        """
        directory = Path(directory)
        if directory.exists() and not directory.is_dir():
            raise RunError(f"--run {directory} is a file\nGive a folder, new or of a run to --resume.")
        with disk(directory):
            directory.mkdir(parents=True, exist_ok=True)
            ours = {"lock", "config.toml", "environment.json"}  # a run killed while it was made
            used = (directory / "run.json").exists()
            if not used and {p.name for p in directory.iterdir() if not p.name.endswith(".tmp")} - ours:
                raise RunError(f"--run {directory} holds other files and no run\nChoose a new or empty folder.")
        run = cls(directory, settings, interrupt, say, _lock(directory))
        try:
            run._start(resume)
        except BaseException:
            run.close()
            raise
        return run

    def _start(self, resume: bool) -> None:
        about, now = self._about(resume), environment(self.config.threads)
        old = read_json(self.dir / "environment.json") if about else None
        if old:
            noted = {"schema", "platform", "cores", "commit", "earlier"}  # differ without changing results
            earlier = old.pop("earlier", [])
            lasting = [{k: v for k, v in e.items() if k not in noted} for e in (old, now)]
            if diff := changes(*lasting):
                self.warnings.append(f"{diff} since the last start: results may differ from the uninterrupted run")
                earlier = [*earlier, old]
            now |= {"earlier": earlier} if earlier else {}
            settings = tomllib.loads(config.to_toml(self.config))
            if diff := changes(stored_config(self.dir) or settings, settings):
                self.say(f"settings changed since the last start: {diff}")
        for text in self.warnings:
            self.say(f"warning: {text}")
        write_atomic(self.dir / "config.toml", config.to_toml(self.config))
        write_json(self.dir / "environment.json", now)
        created = about["created"] if about else datetime.now(UTC).isoformat(timespec="seconds")
        about = {"schema": SCHEMA, "recipe": self.config.recipe, "seed": self.config.seed, "created": created}
        write_json(self.dir / "run.json", about)  # last: it marks the directory as a run

    def _about(self, resume: bool) -> dict[str, Any] | None:
        """run.json of a used directory, which must be ours to go on with; None for a new one."""
        if not (self.dir / "run.json").exists():
            if resume:
                self.say(f"nothing to resume in {self.dir}: starting from the beginning")
            return None
        about = read_json(self.dir / "run.json")
        if not isinstance(about, dict) or about.get("schema") != SCHEMA:
            fault = "has another schema" if isinstance(about, dict) else "is damaged"
            raise RunError(
                f"{self.dir}/run.json {fault}\nUse the version of incentive that wrote it, or another --run."
            )
        if not resume:
            used = f"used by recipe {about['recipe']} {_where(self.dir)}"
            raise RunError(f"--run {self.dir} is {used}\nAdd --resume to go on or choose another --run.")
        if about["recipe"] != self.config.recipe:
            other = f"belongs to recipe {about['recipe']}, not {self.config.recipe}"
            raise RunError(f"--run {self.dir} {other}\nChoose another --run.")
        return about

    def stage(
        self,
        name: str,
        fn: Callable[..., Artifact],
        section: BaseModel | None,
        start: Artifact | None = None,
        data: Collection[Any] = (),
        **kw: Any,
    ) -> Artifact:
        """The artifact of `fn(stage, section, start=, data=, **kw)`: at once if it is done, else run or gone on with.

        All arguments count in the key but those in `UNKEYED`; bind what must not (a live view) with functools.partial.
        The artifact's own key counts the steps too, so that what follows from an extended stage is made again.

        Raises:
            Reached: it is the stage that the run was to go up to, and it is done.
        """
        if self.stages and name not in self.stages:
            raise ValueError(f"stage {name!r} is not in the list of its pipeline's stages: {', '.join(self.stages)}")
        made = self._stage(name, fn, section, start, data, **kw)
        if name == self.until:
            raise Reached(name)
        return made

    def _stage(
        self,
        name: str,
        fn: Callable[..., Artifact],
        section: BaseModel | None,
        start: Artifact | None,
        data: Collection[Any],
        **kw: Any,
    ) -> Artifact:
        inputs = {"start": ident(start), "data": ident(list(data)), **{k: ident(v) for k, v in kw.items()}}
        material = {"stage": name, "seed": self.config.seed, "section": counting(section), "inputs": inputs}
        key, steps, folder = digest(material), getattr(section, "max_steps", None), self.dir / name
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or self._keys.setdefault(name, key) != key:
            raise ValueError(f"stage {name!r}: a name is lower-case words with hyphens, used once in a pipeline")
        with disk(folder):
            self._place(folder, key, material)
        if done := read_json(folder / "done.json"):
            path = folder / done["path"]  # absolute where it lies elsewhere
            artifact = Artifact(done["kind"], path, done["artifact"], tuple(done["inputs"]), done["meta"])
            enough = steps is None or done["steps"] >= steps
            if enough and path.exists():
                more = f" ({done['steps']} steps, {steps} asked)" if done["steps"] != steps else ""
                self.say(f"{name}: done{more}")
                return artifact
            self.say(f"{name}: " + (f"{path} is gone" if enough else f"{done['steps']} steps are done, on to {steps}"))
        for stale in (folder / "done.json", self.dir / "done.json"):
            stale.unlink(missing_ok=True)
        stage = Stage(folder, self.config.seed, self.interrupt, self.command, self.say)
        made = fn(stage, section, start=start, data=data, **kw)
        keys = tuple(a.key for a in [start, *data, *kw.values()] if isinstance(a, Artifact))
        made = dataclasses.replace(made, key=digest([key, steps]), inputs=keys)
        with disk(made.path):
            sync_tree(made.path)
        path = made.path.relative_to(folder) if made.path.is_relative_to(folder) else made.path.absolute()
        done = {"schema": SCHEMA, "key": key, "artifact": made.key, "steps": steps, "kind": made.kind, "path": path}
        write_json(folder / "done.json", {**done, "inputs": keys, "meta": made.meta})
        return made

    def _place(self, folder: Path, key: str, material: dict[str, Any]) -> None:
        """Make `folder` the one of this key: another key's content steps aside, this key's own comes back."""
        aside = folder.with_name(f"{folder.name}.old-{key[:8]}")
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            known = read_json(folder / "stage.json") or {"key": "unknown", "of": {}}
            if known["key"] == key:
                return
            old = folder.with_name(f"{folder.name}.old-{known['key'][:8]}")
            folder.rename(old)
            self.say(f"{folder.name}: {changes(known['of'], material)}; runs anew, what was made is kept in {old}")
        if aside.exists() and not folder.exists():
            aside.rename(folder)
            self.say(f"{folder.name}: back to {aside.name}")
        else:
            folder.mkdir(exist_ok=True)
            write_json(folder / "stage.json", {"key": key, "of": material})

    def finish(self, summary: dict[str, Any]) -> None:
        """Every stage is done: write summary.json, and done.json last."""
        write_json(self.dir / "summary.json", summary)
        write_json(self.dir / "done.json", {"schema": SCHEMA, "stages": self._keys})

    def close(self) -> None:
        """Release the lock."""
        if self._fd in _LOCKS:
            _LOCKS.discard(self._fd)
            os.close(self._fd)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
