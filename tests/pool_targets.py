"""Targets of the pool's tests: what a job can do to its worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

prefix = ""


def setup(data: Any) -> None:
    global prefix
    if data == "fail":
        raise RuntimeError("no such thing")
    prefix = str(data)


def say(payload: Any) -> Any:
    return f"{prefix}{payload}"


def act(payload: Any) -> Any:
    what = payload[0] if isinstance(payload, list) else payload
    if what == "hang":
        while True:
            pass
    if what == "hold the interpreter":
        return len(str(7 ** (10**8)))
    if what == "memory":
        return len(bytearray(4 << 30))
    if what == "exit":
        os._exit(3)
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "raise":
        raise KeyError("x")
    if what == "nan":
        return float("nan")
    if what == "large":
        return "x" * (9 << 20)
    if what == "forge":
        for fd in range(3, 64):
            with contextlib.suppress(OSError):
                os.write(fd, b'[1,"done","forged"]\n')
        return "said"
    if what == "child":
        child = subprocess.Popen(["sleep", "60"])
        Path(payload[1]).write_text(str(child.pid))
        time.sleep(60)
    if what == "pid":
        return os.getpid()
    return payload
