"""What a result depends on: a stage's key (its settings and inputs) and, beside the settings, the environment."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from incentive.files import RunError, file_hash
from incentive.records import SCHEMA

UNKEYED = {"max_steps", "save_steps", "save_seconds", "keep"}  # a stage's settings that change no weight up to step N
# settings that came after runs were made: at this value they count in no key, so that those go on
LATER = {"device": "cpu"}


@dataclass(frozen=True)
class Artifact:
    """What stages exchange. A stage returns kind, path and meta; `Run.stage` fills in its key and its inputs'."""

    kind: Literal["weights", "dataset", "eval"]
    path: Path
    key: str = ""
    inputs: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


def digest(value: Any) -> str:
    """The short hash of plain data: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def folder_key(path: Path) -> str:
    """The key of a model folder: its weights, config and tokenizer, wherever it lies.

    Raises:
        RunError: the folder holds no safetensors.
    """
    globs = ("*.safetensors", "config.json", "tokenizer*", "vocab*", "merges.txt", "chat_template*", "*.model")
    files = {p.name: file_hash(p) for g in globs for p in path.glob(g)}
    if not any(name.endswith(".safetensors") for name in files):
        raise RunError(f"{path}: no model here (a folder with config.json, tokenizer.json and *.safetensors)")
    return digest(files)


def ident(value: Any) -> Any:
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
        return {str(k): ident(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [ident(v) for v in value]
    named = value if hasattr(value, "__name__") else type(value)
    name = f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', named.__name__)}"
    return f"{name} {getattr(value, 'version', '')}".strip(" .")


def counting(section: BaseModel | None) -> dict[str, Any]:
    """A section's settings that count in the key. Where the learning rate follows a schedule, max_steps shapes it."""
    plain = section.model_dump(mode="json") if section else {}
    shaped = plain.get("optim", {}).get("lr_scheduler_type", "constant") != "constant"
    counts = {k: v for k, v in plain.items() if k not in UNKEYED or (shaped and k == "max_steps")}
    return {k: v for k, v in counts.items() if k not in LATER or LATER[k] != v}


def _flat(node: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {at: node}
    return {k: v for name, child in node.items() for k, v in _flat(child, f"{at}.{name}" if at else name).items()}


def changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs, in words: each dotted key with its old value and its new one."""
    a, b = _flat(old), _flat(new)
    return ", ".join(f"{k} {a.get(k)} -> {b.get(k)}" for k in {**a, **b} if a.get(k) != b.get(k))


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
        "code": digest({p.relative_to(package).as_posix(): file_hash(p) for p in sorted(package.rglob("*.py"))}),
    }
