"""What a run really cost: a fold over its metrics.jsonl.

Time and tokens are measured; FLOPs, money and energy are estimates from them, by the formulas below. It costs what has
a row, no more: start-up, and the steps between a checkpoint and a kill, whose rows `run.truncate` drops, are missing.

A row may have `time/step` (wall seconds of the whole row), `time/<phase>` (sample, reward, score, update, ...), and
`tokens/prompt` (through the engine), `tokens/sampled`, `tokens/trained` (through the update: prompts in, padding out),
and `calls/paid` (US dollars for calls of an endpoint, by its price list).
A row without `time/step` costs the sum of its phases.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WATTS_PER_CORE = 10.0  # a server or laptop core under load, with its share of memory; an assumption, not a measurement


class LedgerError(ValueError):
    """metrics.jsonl cannot be read. The message names the file, the line and the fault."""


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of a run, or by `+` (and `sum(costs, Costs())`) of several."""

    seconds: float = 0.0
    core_hours: float = 0.0
    tokens_prompt: int = 0
    tokens_sampled: int = 0
    tokens_trained: int = 0
    flops: float = 0.0
    money: float = 0.0  # US dollars, for core-hours
    paid: float = 0.0  # US dollars, for calls of endpoints
    energy_wh: float = 0.0
    steps: int = 0  # rows with `time/step`
    phases: dict[str, float] = field(default_factory=dict)  # seconds by phase; they overlap where work is asynchronous

    def __add__(self, other: Costs) -> Costs:
        names = [*self.phases, *(p for p in other.phases if p not in self.phases)]
        return Costs(
            seconds=self.seconds + other.seconds,
            core_hours=self.core_hours + other.core_hours,
            tokens_prompt=self.tokens_prompt + other.tokens_prompt,
            tokens_sampled=self.tokens_sampled + other.tokens_sampled,
            tokens_trained=self.tokens_trained + other.tokens_trained,
            flops=self.flops + other.flops,
            money=self.money + other.money,
            paid=self.paid + other.paid,
            energy_wh=self.energy_wh + other.energy_wh,
            steps=self.steps + other.steps,
            phases={p: self.phases.get(p, 0.0) + other.phases.get(p, 0.0) for p in names},
        )


def count_parameters(folder: Path) -> int | None:
    """Weights that multiply, from the headers of a folder's safetensors: an input embedding that is not also the head
    stays out, as `flops` wants it. None where there is no readable model."""
    shapes: dict[str, list[int]] = {}
    for path in list(folder.glob("model*.safetensors")) or folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            shapes |= {k: v["shape"] for k, v in header.items() if k != "__metadata__"}
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
            return None
    if any(k.endswith("lm_head.weight") for k in shapes):
        shapes = {k: v for k, v in shapes.items() if not k.endswith("embed_tokens.weight")}
    return sum(math.prod(s) for s in shapes.values()) or None


def flops(parameters: int, prompt: int, sampled: int, trained: int, scorings: int) -> float:
    """Dense approximation: 2N a token forward, 6N a token forward and backward. Attention's own products are left out.

    Args:
        parameters: N, those that multiply: an input embedding that is not also the head stays out.
        scorings: forward passes over the trained tokens besides the update: old log-probs, reference log-probs.
    """
    return float(parameters) * (2 * (prompt + sampled) + (6 + 2 * scorings) * trained)


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line number, row); a last line that a kill tore (no line end, not JSON) is left out.

    Raises:
        LedgerError: any other line is no JSON object.
    """
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:  # also a character cut in two
            if number == len(lines):
                break
            raise LedgerError(f"{path}:{number}: not valid JSON: {line[:60]!r}") from None
        if not isinstance(row, dict):
            raise LedgerError(f"{path}:{number}: not a row of metrics: {line[:60]!r}")
        rows.append((number, row))
    return rows


def _number(row: dict[str, Any], key: str, where: str) -> float:
    value = row.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e18:  # NaN fails it too
        raise LedgerError(f"{where}: {key} is {value!r}, not a number from 0 up")
    return value


def fold(
    metrics_path: Path,
    parameters: int,
    cores: int,
    price: float,
    *,
    scorings: int = 2,
    watts_per_core: float = WATTS_PER_CORE,
) -> Costs:
    """The cost of the rows of one metrics.jsonl.

    Args:
        cores: cores that the run held, busy or not.
        price: US dollars a core-hour.
        scorings: log-prob passes a trained token got: 2 in RL with a reference, 1 without, 0 for pretraining and SFT.

    Raises:
        LedgerError: a line other than a torn last one is broken, or a cost is not a finite number from 0 up.
    """
    total = Costs()
    for number, row in _rows(Path(metrics_path)):
        where = f"{metrics_path}:{number}"
        times = {key.removeprefix("time/"): _number(row, key, where) for key in row if key.startswith("time/")}
        whole = times.pop("step", None)
        prompt, sampled, trained = (
            int(_number(row, f"tokens/{kind}", where)) for kind in ("prompt", "sampled", "trained")
        )
        seconds = math.fsum(times.values()) if whole is None else whole
        core_hours = seconds * cores / 3600
        total += Costs(
            seconds=seconds,
            core_hours=core_hours,
            tokens_prompt=prompt,
            tokens_sampled=sampled,
            tokens_trained=trained,
            flops=flops(parameters, prompt, sampled, trained, scorings),
            money=core_hours * price,
            paid=_number(row, "calls/paid", where),
            energy_wh=core_hours * watts_per_core,
            steps=int(whole is not None),
            phases=times,
        )
    return total


def duration(seconds: float) -> str:
    """`8.2 s`, `4 min 5 s`, `2 h 3 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def table(costs: Costs) -> list[tuple[str, str]]:
    """(what, how much) rows for the report and the README, estimates with the rate that made them."""
    hours = costs.core_hours
    money = f"${costs.money:.4f}" if costs.money < 1 else f"${costs.money:,.2f}"
    energy = f"{costs.energy_wh:.2f} Wh"
    rows = [
        ("wall time", duration(costs.seconds)),
        *((f"  {name}", _share(seconds, costs.seconds)) for name, seconds in costs.phases.items()),
    ]
    other = costs.seconds - math.fsum(costs.phases.values())
    if costs.phases and other > 0.005 * costs.seconds:
        rows.append(("  other", _share(other, costs.seconds)))
    return [
        *rows,
        ("core-hours", f"{hours:.3f}"),
        ("prompt tokens", f"{costs.tokens_prompt:,}"),
        ("sampled tokens", f"{costs.tokens_sampled:,}"),
        ("trained tokens", f"{costs.tokens_trained:,}"),
        ("FLOPs (estimate)", f"{costs.flops:.2e}"),
        ("money", f"{money} at ${costs.money / hours:.3f} a core-hour" if hours else money),
        *(
            [("paid for calls", f"${costs.paid:.4f}" if costs.paid < 1 else f"${costs.paid:,.2f}")]
            if costs.paid
            else []
        ),
        ("energy (estimate)", f"{energy} at {costs.energy_wh / hours:.1f} W a core" if hours else energy),
    ]


def _share(seconds: float, whole: float) -> str:
    return f"{duration(seconds)} ({seconds / whole:.0%})" if whole else duration(seconds)
