"""The tier for machines without namespaces: Landlock, a list of system calls, rlimits and a session of its own.

Needs no package and no rights: Linux 5.13 or later with Landlock, on x86-64. Full Python. No file can be changed, none
opened but those of Python's own library; no socket, no other process, no signal to another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from incentive.verify import kernel
from incentive.verify.jail import PYTHON, Jail, start_code, system_folders
from incentive.verify.local import Local
from incentive.verify.sandbox import Limits

DOES_NOT_STOP = (
    "a fault in the kernel; looking whether a file exists and how large it is; seeing the machine's name, load and "
    "clock; programs that write files"
)

_jail: Jail | None = None


def missing() -> str | None:
    if not kernel.supported():
        return "it needs Linux on x86-64\nUse the tier monty."
    if kernel.landlock_version() == 0:
        return "the kernel has no Landlock\nIt needs Linux 5.13 with lsm=landlock; use the tier monty."
    return None


def open_(workers: int, limits: Limits) -> Local:
    return Local("landlock", __name__, DOES_NOT_STOP, workers, limits)


def setup(limits: dict[str, Any]) -> None:
    global _jail
    own = Limits(**limits)
    package = str(Path(__file__).parents[2])
    _jail = Jail([PYTHON, *start_code(package, False, system_folders(), own)], own)
    _jail.start()


def run(program: dict[str, Any]) -> dict[str, Any]:
    assert _jail is not None
    return _jail.run(program)
