"""`python -m bench`: speed and memory beside peers and beside what the machine could do. `make bench` runs it all."""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys

from rich.console import Console

from bench.comparisons import COMPARISONS, Result, place
from bench.measure import ROOT
from bench.page import load, page, terminal
from bench.works import Plan, work_of

QUICK = Plan(
    quick=True, pairs=2, steps=2, rise_steps=6, works=("4x4x32",), micros=(16,), precisions=("float32",)
)  # fmt: skip
EPILOG = """
A comparison runs its sides in turn, each in processes of its own, and writes runs/bench/NAME.json after every run; a
table follows, and docs/performance.md is made anew from all the JSON that is there. Ctrl-C keeps what is measured. The
environments of TRL and vLLM are made under runs/bench when they are first needed. Leave the machine alone meanwhile.

  python -m bench                        all, as `make bench`: hours
  python -m bench --quick                all in small: minutes, in runs/bench/quick; `make bench BENCH=--quick`
  python -m bench step --work 32x8x96    one comparison, one work: 32 problems, 8 samples each, 96 tokens at most
  python -m bench step --precisions bfloat16 --micros 64     TRL at one setting, without the sweep
  python -m bench page                   only the page, from what was measured
"""


def arguments() -> argparse.Namespace:
    firsts = {name: (inspect.getdoc(call) or "").split("\n")[0] for name, call in COMPARISONS.items()}
    listed = "\n".join(f"  {name:9} {text}" for name, text in firsts.items())
    p = argparse.ArgumentParser(
        prog="python -m bench", description=f"{__doc__}\n\ncomparisons:\n{listed}", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    p.add_argument(
        "comparisons", nargs="*", metavar="COMPARISON", help="which of these, or page; by default all but gpu"
    )
    p.add_argument("--quick", action="store_true", help="small work, few pairs: to see that everything runs")
    p.add_argument("--pairs", type=int, help="runs of each side  [5]")
    p.add_argument("--steps", type=int, help="updates a run; the first is not counted  [5]")
    p.add_argument("--rise-steps", type=int, help="updates of a run to 80%% of the final reward  [120]")
    p.add_argument("--work", dest="works", action="append", metavar="PxGxT", help="of the miniature; repeatable")
    p.add_argument("--precisions", type=lambda x: tuple(x.split(",")), help="that TRL may use  [float32,bfloat16]")
    p.add_argument("--micros", type=lambda x: tuple(map(int, x.split(","))), help="TRL's micro-batches  [32,64,256]")
    p.add_argument("--threads", type=int, help="of every side  [all cores]")
    return p.parse_args()


def main() -> int:
    a = arguments()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = {k: v for k, v in vars(a).items() if k in Plan.__dataclass_fields__ and v}
    plan = Plan(**{**vars(QUICK if a.quick else Plan()), "threads": cores, **given})
    plan = Plan(**{**vars(plan), "works": tuple(plan.works)})
    chosen = a.comparisons or [name for name in COMPARISONS if name != "gpu"]
    try:
        list(map(work_of, plan.works))
        if unknown := set(chosen) - {*COMPARISONS, "page"}:
            raise ValueError(f"no comparison {unknown.pop()!r}; there are: {', '.join(COMPARISONS)}, page")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    code = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the sides' processes end with it
    try:
        for name in chosen:
            if name == "page":
                continue
            console.print(f"\n{name}: {(inspect.getdoc(COMPARISONS[name]) or '').splitlines()[0]}", style="bold")
            out = Result(name, plan, inspect.getdoc(COMPARISONS[name]) or "")
            try:
                COMPARISONS[name](plan, out)
                out.finish()
            finally:
                for part in terminal(out.data):
                    console.print(part)
    except KeyboardInterrupt:
        console.print(f"\nstopped; what was measured is kept in {place(plan).relative_to(ROOT)}")
        code = 130
    found = load(place(plan), list(COMPARISONS))
    file = place(plan) / "performance.md" if plan.quick else ROOT / "docs/performance.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(found, list(COMPARISONS)), encoding="utf-8")
    console.print(f"\n{file.relative_to(ROOT)} is made from: {', '.join(found) or 'nothing yet'}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
