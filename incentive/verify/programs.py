"""Programs as answers to the problems of a data set: hidden tests, in the sandbox tier that the task names."""

from __future__ import annotations

import atexit
import threading
from functools import lru_cache
from typing import Any

from incentive.rewards import RewardError
from incentive.verify.benchmarks import last_block, program
from incentive.verify.sandbox import Limits, Sandbox, SandboxDown, SandboxMissing, open_sandbox

LIMITS = Limits(seconds=6.0, memory_mib=1024, output_kib=1024)  # as in evaluation
_LOCK = threading.Lock()  # a sandbox is used once at a time


@lru_cache(maxsize=4)
def _open(tier: str) -> Sandbox:
    box = open_sandbox(tier, limits=LIMITS)
    atexit.register(box.close)
    return box


def checks(answer: dict[str, Any], answers: list[str], tier: str) -> list[bool | None]:
    """Whether the last block of code of each answer passes every hidden test; equal programs run once.

    Args:
        answer: `entry`, `tests` and `before` of the problem.

    Raises:
        RewardError: this machine lacks the tier, or it is down.
    """
    codes = [last_block(a) or (a if a.strip() else None) for a in answers]
    asked = {code: str(n) for n, code in enumerate(dict.fromkeys(c for c in codes if c is not None))}
    try:
        with _LOCK:
            verdicts = _open(tier).run([(id, program(answer, code)) for code, id in asked.items()]) if asked else {}
    except SandboxMissing as error:
        raise RewardError(str(error)) from None
    except SandboxDown as error:
        raise RewardError(f"the sandbox is down: {error}") from error
    right = {"pass": True, "fail": False, "ungraded": None}
    return [False if c is None else right[verdicts[asked[c]].outcome] for c in codes]
