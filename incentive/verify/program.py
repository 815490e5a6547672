"""The process of one program, in its jail: walls first, then the source, then its inputs. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from incentive.verify import kernel, values
from incentive.verify.wire import READY, SCRIPT, Gone, Walls, read_frame, write_frame

_HIGH = 56  # a program's pipes have numbers from here on, below its limit of 64


def start(mode: bytes, walls: Walls, there: int, back: int, stdin: int, stdout: int) -> None:
    """Walls first, then the source. Never returns; status 9 where a wall does not stand."""
    try:
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _HIGH) for fd in (there, back)]
        rules = None if walls.landlock is None else fcntl.fcntl(walls.landlock, fcntl.F_DUPFD, _HIGH)
        nothing = os.open("/dev/null", os.O_RDWR)
        for target, fd in enumerate((stdin, stdout, nothing) if mode == SCRIPT else (nothing, nothing, nothing)):
            os.dup2(fd, target)
        os.closerange(3, _HIGH)
        os.closerange(_HIGH + 3, 4096)
        there, back = high
        _enclose(walls, rules)
        sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    except BaseException as error:
        with contextlib.suppress(OSError):
            write_frame(back, _named(error).encode())
        os._exit(9)
    random.seed(0)
    write_frame(back, READY)
    told = json.loads(read_frame(there))
    if mode == SCRIPT:
        os.close(there)
        os.close(back)
        _run_script(told["source"])
    _run_function(told["source"], told["entry"], walls.output, there, back)


def _enclose(walls: Walls, rules: int | None) -> None:
    """Put up every wall of the tier; what fails raises, and the program never runs."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    if walls.namespaces:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", kernel.MS_REC | kernel.MS_PRIVATE)
        closed = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("tmpfs", "/tmp", closed, f"size={walls.file},nr_inodes=256,mode=700")
        kernel.mount("tmpfs", "/proc", closed | kernel.MS_RDONLY, "size=0,nr_inodes=2,mode=500")
    os.chdir("/tmp" if walls.namespaces else "/")
    kernel.drop_capabilities()
    kernel.limit(walls.memory, max(walls.file, walls.output + 1))
    if rules is not None:
        kernel.landlock(rules)
        os.close(rules)
    kernel.seccomp(kernel.filter_code(walls.namespaces, os.getpid()))


def _run_script(source: str) -> None:
    status = 0
    try:
        exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        status = 0 if ended.code in (None, 0) else 1
    except BaseException:
        status = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # as at the end of any Python: threads finish first
        sys.stdout.flush()
    except BaseException:
        status = 1
    os._exit(status)


def _run_function(source: str, entry: str, size: int, there: int, back: int) -> None:
    """Define, say so, then answer inputs one by one until the pipe ends."""
    try:
        scope: dict[str, Any] = {"__name__": "program"}
        exec(compile(source, "program.py", "exec"), scope)
        name, _, method = entry.partition(".")
        found = scope[name]
        function: Callable[..., Any] = (lambda *a: getattr(found(), method)(*a)) if method else found
        first = ["defined", ""]
    except BaseException as error:
        first = ["limit", _named(error)]
    write_frame(back, json.dumps(first).encode())
    if first[0] == "limit":
        os._exit(0)
    while True:
        try:
            arguments = json.loads(read_frame(there))
        except Gone:
            os._exit(0)
        try:
            data = json.dumps(["value", values.encode(function(*values.decode(arguments)), size)]).encode()
            if len(data) > size:
                raise values.NotPlain(f"more than {size >> 10} KiB")
        except BaseException as error:
            data = json.dumps(["error", _named(error)]).encode()
        write_frame(back, data)


def _named(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:300]
    except BaseException:
        return "an exception that cannot be shown"
