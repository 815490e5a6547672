"""Programs that a model wrote, run in isolation against tests that they never see. The sandbox's front door.

    with open_sandbox("monty") as box:
        verdicts = box.run([("a", Program("def f(x): return x + 1", (Test([1], 2),), entry="f"))])

A recipe names its tier, so that rewards do not depend on the machine. Whatever the tier: a program is given the inputs
one at a time and returns data; the outputs that are wanted stay in this process, and so does the comparison.
"""

from __future__ import annotations

import importlib
import keyword
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

from incentive.verify import values

TIERS = ("bubblewrap", "landlock", "monty", "remote")
MAX_SOURCE = 1 << 18  # characters
_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", re.ASCII)


class SandboxMissing(RuntimeError):
    """This machine lacks the tier. Two lines: what is missing, and how to get it."""


class SandboxDown(RuntimeError):
    """The tier ran before, or should, and does not: no program is to blame, and none is paid for it."""


@dataclass(frozen=True, slots=True)
class Test:
    """One case. For a function, `input` is the list of its arguments and `output` what it returns; else both are text.

    A tolerance lets numbers differ by as much, absolutely or relatively.
    """

    __test__ = False  # no test of pytest's

    input: Any
    output: Any
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """Source with its hidden tests. `entry`: `function`, `Class.method` (called on a new instance), or None for a
    program that reads stdin and writes stdout.

    Raises:
        ValueError: no tests (such a program would pass), an entry that is no name, inputs or outputs of the wrong kind.
    """

    source: str
    tests: tuple[Test, ...]
    entry: str | None = None

    def __post_init__(self) -> None:
        if not self.tests:
            raise ValueError("a program without tests would pass; give at least one")
        if self.entry is None:
            if not all(isinstance(t.input, str) and isinstance(t.output, str) for t in self.tests):
                raise ValueError("without an entry, a test's input and output are texts (stdin, stdout)")
        elif not _ENTRY.fullmatch(self.entry) or any(map(keyword.iskeyword, self.entry.split("."))):
            raise ValueError(f"entry {self.entry!r} is no name of a function, nor Class.method")
        elif not all(isinstance(t.input, list | tuple) for t in self.tests):
            raise ValueError(f"the input of a test of {self.entry} is the list of its arguments")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. `seconds` is each test's; the program ends with the first test that exceeds a limit."""

    seconds: float = 2.0
    memory_mib: int = 256
    output_kib: int = 64  # of one test: printed, or the returned value as JSON
    processes: int = 16  # threads; another process is never allowed
    file_kib: int = 1024  # all files of one program, where a tier has files at all


@dataclass(frozen=True, slots=True)
class Verdict:
    """`fail` is whatever the program caused; `ungraded` is only what it cannot have caused."""

    outcome: Literal["pass", "fail", "ungraded"]
    passed: int
    total: int
    why: str
    seconds: float


class Sandbox(Protocol):
    """One tier, open. Not shared between threads."""

    name: str
    does_not_stop: str

    def run(self, programs: Iterable[tuple[str, Program]]) -> dict[str, Verdict]:
        """A verdict for every id.

        Raises:
            SandboxDown: the tier does not run a program that is known to be right.
        """
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Tier(NamedTuple):
    name: str
    available: bool
    why_not: str
    does_not_stop: str


def _room(tier: str) -> ModuleType:
    if tier not in TIERS:
        raise SandboxMissing(f"there is no sandbox tier {tier!r}\nName one of: {', '.join(TIERS)}.")
    return importlib.import_module(f"incentive.verify.{tier}")


def open_sandbox(tier: str, workers: int = 2, limits: Limits | None = None) -> Sandbox:
    """The named tier, with `workers` programs at a time. `remote:URL` names an endpoint.

    Raises:
        SandboxMissing: there is no such tier, or this machine lacks it.
    """
    name, _, where = tier.partition(":")
    room = _room(name)
    if why := room.missing(where) if name == "remote" else room.missing():
        raise SandboxMissing(f"the sandbox tier {name!r} cannot run here: {why}")
    limits = limits or Limits()
    return room.open_(workers, limits, where) if name == "remote" else room.open_(workers, limits)


def strongest() -> str:
    """The strongest local tier of this machine; evaluation names it beside its figures.

    Raises:
        SandboxMissing: there is none at all.
    """
    for tier in tiers():
        if tier.available and tier.name != "remote":
            return tier.name
    raise SandboxMissing("this machine has no sandbox tier\n" + "\n".join(f"{t.name}: {t.why_not}" for t in tiers()))


def tiers() -> list[Tier]:
    """Every tier, strongest first, with why it is missing and what it does not stop."""
    rooms = [(name, _room(name)) for name in TIERS]
    return [Tier(n, not (why := r.missing()), (why or "").replace("\n", " "), r.DOES_NOT_STOP) for n, r in rooms]


def judge(program: Program, report: dict[str, Any]) -> Verdict:
    """A tier's report against the wanted outputs: the only place where the two meet.

    The report is `{results, seconds}` with one `[kind, value]` a test that ran: `value` (encoded data, or text where there
    is no entry), `error` (it raised, or returned no plain data) or `limit` (the program was ended). Tests
    beyond the last did not run; they are not passed.
    """
    total, passed, why = len(program.tests), 0, ""
    results = report["results"]
    if len(results) > total:
        raise ValueError(f"{len(results)} results of {total} tests")
    for n, test in enumerate(program.tests):
        kind, value = results[n] if n < len(results) else ("error", "did not run")
        if kind != "value":
            why = why or f"test {n + 1}: {value}"
        elif _right(program, test, value):
            passed += 1
        else:
            why = why or f"test {n + 1}: wrong output"
    return Verdict("pass" if passed == total else "fail", passed, total, why[:300], report["seconds"])


def _right(program: Program, test: Test, value: Any) -> bool:
    if program.entry is None:
        return isinstance(value, str) and values.same_text(test.output, value, test.tolerance)
    return values.sound(value) and values.same(values.encode(test.output), value, test.tolerance)


def payload(program: Program) -> dict[str, Any]:
    """What a tier is told of a program: all but the outputs."""
    inputs = [t.input if program.entry is None else values.encode(list(t.input)) for t in program.tests]
    return {"source": program.source, "entry": program.entry, "inputs": inputs}
