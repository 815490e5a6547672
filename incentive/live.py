"""What a user sees while a run works: a panel that redraws on a terminal, plain lines anywhere else.

It is fed by `show(event)` from the stages and must never change what they compute. On a terminal that can draw, the
panel holds progress, curves, a sample thought, cost and the doctor's findings; else one ASCII line a step. A closed
pipe asks the run to save and stop.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incentive import config
from incentive.ahead import Ahead, Planned, rows_of, seconds
from incentive.config import SFT, Draw, RewardModel
from incentive.ledger import duration
from incentive.stage import Interrupt
from incentive.terminal import ascii_only, printable, rich_terminal, silence

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from incentive.records import Group, Sample

REDRAW, LINE = 0.25, 3.0  # seconds between redraws of the panel, between plain lines within a phase
BATCH = 64  # problems that a stage that samples asks at once
STALL = 300.0  # seconds without an event after which a phase is named as stalled
MARKS = {"ok": "ok  ", "warn": "warn", "stop": "STOP"}


def pick(groups: list[Group]) -> tuple[str, Sample, bool] | None:
    """(problem, sample, right) of the first eight groups: a right answer that reflects, the shortest of equals."""
    from incentive import chat, measure

    best: tuple[tuple[bool, int, int], str, Sample, bool] | None = None
    for g in groups[:8]:
        prompt = g.problem.prompt if isinstance(g.problem.prompt, str) else g.problem.prompt[-1]["content"]
        for sample, score in zip(g.samples, g.scores, strict=True):
            right = score.parts.get("accuracy", 0.0) > 0
            rank = (right, min(measure.reflections(chat.split(sample.text)[0]), 6), -len(sample.ids))
            if best is None or rank > best[0]:
                best = (rank, prompt, sample, right)
    return best and (best[1], best[2], best[3])


class View:
    """The live view of one run. `show` takes the stages' events, `say` their messages; both may be called at any time.

    Args:
        interrupt: asked to stop the run where the output is closed.
        plain: lines in place of the panel; by default whatever the terminal can.
        stages: of the pipeline in order, where they are known before it runs.
        until: the stage after which the run will stop.
    """

    def __init__(
        self,
        settings: config.Run,
        directory: Path,
        interrupt: Interrupt | None = None,
        plain: bool | None = None,
        stages: Sequence[Planned] = (),
        until: str | None = None,
    ):
        self.settings, self.dir, self.interrupt = settings, directory, interrupt
        self.ahead, self.announced = Ahead(stages, directory, until), True
        self.ascii, self.draws = ascii_only(), rich_terminal(plain)
        self.began, self.shown, self.closed = time.monotonic(), 0.0, False
        kept = (p for p in directory.glob("*/metrics.jsonl") if ".old-" not in p.parent.name)
        self.before = sum(seconds(row) for path in kept for row in rows_of(path))  # of earlier starts
        self.stage, self.phase = "", ""
        self.reinforced = False  # this stage is RL: it has steps, curves and a doctor
        self.done = self.total = self.first = 0
        self.phase_began = self.began
        self.rows: list[dict[str, Any]] = []
        self.step, self.steps = 0, settings.rl.max_steps if settings.rl else 0
        self.thought: tuple[str, Sample, bool] | None = None  # problem, answer, right
        self.thought_step = 0
        self.findings: list[Any] = []
        self.doctor: Any = None
        self._live: Any = None
        self._console: Console | None = None
        self._watch: Any = None

    def __enter__(self) -> View:
        if self.draws:
            from rich.console import Console
            from rich.live import Live

            self._console = Console()
            # no refresh thread: the training's two cores are its own
            self._live = Live(console=self._console, auto_refresh=False, redirect_stderr=False, redirect_stdout=False)
            with self._guarded():
                self._live.start()
        from incentive.doctor import Watchdog

        self._watch = Watchdog(STALL, self.say, self.dir / "stacks.txt")
        self._watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.__exit__(None, None, None)
        self.close()

    def close(self) -> None:
        """Leave the last panel on the screen and draw no more."""
        if self._live is not None:
            live, self._live = self._live, None
            with self._guarded():
                live.stop()

    @contextlib.contextmanager
    def _guarded(self) -> Any:
        """A reader that went away (or a full disk behind it) ends the output, and asks the run to save and stop."""
        try:
            yield
        except OSError:
            self.closed, self._live = True, None
            silence()
            if self.interrupt is not None:
                self.interrupt.requested = True

    # words

    def say(self, text: str) -> None:
        """A message of the run, above the panel or on stderr."""
        if self._live is not None and self._console is not None:
            with self._guarded():
                self._console.print(printable(text), markup=False, highlight=False)
        else:
            try:
                print(printable(text, self.ascii), file=sys.stderr, flush=True)
            except (OSError, ValueError):
                silence(sys.stderr)

    def tell(self, lines: list[str]) -> None:
        """Lines of a result, on stdout."""
        if self.closed:
            return
        with self._guarded():
            for line in lines:
                print(printable(line, self.ascii))
            sys.stdout.flush()

    # events

    def show(self, event: dict[str, Any]) -> None:
        """Take a stage's event. Never raises for what it is given: a view must not end a run."""
        if self._watch is not None:
            self._watch.beat(str(event.get("phase", "")))
        if self.closed:
            return
        phase, now = str(event.get("phase", "")), time.monotonic()
        changed = phase != self.phase and phase != "step"
        if phase == "begin":
            self._begin(event)
        elif phase == "preflight":
            self._preflight(event["findings"])
            return
        elif phase == "rollout":
            self.thought, self.thought_step = pick(event["groups"]), event.get("step", 0)
            return
        if not self.announced and phase != "begin":
            self._announce()
        if phase == "step":
            self._step(event)
            return
        if changed:
            self.phase = phase
            if phase in ("begin", "pretrain", "sampling"):  # an evaluation's first event comes late: its clock runs
                self.phase_began, self.first = now, int(event.get("done", 0))
            elif self.counted() == "step":  # a resumed stage does not begin at 0
                self.phase_began, self.first = now - seconds(event), int(event["done"]) - 1
            elif self.counted() == "problems":
                self.first = max(0, int(event["done"]) - BATCH)
        self.done, self.total = int(event.get("done", 0)), int(event.get("total", 0))
        self.step = int(event.get("step", self.step))
        if phase == "pretrain":
            self.rows.append(event)
            del self.rows[:-500]
        if self._live is not None:
            self.redraw(force=changed)
        elif not self.reinforced and self.total and (now - self.shown >= LINE or self.done == self.total):
            self.shown = now
            self._line(self._progress())

    def _begin(self, event: dict[str, Any]) -> None:
        if self.reinforced and self._live is not None and self._console is not None:
            with self._guarded():
                self._console.print(self.panel())  # its curves stay on the screen
            self.findings = []
        self.stage, self.rows, self.done, self.total, self.step = event["stage"], [], 0, 0, 0
        self.ahead.begin(self.stage)
        self.announced = self.stage not in self.ahead.names
        if not self.announced and not (self.dir / self.stage / "done.json").exists():  # if it is, it may be remembered
            self._announce()
        path = event.get("metrics")
        self.reinforced = path is not None
        if path is not None and path.exists():  # a resumed run: its curves go on
            self.rows = rows_of(path)
            kept = [int(p.name[5:]) for p in path.parent.glob("checkpoints/step-*") if p.name[5:].isdigit()]
            last = max(kept, default=-1)
            self.rows = [r for r in self.rows if r.get("step", 0) <= last]
            self.step = max(last, 0)
        if section := event.get("section"):
            from incentive.doctor import Doctor

            self.steps = section.max_steps
            self.doctor = Doctor(section)
            for row in self.rows:
                self.doctor.see(row)

    def _announce(self) -> None:
        """Which stage begins, and what remains: a line; the panel shows both all the time."""
        self.announced = True
        if self._live is None:
            self.tell([self.ahead.told()])

    def _preflight(self, findings: list[Any]) -> None:
        lines = ["preflight"]
        for f in findings:
            advice = f"\n        -> {f.advice}" if f.advice and f.level != "ok" else ""
            lines.append(f"  {MARKS.get(f.level, f.level)}  {f.what}{advice}")
        if self._live is not None and self._console is not None:
            from incentive.panel import STYLES

            with self._guarded():
                styles = ["bold", *(STYLES.get(f.level, "") for f in findings)]
                for line, style in zip(lines, styles, strict=True):
                    self._console.print(printable(line), style=style, markup=False, highlight=False)
        else:
            self.tell(lines)

    def _step(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.step, self.steps, self.phase = int(row["step"]), int(row.get("total", self.steps)), ""
        self._examine(row)
        if self.ahead.now is not None:
            self.ahead.see(self.ahead.now, self.rows[-20:])
        if self._live is not None:
            self.redraw(force=True)
        else:
            self._line(self._plain_step(row))

    def _examine(self, row: dict[str, Any]) -> None:
        """Ask the doctor; what it found is shown once a step, new findings as lines where nothing is drawn."""
        if self.doctor is None:
            return
        found = self.doctor.see({k: v for k, v in row.items() if k not in ("phase", "total")})
        if self._live is None:
            known = {f.what for f in self.findings}
            self.tell([f"doctor: {f.what}; {f.advice}" for f in found if f.what not in known])
        self.findings = (found + [f for f in self.findings if f.what not in {g.what for g in found}])[:3]

    # numbers

    def curve(self, key: str) -> list[float]:
        return [float(r[key]) for r in self.rows if isinstance(r.get(key), int | float)]

    def seconds_left(self) -> float | None:
        """Of this stage: by the last 20 steps in RL, by this phase's rate elsewhere."""
        if self.reinforced:
            recent = [seconds(r) for r in self.rows if r.get("step")][-20:]
            return (self.steps - self.step) * sum(recent) / len(recent) if recent else None
        passed, made = time.monotonic() - self.phase_began, self.done - self.first
        return passed / made * (self.total - self.done) if made > 0 else None

    def cost(self) -> tuple[float, float]:
        """(seconds, US dollars) so far, by the ledger's arithmetic: cores held x hours x price."""
        passed = self.before + time.monotonic() - self.began
        return passed, passed * self.settings.threads / 3600 * self.settings.price_per_core_hour

    # plain

    def _line(self, text: str) -> None:
        self.tell([text])

    def _progress(self) -> str:
        left = self.seconds_left()
        made, passed = self.done - self.first, time.monotonic() - self.phase_began
        rate = f"  {made / passed:.1f}/s" if made > 0 and passed > 0 else ""
        share = f"{self.done / self.total:4.0%}" if self.total else ""
        more = ""
        if self.phase == "pretrain" and self.rows:
            more = f"  loss {self.rows[-1].get('loss', float('nan')):.3f}"
        ahead = f"  {duration(left)} left" if left is not None and self.done < self.total else ""
        return (
            f"{self.ahead.label(self.stage)}  {self.phase_name()} {self.done}/{self.total} {share}{rate}{more}{ahead}"
        )

    def phase_name(self) -> str:
        return {"corpus": "documents", "pretrain": "step"}.get(self.phase, self.counted())

    def counted(self) -> str:
        """What this stage's events count."""
        section = self.ahead.now.section if self.ahead.now else None
        return (
            "step" if isinstance(section, SFT | RewardModel) else "problems" if isinstance(section, Draw) else "answers"
        )

    def _plain_step(self, row: dict[str, Any]) -> str:
        parts = [f"{self.ahead.label(self.stage)}  step {self.step}/{self.steps}"]
        for name, key, form in (
            ("right", "rewards/accuracy/mean", "{:.1%}"), ("val", "val/accuracy", "{:.1%}"),
            ("reward", "reward", "{:.3f}"), ("tokens", "completions/mean_length", "{:.0f}"),
            ("reflections", "emergence/reflections_per_response", "{:.2f}"),
            ("cut", "completions/clipped_ratio", "{:.1%}"),
        ):  # fmt: skip
            if isinstance(row.get(key), int | float):
                parts.append(f"{name} {form.format(row[key])}")
        left = self.seconds_left()
        parts.append(f"{seconds(row):.1f} s")
        if left is not None and self.step < self.steps:
            parts.append(f"{duration(left)} left")
        return "  ".join([*parts, f"${self.cost()[1]:.4f}"])

    # the panel

    def redraw(self, force: bool = False) -> None:
        now = time.monotonic()
        if self._live is None or (not force and now - self.shown < REDRAW):
            return
        self.shown = now
        with self._guarded():
            self._live.update(self.panel(), refresh=True)

    def panel(self) -> RenderableType:
        """What is drawn now."""
        from incentive.panel import panel

        return panel(self, self._console.width if self._console else 80)


# the last words


def learned(summary: dict[str, Any], directory: Path, report: Path | None) -> list[str]:
    """What a run achieved, in plain words."""
    before, after = summary.get("before", {}), summary.get("after", {})
    lines = [""]
    for task in before or after:
        a, b = before.get(task), after.get(task)
        if a and b:
            if len(lines) == 1:
                lines.append("What was learned (right answers, with 95% intervals)")
            lines.append(f"  {task}: {_share(a)} -> {_share(b)}")
            votes = [k for k in b if k.startswith(("pass@", "maj@")) and k != "pass@1" and k in a]
            if votes:
                lines.append("    " + ", ".join(f"{k} {a[k]:.1%} -> {b[k]:.1%}" for k in votes))
            for what, key, form in (
                ("tokens an answer", "mean_tokens", "{:.0f}"),
                ("reflections an answer", "reflections_per_response", "{:.2f}"),
            ):
                x, y = a[key], b[key]
                lines.append(f"    {what} {form.format(x)} -> {form.format(y)}" + (f" (x{y / x:.1f})" if x > 0 else ""))
        elif a or b:
            lines.append(f"  {task}: right answers {_share(a or b)}")
    if summary.get("train_seconds"):
        what = f"{summary.get('steps', 0)} steps, {summary.get('tokens', 0):,} tokens" if "steps" in summary else ""
        lines.append(f"  trained for {duration(summary['train_seconds'])}" + (f" ({what})" if what else ""))
    if "cost" in summary:
        lines.append(f"  cost in all ${summary['cost']:.4f} ({summary.get('core_hours', 0.0):.3f} core-hours)")
    lines += _stages(summary.get("table", {}))
    lines += [f"  right answers on val, {name}: {share:.1%}" for name, share in summary.get("val", {}).items()]
    made = (directory / s / "model" for s in (*reversed(summary.get("done", [])), "r1", "zero", "base"))
    weights = next((path for path in made if path.is_dir()), None)
    if weights:
        lines.append(f"  the model: {weights}")
    return [*lines, f"  the report: {report}" if report else f"  all of it: {directory}"]


def _stages(table: dict[str, dict[str, Any]]) -> list[str]:
    """Right answers of every model of the whole recipe, a line a task."""
    if not table:
        return []
    tasks = list(next(iter(table.values())))
    width = max(map(len, tasks))
    wide = max(9, *(len(name) + 2 for name in table))
    lines = ["  right answers by stage", f"  {'':{width}}" + "".join(f"{name:>{wide}}" for name in table)]
    for t in tasks:  # a model may have been asked fewer
        cells = (f"{found[t]['pass@1']:.1%}" if t in found else "" for found in table.values())
        lines.append(f"  {t:{width}}" + "".join(f"{cell:>{wide}}" for cell in cells))
    return lines


def _share(result: dict[str, Any]) -> str:
    low, high = result["ci95"]
    return f"{result['pass@1']:.1%} ({low:.1%} to {high:.1%})"
