"""What lies ahead of a run: its stages in their order, known before it starts, and how long the rest of them will take.

Time is told only where it can be known, from what a stage of the same kind has taken for an answer in this run. How long
a stage learns that is given rows is known when its rows are there: until then it is counted as unknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from incentive.config import RL, Draw, Eval
from incentive.ledger import duration

NAMED = 3  # stages ahead that a line names


@dataclass(frozen=True)
class Planned:
    """One stage of a pipeline, with the settings it will have.

    `start` and `data` name what it starts from and learns from; `first` counts the updates of the stage that it goes on
    from, where `max_steps` counts both; `tasks` are shares, where they are not the section's own; `graded` are the tasks
    whose rewards are not the section's, with theirs. A stage without settings says what it does in `about`, and how many
    `rows` it makes.
    """

    name: str
    section: BaseModel | None = None
    start: str = ""
    data: tuple[str, ...] = ()
    first: int = 0
    tasks: dict[str, float] = field(default_factory=dict)
    about: str = ""
    rows: int = 0
    graded: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Updates of its own; 0 where they are not in the settings."""
        return max(0, self.section.max_steps - self.first) if isinstance(self.section, RL) else 0

    @property
    def answers(self) -> int:
        """Answers that it will sample, at most."""
        s = self.section
        if isinstance(s, RL):
            return self.steps * s.problems_per_step * s.num_generations
        if isinstance(s, Draw):
            return s.problems * s.samples
        return len(s.tasks) * (1 + s.also_t1) * s.problems * s.samples if isinstance(s, Eval) else 0


def seconds(row: dict[str, Any]) -> float:
    """What a row of metrics cost, as the ledger counts it."""
    whole = row.get("time/step")
    return float(whole if whole is not None else sum(v for k, v in row.items() if k.startswith("time/") and v))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; torn lines are left out, and a file that is not there has none."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict)]


class Ahead:
    """Where a run is among its stages.

    Args:
        stages: of the pipeline, in order; empty where they are not known before it runs.
        directory: the run's.
        until: the stage after which it will stop.
    """

    def __init__(self, stages: Sequence[Planned], directory: Path, until: str | None = None):
        self.stages, self.dir = list(stages), directory
        self.names = [p.name for p in stages]
        self.last = self.names.index(until) if until in self.names else len(self.names) - 1
        self.at = -1
        self.pace: dict[str, float] = {}  # kind of stage -> seconds an answer, of the latest one

    def begin(self, name: str) -> None:
        """A stage begins: those before it are done, and their pace is known."""
        if name not in self.names:
            return
        at = self.names.index(name)
        for p in self.stages[max(self.at, 0) : at]:
            self.see(p, rows_of(self.dir / p.name / "metrics.jsonl"))
        self.at = at

    def see(self, stage: Planned, rows: list[dict[str, Any]]) -> None:
        """Take the pace of a stage, or of the one that runs, from its rows."""
        s = stage.section
        if isinstance(s, RL):
            rows = [row for row in rows if row.get("step")][-20:]
            if n := len(rows) * s.problems_per_step * s.num_generations:
                self.pace["rl"] = sum(map(seconds, rows)) / n
                self.pace.setdefault("draw", sum(row.get("time/sample") or 0.0 for row in rows) / n)
        elif rows and stage.answers and not getattr(s, "tokens", 0):  # a budget of tokens ends before the problems do
            self.pace["eval" if isinstance(s, Eval) else "draw"] = sum(map(seconds, rows)) / stage.answers

    @property
    def now(self) -> Planned | None:
        return self.stages[self.at] if self.at >= 0 else None

    @property
    def rest(self) -> list[Planned]:
        """The stages after the one that runs, as far as the run will go."""
        return self.stages[self.at + 1 : self.last + 1]

    def left(self) -> tuple[float, int]:
        """(seconds that the rest will take, how many of its stages that leaves out: no one can know yet)."""
        known, unknown = 0.0, 0
        for p in self.rest:
            kind = "rl" if isinstance(p.section, RL) else "eval" if isinstance(p.section, Eval) else "draw"
            pace = self.pace.get(kind, self.pace.get("draw") if kind == "eval" else None)
            if p.answers and pace is not None:
                known += p.answers * pace
            else:
                unknown += 1
        return known, unknown

    def label(self, name: str) -> str:
        """`dev2, 4 of 21`; the name alone where it is none of the stages."""
        return f"{name}, {self.names.index(name) + 1} of {len(self.names)}" if name in self.names else name

    def time(self) -> str:
        """`about 12 min 5 s, 6 not known yet`; empty where nothing is ahead or known."""
        known, unknown = self.left()
        if not known:
            return ""
        return f"about {duration(known)}" + (f", {unknown} of them not known yet" if unknown else "")

    def told(self) -> str:
        """A line about the stage that begins and what remains after it."""
        names = [p.name for p in self.rest]
        more = len(names) - NAMED
        ahead = ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
        if not names:
            ahead = "it stops" if self.last < len(self.names) - 1 else "it is done"
        time = self.time()
        return f"{self.label(self.names[self.at])}; then {ahead}" + (f" ({time})" if time else "")
