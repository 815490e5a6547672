"""The results as tables on the terminal, and docs/performance.md: both are made from the JSON in runs/bench alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.measure import advantage, figure, spread

Cells = list[list[str]]  # the first row is the head

HEAD = """# Speed and memory

Made by `make bench` from what it measured (`python -m bench --help`); not written by hand. Figures are medians of runs made
in turn on one machine (A B A B ...), each in processes of its own, with the least and the greatest. A ratio is formed pair by
pair, from runs made one after the other; above 1 is for us. Absolute times are this machine's: keep the ratios.
"""

COMPARED = """## What was compared

- **Ours** is the command `incentive run` with the settings of zero-mini (`bench/recipe.py`), or the engine and the learner that it
  uses; nothing is made for the bench.
- **TRL 1.16** (`GRPOTrainer`, `bench/peers/trl.py`) with the same checkpoint, prompts in the same order, group, limit, rewards, learning
  rate, KL to a reference, and float32 weights; at whichever of float32 and bfloat16 and of several micro-batches is fastest for the
  work, which a first cheap sweep finds. TRL is made for GPUs and is not tuned for CPUs.
- **transformers** is plain `generate` with a batch of all samples; **vLLM** is its CPU build, which is tuned for CPUs.

Each peer has an environment of its own with the same torch. A peer that is missing or fails is said in the table.
"""

LEFT_OUT = """## What keeps us from half of TRL's memory

- On the miniature the runtime: Python, torch, transformers, numba with LLVM and the compiled kernels are about 390 MiB before the first
  weight, and half of TRL's leanest is less. A process that learns without torch would be needed.
- At 0.5B the optimizer: weights, gradients and Adam's two moments in float32 are 16 bytes a parameter, 7.4 GiB, and the reference's and
  the engine's copies in bfloat16 are 1.8 GiB more; half of TRL's is 6.4 GiB. Moments of 8 bits and gradients of 16 would be needed,
  which learn something else.

## What is not measured

- GPUs. On a machine with one, `python -m bench gpu` makes the table: GRPO steps of Qwen2.5's 0.5B and 1.5B shapes at length 1,024 and
  4,096, beside TRL with its transformers and its continuous-batching generation.
- TRL with vLLM as its generation backend: its server mode moves weights by NCCL, which needs a GPU, and TRL 1.16 knows vLLM up to
  0.31, where the CPU build is 0.32. Both in one process on a CPU was not tried.
- Loading, preflight, evaluation and checkpoints: the clock runs from update to update on both sides.
- Whether the two learn equally well: `docs/results.md` has our curves, and the final reward of both stands beside the time to 80% of
  it. Losses and gradients agree (`prove/trl_loss.py`).
"""


def load(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The results that are there, by name."""
    files = {name: folder / f"{name}.json" for name in names}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def title(result: dict[str, Any]) -> str:
    return result["about"].split("\n")[0].rstrip(".")


def compared(lines: Sequence[dict[str, Any]]) -> Cells:
    """The lines of pairs: a row for each side, with how many times better ours is."""
    rows = [["work", "figure", "side", "median (least to greatest)", "ours is better by"]]
    for line in lines:
        ours = line["sides"].get("ours", {}).get("values", [])
        for n, (name, side) in enumerate(line["sides"].items()):
            values, error = side["values"], side["error"]
            if error:
                found, ratio = f"failed: {error}", ""
            elif not values:
                found, ratio = "not reached", ""
            else:
                found = str(spread(values))
                ratio = f"{advantage(ours, values, line['better'])}" if n and ours else ""
            first = [line["work"], line["figure"]] if n == 0 else ["", ""]
            rows.append([*first, f"{name}: {side['setting']}", found, ratio])
    return rows


def cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        if key.startswith("share"):
            return f"{value:.0%}"
        return f"{value:.1e}" if key.endswith("difference") else figure(value)
    return str(value)


def plain(rows: Sequence[dict[str, Any]]) -> Cells:
    """A table of records; a column that is empty in every row is left out."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    return [names, *([cell(name, row.get(name)) for name in names] for row in rows)]


def tables(result: dict[str, Any]) -> list[tuple[str, Cells]]:
    """(title, cells) of one result: the pairs first."""
    pairs = [("", compared(result["lines"]))] if result["lines"] else []
    return pairs + [(t["title"], plain(t["rows"])) for t in result["tables"]]


def notes(result: dict[str, Any]) -> str:
    """What a reader of the figures must know: that they are a quick version's, a part's, or a busy machine's."""
    said = []
    if result["quick"]:
        said.append("The quick version: small work and few pairs, to see that it runs.")
    if not result["finished"]:
        said.append("Broken off: what is here was measured before.")
    if result["machine"]["load"] > 0.5:
        said.append(f"The machine was not quiet when it began: load {result['machine']['load']:.1f}.")
    return " ".join(said)


def terminal(result: dict[str, Any]) -> list[Table | str]:
    """What the terminal shows of one result."""
    shown: list[Table | str] = [f"\n[bold]{title(result)}[/bold]"]
    for heading, (head, *rows) in tables(result):
        table = Table(title=heading or None, title_justify="left", header_style="bold", show_edge=False)
        for n, name in enumerate(head):
            table.add_column(name, overflow="fold", justify="left" if n == 0 else "right")
        for row in rows:
            table.add_row(*row)
        shown.append(table)
    return [*shown, notes(result)] if notes(result) else shown


def markdown(cells: Cells) -> str:
    head, *rows = [["" if c is None else c.replace("|", "\\|") for c in row] for row in cells]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def about(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['memory_gib']:.0f} GiB of memory; "
        f"{machine['platform']}; Python {machine['python']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}."
    )


def page(results: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    """docs/performance.md; a comparison without a result is named with the command that makes it."""
    machines = list(dict.fromkeys(about(r["machine"]) for r in results.values()))
    parts = [HEAD, "## Machine\n", "\n\n".join(machines) or "Nothing is measured yet.", "", COMPARED]
    for name in names:
        if name == "gpu" and name not in results:
            continue  # said under what is not measured
        if name not in results:
            parts.append(f"## {name.capitalize()}\n\nNot measured yet: `python -m bench {name}`.\n")
            continue
        result = results[name]
        text = " ".join(" ".join(result["about"].split("\n")[1:]).split())
        parts += [f"## {title(result)}\n", *([text, ""] if text else [])]
        parts += [f"*{said}*\n"] if (said := notes(result)) else []
        for heading, cells in tables(result):
            parts += [f"**{heading}**\n"] if heading else []
            parts.append(markdown(cells) + "\n")
    return "\n".join([*parts, LEFT_OUT])
