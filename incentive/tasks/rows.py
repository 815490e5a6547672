"""Rows of a data set: from the Hub's cache, or from a local copy; parquet, jsonl, json and csv.

What was read is recorded by commit and by the hash of each file. The only file that imports pyarrow, late (extra `hub`).
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from incentive import hub
from incentive.tasks.jsonl import TaskError, as_object

BATCH = 1000  # rows of a parquet file that are unpacked at a time
FORMATS = (".parquet", ".jsonl", ".json", ".csv")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: on the Hub (`owner/name`, a revision), or a local file or folder.

    `files` are glob patterns of what to read (by default every parquet, jsonl, json and csv file); `split` keeps those
    whose name says so, as `train` does for `data/train-00000-of-00001.parquet`.
    """

    id: str
    revision: str = "main"
    files: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in the order of the files, and what they were read from."""

    rows: list[Row]
    origin: dict[str, Any] = field(default_factory=dict)  # {"dataset", "revision", "files": {name: sha256}}

    @property
    def version(self) -> str:
        """A hash of what was read, wherever it lay."""
        return hashlib.sha256(json.dumps(sorted(self.origin["files"].values())).encode()).hexdigest()[:16]


def read(source: Source, data: str | Path | None = None) -> Table:
    """All rows of a data set.

    Args:
        data: a local copy to read in place of the Hub.

    Raises:
        TaskError: it cannot be had or read; the message says what to do.
    """
    origin, paths = _found(source, data)
    rows = [row for path in paths for row in _rows(path)]
    if not rows:
        raise TaskError(f"{source.id if data is None else data}: the files hold no rows")
    return Table(rows, origin)


def stream(source: Source) -> tuple[dict[str, Any], Iterator[Row]]:
    """What is read, as `Table.origin`, and its rows one after another: for data sets that would fill the memory.

    Raises:
        TaskError: it cannot be had; when the rows are drawn: it cannot be read.
    """
    origin, paths = _found(source, None)
    return origin, (row for path in paths for row in _rows(path))


def _found(source: Source, data: str | Path | None) -> tuple[dict[str, Any], list[Path]]:
    """The origin of a data set and its files, in order."""
    local = Path(data) if data is not None else Path(source.id)
    if data is not None and not local.exists():
        raise TaskError(f"{data}: no such file or folder\nGive a local copy of {source.id}: {', '.join(FORMATS)}.")
    given = local.exists()
    root, commit = (local, None) if given else _snapshot(source)
    paths = [root] if root.is_file() else _chosen(root, source, strict=data is None)
    names = {p.name if p == root else p.relative_to(root).as_posix(): _sha256(p) for p in paths}
    return {"dataset": source.id, "revision": commit or "local copy", "files": names}, paths


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chosen(root: Path, source: Source, strict: bool) -> list[Path]:
    """The data files of a folder, in order of their names. A local copy may name its files as it likes: where the
    patterns or the split match none, all are read."""
    names = {p: p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.suffix in FORMATS}
    about = ("dataset_infos.json", "dataset_info.json", "state.json")
    found = [p for p, name in names.items() if p.name not in about and not f"/{name}".count("/.")]
    wanted = [p for p in found if not source.files or any(fnmatch(names[p], f) for f in source.files)]
    if source.split:
        word = re.compile(rf"(?:^|[^a-z]){re.escape(source.split)}(?![a-z])")
        wanted = [p for p in wanted if word.search(names[p])]
    if not wanted and not strict:
        wanted = found
    if not wanted:
        what = " ".join(source.files) or f"{source.split or 'data'} file"
        have = ", ".join(names[p] for p in found[:6]) or "none of " + ", ".join(FORMATS)
        raise TaskError(f"{source.id}: no {what} in {root.name}\nThere is: {have}.")
    return wanted


def _snapshot(source: Source) -> tuple[Path, str]:
    """The folder of a data set in the local cache, fetched where it is not there yet, and its commit.

    Raises:
        TaskError: it cannot be had; see `hub.fetch`.
    """
    patterns = list(source.files) or [f"*{suffix}" for suffix in FORMATS]
    try:
        folder = hub.fetch(source.id, source.revision, patterns, "dataset")
    except hub.HubError as error:
        told = str(error)
        if "pip install" not in told and "no data set's id" not in told:
            told += ", or give a local copy of the same schema (parquet, jsonl, json or csv)."
        raise TaskError(told) from None
    return folder, folder.name


# files


def _rows(path: Path) -> Iterator[Row]:
    """The rows of one file; a parquet file a part at a time.

    Raises:
        TaskError: it cannot be read; the message names the file and, where there are lines, the line.
    """
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        if path.suffix == ".csv":
            csv.field_size_limit(2**31 - 1)
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file)
            return
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        if path.suffix == ".jsonl":
            yield from (as_object(x, f"{path}:{n}") for n, x in enumerate(data.split(b"\n"), 1) if x.strip())
            return
        found = json.loads(data)
    except OSError as error:
        raise TaskError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"{path}: not valid {path.suffix[1:].upper()}: {str(error)[:120]}") from None
    if isinstance(found, dict):  # {"data": [...]} and the like: the one list of objects in it
        found = next((v for v in found.values() if isinstance(v, list) and v and isinstance(v[0], dict)), None)
    if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
        raise TaskError(f"{path}: not a list of objects")
    yield from found


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TaskError(f"{path}: parquet needs pyarrow\nInstall it: pip install 'incentive[hub]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for part in file.iter_batches(BATCH):
                yield from part.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise TaskError(f"{path}: not valid parquet: {str(error).splitlines()[0][:120]}") from None
