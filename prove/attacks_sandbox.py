"""Every attack on the sandbox in every tier of this machine; writes the table in docs/sandbox.md.

    python prove/attacks_sandbox.py [--tier TIER ...] [--no-docs]

The remote tier is attacked through an endpoint of our own on 127.0.0.1 whose programs run in the strongest jail. Prints each
success, then one line of JSON; exits 1 where there was one, or where a tier is missing.
"""

# ruff: noqa: E402  (the endpoint lies with the tests)
from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from fusion_server import endpoint

from incentive.verify import attack_host, kernel
from incentive.verify.attacks_sandbox import ATTACKS
from incentive.verify.sandbox import TIERS, strongest, tiers

PAGE = ROOT / "docs" / "sandbox.md"
BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"


def attack(tier: str) -> dict[str, Any]:
    """All attacks in one tier: how many of each kind, and those that succeeded."""
    began, tried, succeeded = time.monotonic(), Counter[str](), []
    with ExitStack() as stack:
        if tier == "remote":
            server = stack.enter_context(endpoint(strongest(), attack_host.LIMITS))
            tier = f"remote:{server.url}"
        for outcome in attack_host.run(tier):
            tried[outcome.attack.kind] += 1
            if outcome.succeeded:
                succeeded.append([outcome.attack.kind, outcome.attack.name, outcome.verdict.why, *outcome.harm])
                print(tier, *succeeded[-1], file=sys.stderr)
    return {"tried": dict(tried), "succeeded": succeeded, "seconds": round(time.monotonic() - began, 1)}


def table(found: dict[str, dict[str, Any]]) -> str:
    kinds = dict.fromkeys(a.kind for a in ATTACKS)
    rows = [f"| attacks | number | {' | '.join(found)} |", f"|---|--:|{'--:|' * len(found)}"]
    for kind in [*kinds, "host"]:
        own = [sum(s[0] == kind for s in f["succeeded"]) for f in found.values()]
        number = next(iter(found.values()))["tried"].get(kind, 0)
        name = "afterwards: a right program passes, nothing is left" if kind == "host" else kind
        rows.append(f"| {name} | {number} | {' | '.join(map(str, own))} |")
    total = [len(f["succeeded"]) for f in found.values()]
    rows.append(f"| **successes of all** | **{len(ATTACKS) + 1}** | {' | '.join(f'**{n}**' for n in total)} |")
    rows.append(f"| seconds | | {' | '.join(str(f['seconds']) for f in found.values())} |")
    here = (
        f"Linux {platform.release()}, Python {platform.python_version()}, Landlock version {kernel.landlock_version()}"
    )
    return "\n".join([*rows, "", f"`python prove/attacks_sandbox.py` on {here}."])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", nargs="+", choices=TIERS, default=list(TIERS))
    parser.add_argument("--no-docs", action="store_true")
    args = parser.parse_args()
    missing = [t for t in tiers() if t.name in args.tier and t.name != "remote" and not t.available]
    for tier in missing:
        print(f"{tier.name} is missing here: {tier.why_not}", file=sys.stderr)
    found = {tier: attack(tier) for tier in args.tier if tier not in {t.name for t in missing}}
    if found and not args.no_docs:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}")
    print(json.dumps({"attacks": len(ATTACKS), "tiers": found, "missing": [t.name for t in missing]}))
    return 1 if missing or any(f["succeeded"] for f in found.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
