"""The panel of a run's live view, drawn anew from the view's state. Loaded on a terminal alone: rich is slow."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from incentive import chat
from incentive.ledger import duration
from incentive.terminal import printable

if TYPE_CHECKING:
    from incentive.live import View

BARS = "▁▂▃▄▅▆▇█"
STYLES = {"ok": "green", "warn": "yellow", "stop": "bold red"}
_PHASES = {"update": "updating", "probe": "probing val", "save": "saving"}
_CURVES: tuple[tuple[str, str, str, float | None, str], ...] = (  # name, key, how it reads, top (None: its own), style
    ("right answers", "rewards/accuracy/mean", "{:.0%}", 1.0, "green"),
    ("  on held-out val", "val/accuracy", "{:.0%}", 1.0, "green"),
    ("thinking, tokens", "completions/mean_length", "{:.0f}", None, "cyan"),
    ("reflections each", "emergence/reflections_per_response", "{:.2f}", None, "magenta"),
    ("cut at the cap", "completions/clipped_ratio", "{:.0%}", 1.0, "yellow"),
)
_BASE_CURVES: tuple[tuple[str, str, str, float | None, str], ...] = (("loss", "loss", "{:.3f}", None, "cyan"),)


def sparkline(values: Sequence[float], width: int, low: float, high: float | None = None, bars: str = BARS) -> str:
    """The last character is the latest value; more values than `width` are averaged in equal shares."""
    if not values:
        return ""
    if len(values) > width:
        cuts = [round(i * len(values) / width) for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    span = (max(values) if high is None else high) - low
    levels = [min(1.0, max(0.0, (v - low) / span)) if span > 0 else 0.0 for v in values]
    return "".join(bars[round(x * (len(bars) - 1))] for x in levels)


def panel(view: View, width: int) -> RenderableType:
    """All of it, for a terminal of `width` columns."""
    inner = max(30, min(width, 110) - 4)
    parts: list[RenderableType] = [_bar(view, inner)]
    if view.ahead.stages:
        parts.append(_stages(view))
    if view.reinforced or (view.stage == "base" and view.rows):
        parts += [Text(), _curves(view, inner)]
    if view.reinforced and view.thought:
        parts += [Text(), _thought(view, inner)]
    passed, money = view.cost()
    cores = f"{view.settings.threads} core" + ("s" if view.settings.threads > 1 else "")
    price = f"${view.settings.price_per_core_hour:g} a core-hour, {cores}"
    parts += [Text(), Text(f"{duration(passed)} so far   ${money:.4f} at {price}", style="dim")]
    for f in view.findings:
        parts.append(Text(f"{f.level}: {f.what}; {f.advice}", style=STYLES.get(f.level, "")))
    title = f" {view.settings.recipe}: {view.ahead.label(view.stage) or 'starting'} "
    return Panel(Group(*parts), title=title, title_align="left", width=inner + 4, box=box.ROUNDED, border_style="cyan")


def _bar(view: View, width: int) -> RenderableType:
    """How far this stage has come, how fast, how long it will take."""
    if view.reinforced:
        done, total, rate = view.step, view.steps, view.curve("time/step")[-20:]
        pace = f"{sum(rate) / len(rate):.1f} s a step" if rate else ""
        now = f"sampling {view.done}/{view.total}" if view.phase == "sampling" else _PHASES.get(view.phase, view.phase)
        head = f"step {done}/{total}"
    else:
        done, total = view.done, view.total
        made, passed = done - view.first, time.monotonic() - view.phase_began
        pace, now = (f"{made / passed:.1f}/s" if made and passed > 0.5 else ""), ""
        head = f"{view.phase_name()} {done:,}/{total:,}" if total else "getting ready"
    left = view.seconds_left()
    ahead = f"{duration(left)} left" if left is not None and done < total else ""
    words = "   ".join(w for w in (head, pace, ahead, now) if w)
    room = max(10, min(30, width - len(words) - 3))
    full = round(room * done / total) if total else 0
    text = Text("━" * full, style="green")
    return text.append("━" * (room - full), style="bright_black").append(f"   {words}", style="bold")


def _stages(view: View) -> RenderableType:
    """Every stage: done, running, ahead; and how long those ahead will take."""
    text = Text()
    for n, name in enumerate(view.ahead.names[: view.ahead.last + 1]):
        mark, style = ("✓", "green") if n < view.ahead.at else ("▸", "bold") if n == view.ahead.at else ("·", "dim")
        text.append(f"{mark} {name}  ", style=style)
    if later := view.ahead.time():
        text.append(f"\nafter this stage {later}", style="dim")
    return text


def _curves(view: View, width: int) -> RenderableType:
    """A row each: the latest value, what it was at first, the curve."""
    room = max(8, width - 42)
    grid = Table.grid(padding=(0, 1))
    for how in ("left", "right", "left", "left"):
        grid.add_column(justify=how, no_wrap=True)
    rows = _BASE_CURVES if view.stage == "base" else _CURVES
    for name, key, form, top, style in rows:
        values = view.curve(key)
        if not values:
            continue
        start = sum(values[:3]) / len(values[:3])
        now = sum(values[-3:]) / len(values[-3:])
        gain = f"x{now / start:.1f}" if top is None and start > 0 and view.reinforced else ""
        if top is not None and len(values) > 1:
            gain = f"from {form.format(values[0])}"
        line = Text(sparkline(values, room, 0.0, top), style=style)
        grid.add_row(name, Text(form.format(values[-1]), style="bold"), Text(gain, style="dim"), line)
    return grid


def _thought(view: View, width: int) -> RenderableType:
    """A sample of the last rollout: its thinking, shortened, and its answer, green where it is right."""
    assert view.thought is not None
    prompt, sample, right = view.thought
    thinking, answer = chat.split(sample.text)
    text = Text(f"a thought of step {view.thought_step}: ", style="dim").append(printable(prompt), style="not dim")
    lines = [line[: width - 2] for line in printable(thinking).split("\n")]
    if len(lines) > 8:
        lines = [*lines[:4], f"... {len(lines) - 7} lines ...", *lines[-3:]]
    for line in lines:
        text.append(f"\n  {line}", style="italic bright_black")
    said = printable(answer) if answer is not None else "no answer"
    text.append("\n  " + said[: width - 12], style="bold green" if right else "bold red")
    text.append("  right" if right else "  wrong", style="dim")
    return text
