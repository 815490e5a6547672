"""The tier that is everywhere: pydantic-monty, an interpreter of a part of Python written for untrusted code.

The interpreter has no means to touch the host: no files, sockets, processes, clock of its own choosing or foreign code
exist in it. It runs in a process of its own with an empty environment, started by this worker, which can be killed
in turn. It knows a part of Python: docs/sandbox.md lists what.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from incentive.verify import values
from incentive.verify.local import Local
from incentive.verify.sandbox import Limits

DOES_NOT_STOP = (
    "a fault in the interpreter's own memory safety: its process has this user's rights, with no wall of the kernel's; "
    "programs that need Python beyond its part fail"
)

RECURSION = 400
OUTSIDE_S = 2.0  # beyond the interpreter's own clock, which does not run while it compiles

# `input` is not part of the interpreter; lines are taken from a list that is bound before a test.
_INPUT = """
def input(prompt=''):
    print(prompt, end='')
    if not _lines:
        raise EOFError('EOF when reading a line')
    return _lines.pop(0)
"""

_pool: Any = None
_limits = Limits()


def missing() -> str | None:
    if importlib.util.find_spec("pydantic_monty") is None:
        return "pydantic-monty is not installed\nInstall it: pip install pydantic-monty"
    return None


def open_(workers: int, limits: Limits) -> Local:
    return Local("monty", __name__, DOES_NOT_STOP, workers, limits)


# --- in the worker ---------------------------------------------------------------------------------------------------


def setup(limits: dict[str, Any]) -> None:
    """Start this worker's interpreter process, which inherits what is set here."""
    global _pool, _limits
    import pydantic_monty

    _limits = Limits(**limits)
    size = (_limits.memory_mib + 512) << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _pool = pydantic_monty.Monty(
        min_processes=1,
        max_processes=1,
        checkout_timeout=30.0,
        request_timeout=_limits.seconds + OUTSIDE_S,
    )
    _pool.__enter__()


def run(program: dict[str, Any]) -> dict[str, Any]:
    """A program over its inputs, in one session where it has an entry, else in one a test; see `sandbox.judge`."""
    began = time.monotonic()
    results: list[list[Any]] = []
    if program["entry"] is None:
        for text in program["inputs"]:
            results.append(_script(program["source"], text))
            if results[-1][0] == "limit":
                break
    else:
        _function(program, results)
    return {"results": results, "seconds": time.monotonic() - began}


@contextmanager
def _session() -> Iterator[Any]:
    """A fresh interpreter. One that cannot be had, or that dies otherwise than by the clock, raises out of `run`: the
    program is then tried once more in a new worker."""
    import pydantic_monty as monty

    limits = {
        "max_feed_duration_secs": _limits.seconds,
        "max_memory": _limits.memory_mib << 20,
        "max_recursion_depth": RECURSION,
        "max_suspensions": 1000,
        "max_total_sleep_secs": 0.0,
    }
    policy = {"sleep": "zero", "random_start": {"seed": 0}}  # rewards depend on no clock and no dice
    try:
        with _pool.checkout(limits=limits, os_policy=policy) as session:
            yield session
    except monty.MontyError as error:
        raise RuntimeError(f"the interpreter failed: {error}") from None


def _result(session: Any, code: str, inputs: dict[str, Any], out: Any) -> tuple[list[Any] | None, Any]:
    """Run code: what went wrong (a result) or None, and the value of its last expression."""
    import pydantic_monty as monty

    try:
        return None, session.feed_run(code, inputs=inputs, print_callback=out)
    except monty.MontyCrashedError as error:
        if not error.timed_out:
            raise
        return ["limit", str(error)], None
    except monty.MontyRuntimeError as error:
        text = error.display("type-msg")[:300]
        return ["limit" if text.startswith(("TimeoutError", "MemoryError")) else "error", text], None
    except monty.MontyError as error:
        return ["error", f"{type(error).__name__}: {error}"[:300]], None


def _paper() -> Any:
    """Where a program's output goes; more than the limit ends the program."""
    import pydantic_monty as monty

    return monty.CollectString(_limits.output_kib << 10)


def _script(source: str, text: str) -> list[Any]:
    """One run of a program that reads and prints."""
    out = _paper()
    with _session() as session:
        _result(session, _INPUT, {"_lines": text.splitlines()}, out)
        return _result(session, source, {}, out)[0] or ["value", out.output]


def _function(program: dict[str, Any], results: list[list[Any]]) -> None:
    """Define the program, then call its entry once an input; what it prints is dropped."""
    call = "().".join(program["entry"].split(".")) + "(*_arguments)"
    with _session() as session:
        failed, _ = _result(session, program["source"], {}, _paper())
        if failed:
            results.append(["limit", failed[1]])
            return
        for arguments in program["inputs"]:
            failed, value = _result(session, call, {"_arguments": values.decode(arguments)}, _paper())
            results.append(failed or packed(value, _limits.output_kib << 10))
            if results[-1][0] == "limit":
                return


def packed(value: Any, size: int) -> list[Any]:
    """A returned value as a result: plain data within `size` bytes of JSON, or the error that it is not."""
    try:
        data = values.encode(value, size)
        if len(json.dumps(data)) > size:
            return ["error", f"returned more than {size >> 10} KiB"]
    except (values.NotPlain, ValueError, RecursionError) as error:
        return ["error", f"returned {str(error)[:200]}"]
    return ["value", data]
