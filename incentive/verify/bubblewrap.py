"""The strongest tier on one machine: bubblewrap, with namespaces of its own for each program inside.

bubblewrap gives the jail: new user, pid, network (none), ipc, uts and cgroup namespaces, a root that holds Python and the
system's libraries alone, read-only. Within it every program gets user, pid and mount namespaces once more, an empty /tmp of its
own, no capability and a list of system calls; when it ends, its pid namespace ends with all that it left behind.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from incentive.verify import kernel
from incentive.verify.jail import PYTHON, Jail, JailDown, start_code
from incentive.verify.local import Local
from incentive.verify.sandbox import Limits

DOES_NOT_STOP = "a fault in the kernel; seeing the machine's load and clock"

_FILES = ("inside.py", "kernel.py", "program.py", "values.py", "wire.py")
_jail: Jail | None = None


def command(limits: Limits) -> list[str]:
    here = Path(__file__).parent
    binds: list[str] = []
    for folder in ("/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"):
        if os.path.isdir(folder):
            binds += ["--ro-bind", folder, folder]
    for link in ("/lib", "/lib64"):
        if os.path.islink(link):
            binds += ["--symlink", os.readlink(link), link]
        elif os.path.isdir(link):
            binds += ["--ro-bind", link, link]
    python, prefix = PYTHON, os.path.realpath(sys.base_prefix)
    if prefix == "/usr" or not PYTHON.startswith(prefix + "/"):
        for path in (PYTHON, os.path.dirname(os.__file__)):
            binds += ["--ro-bind", path, path]
    else:  # under a name of its own: where it lies outside may tell whose machine this is
        library = "/python" + os.path.dirname(os.path.realpath(os.__file__)).removeprefix(prefix)
        binds += ["--ro-bind", prefix, "/python", "--tmpfs", f"{library}/site-packages"]
        binds += ["--setenv", "LD_LIBRARY_PATH", "/python/lib"]
        python = "/python" + PYTHON.removeprefix(prefix)
    for name in _FILES:
        binds += ["--ro-bind", str(here / name), f"/jail/incentive/verify/{name}"]
    for device in ("null", "zero", "urandom"):
        binds += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    spaces = ("user", "pid", "net", "ipc", "uts", "cgroup-try")
    apart = [*(f"--unshare-{space}" for space in spaces), "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
    alone = ["--die-with-parent", "--new-session", "--hostname", "jail"]
    clean = ["--clearenv", "--setenv", "PYTHONHASHSEED", "0", "--setenv", "LANG", "C.UTF-8"]
    shape = ["--proc", "/proc", "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/"]
    return ["bwrap", *apart, *alone, *clean, *binds, *shape, python, *start_code("/jail", True, None, limits)]


@functools.cache
def missing() -> str | None:
    """Tried for real once: many machines have the program but forbid it namespaces."""
    if not kernel.supported():
        return "it needs Linux on x86-64\nUse the tier monty."
    if shutil.which("bwrap") is None:
        return "bwrap is not installed\nInstall it: apt-get install bubblewrap (or dnf, pacman, apk)."
    jail = Jail(command(Limits(seconds=5.0)), Limits(seconds=5.0))
    try:
        jail.start()
        found = jail.run({"source": "def f(): return 1", "entry": "f", "inputs": [["list"]]})
    except JailDown as down:
        found = {"down": str(down)}
    finally:
        jail.stop()
    if found.get("results") != [["value", 1]]:
        why = found.get("down") or found["results"][0][1]
        return f"{why}\nAllow unprivileged user namespaces (containers: --security-opt seccomp=unconfined), or use the tier landlock."
    return None


def open_(workers: int, limits: Limits) -> Local:
    return Local("bubblewrap", __name__, DOES_NOT_STOP, workers, limits)


def setup(limits: dict[str, Any]) -> None:
    global _jail
    own = Limits(**limits)
    _jail = Jail(command(own), own)
    _jail.start()


def run(program: dict[str, Any]) -> dict[str, Any]:
    assert _jail is not None
    return _jail.run(program)
