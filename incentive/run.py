"""The run directory: everything a run knows lies on disk, and a kill at any moment loses nothing that mattered.

    DIR/  config.toml environment.json run.json lock summary.json done.json report.html
    DIR/<stage>/  stage.json metrics.jsonl rollouts/000010.jsonl.zst checkpoints/step-000010/ best.json model/ done.json

Three rules carry it. A file or folder appears whole (temp beside it, fsync, rename) or not at all; only metrics.jsonl
grows, a whole line at a time. A stage is memoised: `stage.json` holds all that its key hashes, `done.json` is written
last. On resume, whatever is later than the checkpoint is cut off, so that the files end as if nothing had happened;
for that, everything of step N (record, rollouts, best.json) is written before `checkpoint(N)`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import zstandard
from pydantic import BaseModel

from incentive import config
from incentive.records import SCHEMA, Group, group_from_json, to_json


class RunError(Exception):
    """The user's to mend: one or two lines, with the fix. The CLI prints it and exits with code 2."""


class Stopped(Exception):
    """A run that was asked to stop and has saved. The message says how to go on."""


class Reached(Exception):
    """The stage is done that a run was to go up to."""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- files that appear whole or not at all ---------------------------------------------------------------------------

_FAULTS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EROFS: "read-only file system",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EIO: "input/output error",
    errno.EFBIG: "file too large",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
}


def _free_mb(path: Path) -> float:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free / 2**20


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn what a disk can do to us into a `RunError` that names the path; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FAULTS:
            raise
        free = f" ({_free_mb(path):,.0f} MB free)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise RunError(
            f"{path}: {_FAULTS[error.errno]}{free}\n"
            "Mend that, then start again with --resume: it goes on from the last checkpoint."
        ) from error


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_tree(path: Path) -> None:
    for p in [*path.rglob("*"), path]:
        _sync(p)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file, durably: a reader sees the old one or the new one. Text is UTF-8."""
    tmp = path.with_name(f".{path.name}.tmp")
    with _disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                _write_all(fd, data.encode() if isinstance(data, str) else data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(tmp, path)
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise
        _sync(path.parent)


@contextlib.contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Fill a temp folder that takes the place of `path` at the end. A kill leaves a `.name.tmp` that nobody reads."""
    tmp, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")

    def settle() -> None:
        if old.exists() and not path.exists():  # stopped between the two renames
            old.rename(path)
        for stale in (tmp, old):
            shutil.rmtree(stale, ignore_errors=True)

    with _disk(path):
        settle()
        tmp.mkdir(parents=True)
        try:
            yield tmp
            _sync_tree(tmp)
            if path.exists():
                path.rename(old)
            tmp.rename(path)
            _sync(path.parent)
        except (OSError, RunError):
            raise
        except Exception as error:  # torch and safetensors raise errors of their own on a full disk
            told = re.search(r"\(os error (\d+)\)", str(error))
            if "No space left" in str(error) or _free_mb(tmp) < 1:
                raise OSError(errno.ENOSPC, str(error)) from error
            if told:
                raise OSError(int(told[1]), str(error)) from error
            raise
        finally:
            settle()


def _clean(value: Any, bad: dict[str, str], at: str = "") -> Any:
    """Plain JSON data; a float that is not finite becomes null and is named in `bad`."""
    if isinstance(value, dict):
        return {str(k): _clean(v, bad, f"{at}.{k}" if at else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v, bad, f"{at}.{i}") for i, v in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a numpy or torch scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        bad[at] = str(value)
        return None
    return value


def dumps(value: Any, indent: int | None = None) -> str:
    """Strict JSON in the order given. JSON has no NaN: a number that is not finite is null, and a dict then says which
    it was, `"nonfinite": {"loss": "nan"}`, so that it cannot pass for a value that was not measured."""
    bad: dict[str, str] = {}
    plain = _clean(value, bad)
    if bad and isinstance(plain, dict):
        plain["nonfinite"] = bad
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=indent)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, dumps(value, indent=2) + "\n")


