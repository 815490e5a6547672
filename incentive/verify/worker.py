"""The process that a `Pool` starts: reads jobs, calls the target, writes what came of it. Standard library only.

    python worker.py LIFELINE JOBS RESULTS MEMORY_MIB

Lines of JSON both ways. In: first `{target, setup, path}`, then `[n, payload]`. Out: first `["ready"]`, then a job's
`[n, "done", value]` or `[n, "memory" | "raised", why]`, after which the process ends. Results leave one by one, as they
are made, so that the parent knows at any time which job is running.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

RESULT_BYTES = 8 << 20  # a larger result is the job's fault


def _end_with(lifeline: int) -> None:
    """Let the kernel kill this process and its group when the parent's end of the pipe closes, busy or not."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    if hasattr(fcntl, "F_SETSIG"):  # Linux; needs no interpreter that is free to look
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    else:
        signal.signal(signal.SIGIO, lambda *_: os._exit(1))
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if not os.get_blocking(lifeline) or os.getppid() == 1:
        os._exit(1)


def _limit(memory_mib: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere the parent watches the size
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))


def _send(fd: int, line: list[Any]) -> bool:
    """Write a line; False where the value is no JSON or too large, and a fault went out instead."""
    fault = ""
    try:
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        fault, data = f"the result is no JSON: {error}", b""
    if len(data) > RESULT_BYTES:
        fault = f"the result has {len(data)} bytes; at most {RESULT_BYTES}"
    if fault:
        data = json.dumps([line[0], "raised", fault]).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]
    return not fault


def _answer(function: Callable[[Any], Any], n: int, payload: Any, results: int) -> bool:
    try:
        return _send(results, [n, "done", function(payload)])
    except MemoryError:
        why, kind = "out of memory", "memory"
    except Exception as error:  # whatever a target raises is data for the caller
        why, kind = f"{type(error).__name__}: {error}"[:500], "raised"
    _send(results, [n, kind, why])
    return False


def _target(name: str, setup: Any) -> Callable[[Any], Any]:
    module, _, function = name.partition(":")
    room = importlib.import_module(module)
    if setup is not None:
        room.setup(setup)
    return getattr(room, function)


def main(lifeline: int, jobs: int, results: int, memory_mib: int) -> None:
    for fd in (lifeline, jobs, results):
        os.set_inheritable(fd, False)
    _end_with(lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this ends
    with open(jobs, "rb", closefd=False) as lines:
        first = json.loads(lines.readline())
        sys.path[:] = first["path"]
        try:
            function = _target(first["target"], first["setup"])
            _limit(memory_mib)
        except Exception as error:
            _send(results, ["down", f"{type(error).__name__}: {error}"])
            return
        _send(results, ["ready"])
        for line in lines:
            n, payload = json.loads(line)
            if not _answer(function, n, payload, results):
                return


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
