"""A tier on this machine: programs go to warm worker processes, and what came of each is judged here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from incentive.verify.pool import Done, Fault, Pool
from incentive.verify.sandbox import MAX_SOURCE, Limits, Program, SandboxDown, Test, Verdict, judge, payload

GRACE_S = 5.0  # a tier ends an overrunning test by itself; beyond this its worker is ended as a whole

PROBE = Program("def f(xs):\n    return [x + 1 for x in xs]\n", (Test([[1, 2]], [2, 3]), Test([[]], [])), entry="f")


class Local:
    """Workers that run `module:run`, each with the module's `setup(limits)` done."""

    def __init__(self, name: str, module: str, does_not_stop: str, workers: int, limits: Limits):
        self.name, self.does_not_stop, self.limits = name, does_not_stop, limits
        self._pool = Pool(
            f"{module}:run", workers, memory_mib=limits.memory_mib + 1024, setup=dataclasses.asdict(limits)
        )

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.close()

    def run(self, programs: Iterable[tuple[str, Program]]) -> dict[str, Verdict]:
        """A verdict for every id.

        A program that takes its worker down is run once more. If that fails again, and a program known to be right passes,
        it was the program's doing (`fail`) or a jail that did not start (`ungraded`).

        Raises:
            SandboxDown: the known program does not pass.
            PoolError: no worker starts.
            ValueError: two programs have one id.
        """
        given = list(programs)
        known = dict(given)
        verdicts: dict[str, Verdict] = {}
        waiting = []
        for id, program in given:
            if len(program.source) > MAX_SOURCE:
                verdicts[id] = Verdict("fail", 0, len(program.tests), f"source over {MAX_SOURCE} characters", 0.0)
            else:
                waiting.append((id, program))
        left: dict[str, str | None] = {}
        for _ in range(2):
            left = self._try(waiting, verdicts)
            if not left:
                return verdicts
            waiting = [(id, known[id]) for id in left]
            self._probe()
        for id, fault in left.items():
            total = len(known[id].tests)
            verdicts[id] = Verdict("fail" if fault else "ungraded", 0, total, fault or "the jail did not start", 0.0)
        return verdicts

    def _try(self, programs: list[tuple[str, Program]], verdicts: dict[str, Verdict]) -> dict[str, str | None]:
        """Run and judge; gives back those without a verdict, with the fault of the worker, None where the jail is down."""
        known = dict(programs)
        longest = max((len(p.tests) for _, p in programs), default=0)
        timeout = (longest + 1) * 4 * self.limits.seconds + GRACE_S
        left: dict[str, str | None] = {}
        for id, outcome in self._pool.run(((id, payload(p)) for id, p in programs), timeout):
            if isinstance(outcome, Fault):
                left[id] = f"{outcome.kind}: {outcome.why}"
            elif "down" in outcome.value:
                left[id] = None
            else:
                verdicts[id] = judge(known[id], outcome.value)
        return left

    def _probe(self) -> None:
        """One program that is right: whatever fails with it is not a program's fault."""
        for _ in range(2):
            why: Any = "no outcome"
            for _, outcome in self._pool.run([("probe", payload(PROBE))], 2 * self.limits.seconds + 6 * GRACE_S):
                if isinstance(outcome, Done) and "down" not in outcome.value:
                    verdict = judge(PROBE, outcome.value)
                    if verdict.outcome == "pass":
                        return
                    why = verdict.why
                else:
                    why = outcome.value["down"] if isinstance(outcome, Done) else outcome.why
        raise SandboxDown(
            f"the sandbox tier {self.name!r} is down: a program known to be right does not pass ({why})\n"
            "No program was graded by it; mend it and start again with --resume."
        )
