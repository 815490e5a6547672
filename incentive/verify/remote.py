"""The tier for clusters: a SandboxFusion-style endpoint, `POST URL/run_code`, one call a test.

Only the program and one input are sent; the wanted outputs stay here. How well programs are held is the endpoint's
business: this side guards itself, by size, time and strict reading, and never counts an endpoint's fault as an answer's.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from incentive.verify import values
from incentive.verify.local import PROBE
from incentive.verify.sandbox import MAX_SOURCE, Limits, Program, SandboxDown, Verdict, judge, payload

DOES_NOT_STOP = "whatever the endpoint's own isolation does not stop; programs are sent to it over the network"

VARIABLE = "INCENTIVE_SANDBOX_URL"
TRIES = 3
PAUSE_S = 0.5  # before the second try; twice that before the third
MARGIN_S = 10.0  # beyond a program's time, for the endpoint to start it
LARGEST = 1 << 22  # bytes of a response, beside the output

# Follows the text of values.py. The program's own prints go nowhere; its result is the last line.
_DRIVER = """
import io, os, sys
_out, _size = os.dup(1), {size}
try:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
except OSError:  # no device may be opened there
    sys.stdout = io.StringIO()
_arguments = decode(json.loads(sys.stdin.read()))
try:
    _scope = {{"__name__": "program"}}
    exec(compile(json.loads({source!r}), "program.py", "exec"), _scope)
    _name, _, _method = {entry!r}.partition(".")
    _call = getattr(_scope[_name](), _method) if _method else _scope[_name]
    _result = json.dumps(["value", encode(_call(*_arguments), _size)])
    if len(_result) > _size:
        _result = json.dumps(["error", "its result is too large"])
except BaseException as _error:
    _result = json.dumps(["error", type(_error).__name__])
_view = memoryview(_result.encode())
while _view:
    _view = _view[os.write(_out, _view):]
os._exit(0)
"""


BUSY = (429, 502, 503, 504)  # what a gateway says of itself


class _Unreached(RuntimeError):
    """No result. `caused`: the program may have caused it (the endpoint was reached, and took too long or failed)."""

    def __init__(self, why: str, caused: bool):
        super().__init__(why)
        self.caused = caused


def missing(where: str = "") -> str | None:
    if where or os.environ.get(VARIABLE):
        return None
    return f"no endpoint is named\nName one: remote:http://host:8080, or set {VARIABLE}."


def open_(workers: int, limits: Limits, where: str = "") -> Remote:
    return Remote(where or os.environ[VARIABLE], workers, limits)


class Remote:
    """Programs over HTTP, `workers` at a time."""

    name, does_not_stop = "remote", DOES_NOT_STOP

    def __init__(self, url: str, workers: int, limits: Limits):
        self.url, self.limits = url.rstrip("/"), limits
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._prelude = Path(values.__file__).read_text()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def run(self, programs: Iterable[tuple[str, Program]]) -> dict[str, Verdict]:
        """A verdict for every id; see `Sandbox.run`.

        Raises:
            SandboxDown: a program got no result in three tries, and one known to be right gets none either.
            ValueError: two programs have one id.
        """
        given = list(programs)
        if len(dict(given)) < len(given):
            raise ValueError("two programs have one id")
        return dict(zip((id for id, _ in given), self._threads.map(self._verdict, (p for _, p in given)), strict=True))

    def _verdict(self, program: Program) -> Verdict:
        """Three tries; if none gives a result and a program known to be right gets one, that is the program's doing
        (`fail`) unless the endpoint was never reached (`ungraded`)."""
        total, began = len(program.tests), time.monotonic()
        if len(program.source) > MAX_SOURCE:
            return Verdict("fail", 0, total, f"source over {MAX_SOURCE} characters", 0.0)
        try:
            return self._run(program)
        except _Unreached as error:
            self._probe(str(error))
            outcome: Literal["fail", "ungraded"] = "fail" if error.caused else "ungraded"
            return Verdict(outcome, 0, total, str(error)[:300], time.monotonic() - began)

    def _probe(self, why: str) -> None:
        try:
            if self._run(PROBE).outcome == "pass":
                return
        except _Unreached as error:
            why = str(error)
        raise SandboxDown(
            f"the sandbox at {self.url} is down: a program known to be right does not pass ({why})\n"
            "No program was graded by it; mend it and start again with --resume."
        )

    def _run(self, program: Program) -> Verdict:
        began = time.monotonic()
        results: list[list[Any]] = []
        told = payload(program)
        for given in told["inputs"]:
            results.append(self._test(told["source"], told["entry"], given))
            if results[-1][0] == "limit":
                break
        return judge(program, {"results": results, "seconds": time.monotonic() - began})

    def _test(self, source: str, entry: str | None, given: Any) -> list[Any]:
        if entry is not None:
            driver = _DRIVER.format(size=self.limits.output_kib << 10, source=json.dumps(source), entry=entry)
            source, given = f"{self._prelude}\n{driver}", json.dumps(given)
        ran = self._post({
            "code": source, "language": "python", "stdin": given, "run_timeout": self.limits.seconds,
            "compile_timeout": self.limits.seconds, "memory_limit_MB": self.limits.memory_mib,
        })  # fmt: skip
        status, out = ran.get("status"), ran.get("stdout")
        if status == "TimeLimitExceeded":
            return ["limit", f"over {self.limits.seconds:g} s"]
        if status != "Finished" or ran.get("return_code") != 0 or not isinstance(out, str):
            return ["error", f"{status} with status {ran.get('return_code')}"]
        if len(out) > self.limits.output_kib << 10:
            return ["limit", f"more than {self.limits.output_kib} KiB of output"]
        return ["value", out] if entry is None else _result(out)

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        """The endpoint's `run_result`.

        Raises:
            _Unreached: no connection, an error of the server's, or nonsense, three times.
        """
        data = json.dumps(body).encode()
        largest = LARGEST + (self.limits.output_kib << 11)
        why, caused = "", True
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                request = urllib.request.Request(f"{self.url}/run_code", data, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=self.limits.seconds + MARGIN_S) as response:
                    text = response.read(largest + 1)
                if len(text) > largest:
                    return {"status": "Finished", "return_code": 0, "stdout": " " * largest}
                answer = json.loads(text)
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                why, caused = f"{type(error).__name__}: {error}", not _unreached(error)
                continue
            ran = answer.get("run_result") if isinstance(answer, dict) else None
            if isinstance(ran, dict) and answer.get("status") in ("Success", "Failed"):
                return ran
            why, caused = f"it answered {str(answer)[:120]}", True
        raise _Unreached(why, caused)


def _unreached(error: Exception) -> bool:
    """Whether the endpoint never had the program."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in BUSY
    return isinstance(error, urllib.error.URLError) and not isinstance(error.reason, TimeoutError)


def _result(out: str) -> list[Any]:
    """The last line of a function's output, of unknown origin, as `[kind, value]` of sound data."""
    try:
        kind, value = json.loads(out.rpartition("\n")[2])
    except (ValueError, TypeError, RecursionError):
        return ["error", "its result is no JSON"]
    if kind == "value" and values.sound(value):
        return ["value", value]
    return ["error", str(value)[:300] if kind == "error" else "its result is unsound"]
