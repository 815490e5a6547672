"""Rows of a data set: from the Hub's cache, or from a local copy; parquet, jsonl, json and csv.

What was read is recorded by commit and by the hash of each file. The only file that imports huggingface_hub and pyarrow, and
both late (extra `hub`).
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from incentive.tasks.jsonl import TaskError, as_object

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
    local = Path(data) if data is not None else Path(source.id)
    if data is not None and not local.exists():
        raise TaskError(f"{data}: no such file or folder\nGive a local copy of {source.id}: {', '.join(FORMATS)}.")
    given = local.exists()
    root, commit = (local, None) if given else _snapshot(source)
    paths = [root] if root.is_file() else _chosen(root, source, strict=data is None)
    rows: list[Row] = []
    for path in paths:
        rows += _rows(path)
    if not rows:
        raise TaskError(f"{root}: the files hold no rows")
    names = {p.name if p == root else p.relative_to(root).as_posix(): _sha256(p) for p in paths}
    return Table(rows, {"dataset": source.id, "revision": commit or "local copy", "files": names})


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
        TaskError: it is no id, the Hub knows none of that name, it is gated, or the Hub cannot be reached.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source.id):
        raise TaskError(f"{source.id}: no such file or folder, and no data set's id (owner/name)")
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import snapshot_download
    except ImportError:
        raise TaskError(
            "reading from the Hub needs huggingface_hub\nInstall it: pip install 'incentive[hub]'"
        ) from None
    at = f"data set {source.id} at {source.revision[:12]}"
    instead = "or give a local copy of the same schema (parquet, jsonl, json or csv)"
    patterns = list(source.files) or [f"*{suffix}" for suffix in FORMATS]
    try:
        folder = snapshot_download(source.id, repo_type="dataset", revision=source.revision, allow_patterns=patterns)
    except hub.GatedRepoError:
        page = f"https://huggingface.co/datasets/{source.id}"
        raise TaskError(
            f"{at}: its owner asks for an agreement\nAccept it at {page} and run `hf auth login`, {instead}."
        ) from None
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
        raise TaskError(f"{at}: the Hub has none, or it is private\nCheck id and revision, {instead}.") from None
    except hub.LocalEntryNotFoundError:
        raise TaskError(
            f"{at}: not in the local cache, and the Hub cannot be reached\nRun this once with a connection, {instead}."
        ) from None
    except Exception as error:  # the client raises the kinds of its HTTP library; all mean the same to a user
        why = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise TaskError(f"{at}: {why}\nTry again, {instead}.") from None
    return Path(folder), Path(folder).name


# files


def _rows(path: Path) -> list[Row]:
    """The rows of one file.

    Raises:
        TaskError: it cannot be read; the message names the file and, where there are lines, the line.
    """
    try:
        if path.suffix == ".parquet":
            return _parquet(path)
        if path.suffix == ".csv":
            csv.field_size_limit(2**31 - 1)
            with path.open(encoding="utf-8-sig", newline="") as file:
                return list(csv.DictReader(file))
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        if path.suffix == ".jsonl":
            return [as_object(x, f"{path}:{n}") for n, x in enumerate(data.split(b"\n"), 1) if x.strip()]
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
    return found


def _parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TaskError(f"{path}: parquet needs pyarrow\nInstall it: pip install 'incentive[hub]'") from None
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise TaskError(f"{path}: not valid parquet: {str(error).splitlines()[0][:120]}") from None