def _read_json(path: Path) -> Any:
    """The content of a JSON file; None where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def write_lines(path: Path, lines: Iterable[Any]) -> None:
    """A whole `.jsonl.zst` file, one value a line."""
    write_atomic(path, zstandard.compress("".join(dumps(line) + "\n" for line in lines).encode()))


def read_lines(path: Path) -> list[Any]:
    """The values of a `.jsonl.zst` file.

    Raises:
        RunError: it cannot be read, or a line is no JSON; the message names it.
    """
    try:
        lines = zstandard.decompress(path.read_bytes()).decode().split("\n")
    except (OSError, zstandard.ZstdError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: no readable {path.parent.name} ({error})") from error
    out = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                out.append(json.loads(line))
        except ValueError as error:
            raise RunError(f"{path}:{number}: not valid JSON: {line[:60]!r}") from error
    return out


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_key(path: Path) -> str:
    """The key of a model folder: its weights, config and tokenizer, wherever it lies.

    Raises:
        RunError: the folder holds no safetensors.
    """
    globs = ("*.safetensors", "config.json", "tokenizer*", "vocab*", "merges.txt", "chat_template*", "*.model")
    files = {p.name: file_hash(p) for g in globs for p in path.glob(g)}
    if not any(name.endswith(".safetensors") for name in files):
        raise RunError(f"{path}: no model here (a folder with config.json, tokenizer.json and *.safetensors)")
    return _digest(files)


# --- keys ------------------------------------------------------------------------------------------------------------

UNKEYED = {"max_steps", "save_steps", "save_seconds", "keep"}  # a stage's settings that change no weight up to step N
LATER = {
    "device": "cpu"
}  # settings that came after runs were made: at this value they count in no key, so that those go on


@dataclass(frozen=True)
class Artifact:
    """What stages exchange. A stage returns kind, path and meta; `Run.stage` fills in its key and its inputs'."""

    kind: Literal["weights", "dataset", "eval"]
    path: Path
    key: str = ""
    inputs: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _ident(value: Any) -> Any:
    """What of a value counts in a key: an artifact's key, a file's content, a function's name, any `version`."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Artifact):
        return value.key
    if isinstance(value, Path):
        return folder_key(value) if value.is_dir() else file_hash(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(k): _ident(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_ident(v) for v in value]
    named = value if hasattr(value, "__name__") else type(value)
    name = f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', named.__name__)}"
    return f"{name} {getattr(value, 'version', '')}".strip(" .")


def _settings(section: BaseModel | None) -> dict[str, Any]:
    """A section's settings that count in the key. Where the learning rate follows a schedule, max_steps shapes it."""
    plain = section.model_dump(mode="json") if section else {}
    shaped = plain.get("optim", {}).get("lr_scheduler_type", "constant") != "constant"
    counts = {k: v for k, v in plain.items() if k not in UNKEYED or (shaped and k == "max_steps")}
    return {k: v for k, v in counts.items() if k not in LATER or LATER[k] != v}


def _flat(node: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {at: node}
    return {k: v for name, child in node.items() for k, v in _flat(child, f"{at}.{name}" if at else name).items()}


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    a, b = _flat(old), _flat(new)
    return ", ".join(f"{k} {a.get(k)} -> {b.get(k)}" for k in {**a, **b} if a.get(k) != b.get(k))


# --- what results depend on beside the settings ----------------------------------------------------------------------


def _cpu() -> str:
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1]
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def environment(threads: int) -> dict[str, Any]:
    """What the bits of a run depend on; no path and no host name in it."""
    package = Path(__file__).parent
    versions: dict[str, str | None] = {}
    for name in ("incentive", "torch", "numpy", "transformers", "tokenizers"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "schema": SCHEMA,
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "commit": _output("git", "-C", str(package), "rev-parse", "HEAD")
        if (package.parent / ".git").exists()
        else None,
        "code": _digest({p.relative_to(package).as_posix(): file_hash(p) for p in sorted(package.rglob("*.py"))}),
    }


# --- signals ---------------------------------------------------------------------------------------------------------


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


# --- one stage's folder ----------------------------------------------------------------------------------------------


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """Step -> path, in order of steps, of the folder's entries whose whole name matches."""
    names = os.listdir(folder) if folder.exists() else []
    return dict(sorted((int(m[1]), folder / n) for n in names if (m := re.fullmatch(pattern, n))))


