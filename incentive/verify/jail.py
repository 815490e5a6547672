"""The worker's side of a jail: starts it, gives it programs, replaces it. Shared by the tiers that are jails."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any, cast

from incentive.verify import values, wire
from incentive.verify.sandbox import Limits

START_S = 20.0
MARGIN_S = 5.0  # beyond the keeper's own clock

PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
FLAGS = ["-I", "-S", "-B", "-X", "utf8"]
CLEAN = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}


def start_code(path: str, namespaces: bool, readable: list[str] | None, limits: Limits) -> list[str]:
    """Arguments for Python that make it the warm process of a jail."""
    settings = json.dumps({"namespaces": namespaces, "readable": readable, "limits": asdict(limits)})
    code = "import sys; sys.path.insert(0, sys.argv[1]); from incentive.verify.inside import main; main(sys.argv[2])"
    return [*FLAGS, "-c", code, path, settings]


def system_folders() -> list[str]:
    """Where Python's own library and the shared objects it loads lie; all that a program may read."""
    found = [os.path.dirname(os.__file__), "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo"]
    return sorted({os.path.realpath(folder) for folder in found if os.path.isdir(folder)})


class JailDown(RuntimeError):
    """The jail does not start, or does not answer: not a program's doing as far as can be seen."""


class Jail:
    """One warm process in its jail."""

    def __init__(self, command: list[str], limits: Limits):
        self.command, self.limits = command, limits
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.stop()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN, cwd="/", bufsize=0
        )  # fmt: skip
        try:
            if self._read(1, time.monotonic() + START_S) != b"!":
                raise wire.Gone
        except (wire.Gone, TimeoutError):
            raise JailDown(f"the jail does not start: {self._last_words()}") from None

    def _alive(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise JailDown("the jail has ended")
        return self.process

    def _input(self) -> int:
        return cast(IO[bytes], self._alive().stdin).fileno()

    def _last_words(self) -> str:
        process = self._alive()
        process.kill()
        said = cast(IO[bytes], process.stderr).read().decode("utf-8", "replace").strip().splitlines()
        return said[-1][:200] if said else "it says nothing"

    def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe:
                    pipe.close()
        self.process = None

    def _read(self, size: int, until: float) -> bytes:
        fd, data = cast(IO[bytes], self._alive().stdout).fileno(), bytearray()
        while len(data) < size:
            if not select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            part = os.read(fd, min(size - len(data), 1 << 20))
            if not part:
                raise wire.Gone
            data += part
        return bytes(data)

    def _ask(self, *frames: bytes) -> tuple[str, str]:
        """Send frames, get one result: its kind and text.

        Raises:
            JailDown: there is none; the jail is stopped.
        """
        until = time.monotonic() + 3 * self.limits.seconds + 1 + MARGIN_S
        try:
            for frame in frames:
                wire.write_frame(self._input(), frame)
            size = int.from_bytes(self._read(4, until), sys.byteorder)
            if size > wire.MAX_FRAME:
                raise wire.Gone
            kind, text, suspicious = json.loads(self._read(size, until))
        except (OSError, wire.Gone, TimeoutError, ValueError) as error:
            self.stop()
            raise JailDown(f"the jail gave no answer ({type(error).__name__})") from None
        if kind == "down":
            why = f"{text}; {self._last_words()}"
            self.stop()
            raise JailDown(why)
        if suspicious:
            self.stop()
        return kind, text

    def _go(self, mode: bytes) -> None:
        if self.process is None:
            self.start()
        try:
            os.write(self._input(), mode)
        except BrokenPipeError:  # it ended since the last program
            self.start()
            os.write(self._input(), mode)
        kind, text = self._ask()
        if kind != "ready":
            raise JailDown(f"{kind}: {text}")

    def run(self, program: dict[str, Any]) -> dict[str, Any]:
        """See `sandbox.judge`; `{"down": why}` where there was no jail to run it in.

        Raises:
            JailDown: the jail failed with the program in it, which may have caused that.
        """
        began = time.monotonic()
        results: list[list[Any]] = []
        mode = wire.FUNCTION if program["entry"] else wire.SCRIPT
        for text in program["inputs"] if mode == wire.SCRIPT else [""]:
            try:
                self._go(mode)
            except JailDown as down:
                return {"down": str(down)}
            if mode == wire.SCRIPT:
                results.append(self._script(program["source"], text))
            else:
                self._function(program, results)
            if results[-1][0] == "limit":
                break
        return {"results": results, "seconds": time.monotonic() - began}

    def _script(self, source: str, text: str) -> list[Any]:
        told = json.dumps({"source": source}).encode()
        kind, out = self._ask(told, text.encode("utf-8", "surrogateescape"))
        return ["value", out] if kind == "text" else [kind, out]

    def _function(self, program: dict[str, Any], results: list[list[Any]]) -> None:
        kind, text = self._ask(json.dumps({"source": program["source"], "entry": program["entry"]}).encode())
        first = ["limit", text] if kind == "limit" else _result(text)
        if first[0] != "defined":
            results.append(["limit", first[1]])
            if kind != "limit":
                self._finish()
            return
        for arguments in program["inputs"]:
            kind, text = self._ask(json.dumps(arguments).encode())
            results.append(["limit", text] if kind == "limit" else _result(text))
            if kind == "limit":
                return
            if results[-1][0] not in ("value", "error"):
                results[-1] = ["error", "its result is no result"]
        self._finish()

    def _finish(self) -> None:
        if self.process is not None:
            wire.write_frame(self._input(), wire.END)


def _result(text: str) -> list[Any]:
    """A program's frame, of unknown origin, as `[kind, value]` of sound data."""
    try:
        kind, value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return ["error", "its result is no JSON"]
    if kind == "value" and values.sound(value):
        return ["value", value]
    return (
        [kind, value[:300]]
        if kind in ("defined", "error", "limit") and isinstance(value, str)
        else ["error", "its result is unsound"]
    )
