"""Files and folders that appear whole (temp beside it, fsync, rename) or not at all, in strict JSON; what a disk can do to
us is a `RunError` that names the path."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import zstandard


class RunError(Exception):
    """The user's to mend: one or two lines, with the fix. The CLI prints it and exits with code 2."""


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
def disk(path: Path) -> Iterator[None]:
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


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(path: Path) -> None:
    """The same for a folder and all in it."""
    for p in [*path.rglob("*"), path]:
        sync(p)


def write_all(fd: int, data: bytes) -> None:
    """`os.write` until nothing is left: it may write less than it was given."""
    while data:
        data = data[os.write(fd, data) :]


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file, durably: a reader sees the old one or the new one. Text is UTF-8."""
    tmp = path.with_name(f".{path.name}.tmp")
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                write_all(fd, data.encode() if isinstance(data, str) else data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(tmp, path)
        except BaseException:
            tmp.unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextlib.contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Fill a temp folder that takes the place of `path` at the end. A kill leaves a `.name.tmp` that nobody reads."""
    tmp, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")

    def settle() -> None:
        if old.exists() and not path.exists():  # stopped between the two renames
            old.rename(path)
        for stale in (tmp, old):
            shutil.rmtree(stale, ignore_errors=True)

    with disk(path):
        settle()
        tmp.mkdir(parents=True)
        try:
            yield tmp
            sync_tree(tmp)
            if path.exists():
                path.rename(old)
            tmp.rename(path)
            sync(path.parent)
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
    write = partial(json.dumps, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        return write(value)  # plain data of finite numbers, as a rollout's thousands are: many times faster
    except (TypeError, ValueError):
        bad: dict[str, str] = {}
        plain = _clean(value, bad)
        if bad and isinstance(plain, dict):
            plain["nonfinite"] = bad
        return write(plain)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def write_lines(path: Path, lines: Iterable[Any], dump: Callable[[Any], str] = dumps) -> None:
    """A whole `.jsonl.zst` file, one value a line."""
    write_atomic(path, zstandard.compress("".join(dump(line) + "\n" for line in lines).encode()))


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