def _step_of(line: bytes) -> float:
    """The step of one metrics line; infinite where the line is torn."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class Stage:
    """What a stage function writes to. `Stage(folder)` alone does for a test or a notebook."""

    def __init__(
        self,
        directory: Path,
        seed: int = 0,
        interrupt: Interrupt | None = None,
        command: str = "the same command and --resume",
        say: Callable[[str], None] = _say,
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
        with _disk(path):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            size = os.fstat(fd).st_size
            try:
                _write_all(fd, line)
            except OSError:
                os.ftruncate(fd, size)  # no half line
                raise
            finally:
                os.close(fd)

    def _rollouts(self) -> dict[int, Path]:
        return _numbered(self.dir / "rollouts", r"(\d+)\.jsonl\.zst")

    def rollouts(self, step: int, groups: list[Group]) -> None:
        """Store the groups that fed the updates from `step` on."""
        write_lines(self.dir / f"rollouts/{step:06d}.jsonl.zst", map(to_json, groups))

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
                _sync(metrics)
            files = {
                str(p.relative_to(tmp)): [p.stat().st_size, file_hash(p)] for p in sorted(tmp.rglob("*")) if p.is_file()
            }
            best = _read_json(self.dir / "best.json")
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
        with _disk(self.dir):
            if metrics.exists():
                old = metrics.read_bytes()
                new = b"".join(line for line in old.splitlines(keepends=True) if _step_of(line) <= step)
                if new != old:
                    write_atomic(metrics, new)
            for s, path in self._rollouts().items():
                if s > step:
                    path.unlink()
            manifest = _read_json(self.dir / f"checkpoints/step-{step:06d}/manifest.json") or {}
            if manifest.get("best") is None:
                best.unlink(missing_ok=True)
            elif manifest["best"] != _read_json(best):
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
    manifest = _read_json(checkpoint / "manifest.json")
    if not isinstance(manifest, dict):
        return "manifest.json is missing or torn"
    for name, (size, digest) in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size or file_hash(path) != digest:
            return f"{name} has changed"
    return None


# --- the run ---------------------------------------------------------------------------------------------------------

_LOCKS: set[int] = set()


def _drop_locks() -> None:
    """In a forked child: a worker that outlives a killed run must not hold its lock."""
    for fd in _LOCKS:
        os.close(fd)
    _LOCKS.clear()


os.register_at_fork(after_in_child=_drop_locks)


def _lock(directory: Path) -> int:
    path = directory / "lock"
    with _disk(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
        os.close(fd)
        raise RunError(f"{directory} is in use by {owner}\nWait for it, stop it, or choose another --run.") from None
    os.ftruncate(fd, 0)
    with _disk(path):
        os.pwrite(fd, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _LOCKS.add(fd)
    return fd


def _where(directory: Path) -> str:
    """How far a run has come, from the metrics written last."""
    found = [p for p in directory.glob("*/metrics.jsonl") if ".old-" not in p.parent.name]
    if not found:
        return "before its first step"
    newest = max(found, key=lambda p: p.stat().st_mtime)
    steps = [s for line in newest.read_bytes().splitlines(keepends=True) if (s := _step_of(line)) < math.inf]
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
        say: Callable[[str], None] = _say,
    ) -> Run:
        """Create a run directory, or reopen it with `resume`.

        Raises:
            RunError: used already, in use now, another recipe's, no run directory at all, or the disk refuses.
        """
        directory = Path(directory)
        if directory.exists() and not directory.is_dir():
            raise RunError(f"--run {directory} is a file\nGive a folder, new or of a run to --resume.")
        with _disk(directory):
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
        old = _read_json(self.dir / "environment.json") if about else None
        if old:
            noted = {"schema", "platform", "cores", "commit", "earlier"}  # differ without changing results
            earlier = old.pop("earlier", [])
            lasting = [{k: v for k, v in e.items() if k not in noted} for e in (old, now)]
            if diff := _changes(*lasting):
                self.warnings.append(f"{diff} since the last start: results may differ from the uninterrupted run")
                earlier = [*earlier, old]
            now |= {"earlier": earlier} if earlier else {}
            settings = tomllib.loads(config.to_toml(self.config))
            if diff := _changes(stored_config(self.dir) or settings, settings):
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
        about = _read_json(self.dir / "run.json")
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
        inputs = {"start": _ident(start), "data": _ident(list(data)), **{k: _ident(v) for k, v in kw.items()}}
        material = {"stage": name, "seed": self.config.seed, "section": _settings(section), "inputs": inputs}
        key, steps, folder = _digest(material), getattr(section, "max_steps", None), self.dir / name
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or self._keys.setdefault(name, key) != key:
            raise ValueError(f"stage {name!r}: a name is lower-case words with hyphens, used once in a pipeline")
        with _disk(folder):
            self._place(folder, key, material)
        if done := _read_json(folder / "done.json"):
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
        made = dataclasses.replace(made, key=_digest([key, steps]), inputs=keys)
        with _disk(made.path):
            _sync_tree(made.path)
        path = made.path.relative_to(folder) if made.path.is_relative_to(folder) else made.path.absolute()
        done = {"schema": SCHEMA, "key": key, "artifact": made.key, "steps": steps, "kind": made.kind, "path": path}
        write_json(folder / "done.json", {**done, "inputs": keys, "meta": made.meta})
        return made

    def _place(self, folder: Path, key: str, material: dict[str, Any]) -> None:
        """Make `folder` the one of this key: another key's content steps aside, this key's own comes back."""
        aside = folder.with_name(f"{folder.name}.old-{key[:8]}")
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            known = _read_json(folder / "stage.json") or {"key": "unknown", "of": {}}
            if known["key"] == key:
                return
            old = folder.with_name(f"{folder.name}.old-{known['key'][:8]}")
            folder.rename(old)
            self.say(f"{folder.name}: {_changes(known['of'], material)}; runs anew, what was made is kept in {old}")
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
