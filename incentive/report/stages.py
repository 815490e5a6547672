"""The stage table: every model of a run on every benchmark, the paper's table 3 at the same place; as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from incentive.report import svg
from incentive.report.markup import Html, esc, figure, join, plain, real, section, share, span, table, tag
from incentive.report.paper import CHAIN, KINDS, Kind, kind_of
from incentive.report.read import RunFiles
<<<<<<< HEAD
from incentive.report.svg import Series

Results = dict[str, Any]
Models = dict[str, dict[str, Results]]  # model -> task -> results


def models(run: RunFiles) -> Models:
    """Every evaluated model in the order of the pipeline; summary.json stands in for a lost results.json."""
    found = {s.name.removeprefix("eval-"): s.results for s in run.stages if s.name.startswith("eval-") and s.results}
    told = run.summary.get("table")
    for name, results in (told if isinstance(told, dict) else {}).items():
        if name not in found and isinstance(results, dict):
            found[name] = {t: r for t, r in results.items() if isinstance(r, dict) and "pass@1" in r}
    order = list(MODELS)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def title(model: str) -> str:
    return MODELS.get(model, plain(model))


def tasks_of(found: Models) -> list[str]:
    """Every task, kind by kind in the paper's order, English beside Chinese."""
    names = list(dict.fromkeys(t for by_task in found.values() for t in by_task))
    order = [*KINDS, None]
    return sorted(names, key=lambda t: (order.index(kind_of(t)), names.index(t)))


@dataclass(frozen=True, slots=True)
class Score:
    """A mean of pass@1 over tasks, with a 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, results: Iterable[Results | None]) -> Score | None:
        """None where one of the tasks was not evaluated. Half-widths of independent tasks add up by their squares."""
        parts = []
        for r in results:
            pair = (r or {}).get("ci95")
            if r is None or (p := real(r.get("pass@1"))) is None or not isinstance(pair, list) or len(pair) != 2:
                return None
            parts.append((p, float(pair[0]), float(pair[1])))
        if not parts:
            return None
        n = len(parts)
        mean = sum(p for p, _, _ in parts) / n
        down = math.sqrt(sum((p - low) ** 2 for p, low, _ in parts)) / n
        up = math.sqrt(sum((high - p) ** 2 for p, _, high in parts)) / n
        return cls(mean, mean - down, mean + up)

    def minus(self, other: Score) -> Score:
        """Newcombe's interval of a difference (square and add). It takes the problems as unpaired, so it is cautious:
        both models were asked the same ones."""
        d = self.value - other.value
        down = math.hypot(self.value - self.low, other.high - other.value)
        up = math.hypot(self.high - self.value, other.value - other.low)
        return Score(d, d - down, d + up)

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes 0, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def mean_of(found: Models, model: str, kind: str) -> Score | None:
    tasks = [t for t in tasks_of(found) if kind_of(t) == kind]
    return Score.of(found.get(model, {}).get(t) for t in tasks)


def points(x: float) -> str:
    """A signed difference of two shares, in points of 100."""
    text = f"{100 * x:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


# differences between neighbouring stages


@dataclass(frozen=True)
class Step:
    """One kind of benchmark from one stage to the next: ours, the paper's, and whether the signs agree."""

    kind: str
    old: str
    new: str
    ours: Score
    theirs: dict[str, float]  # benchmark -> difference in points of 100

    @property
    def their_sign(self) -> int | None:
        """None where the paper has no number, 0 where its benchmarks differ in sign."""
        signs = {(d > 0) - (d < 0) for d in self.theirs.values()}
        return None if not signs else signs.pop() if len(signs) == 1 else 0

    @property
    def verdict(self) -> str:
        theirs, ours = self.their_sign, self.ours.sign
        if theirs is None:
            return "no number in the paper"
        if theirs == 0:
            return "the paper's signs differ"
        return "as the paper" if ours == theirs else "not clear here" if ours == 0 else "against the paper"


def steps(found: Models) -> list[Step]:
    out = []
    for name, kind in KINDS.items():
        for old, new in pairwise(m for m in CHAIN if m in found):
            a, b = mean_of(found, old, name), mean_of(found, new, name)
            if a and b:
                theirs = {t.name: t.scores[new] - t.scores[old] for t in kind.theirs if {old, new} <= t.scores.keys()}
                out.append(Step(name, old, new, b.minus(a), theirs))
    return out


def _range(values: Sequence[float]) -> str:
    """`−30.1 to −1.7`, or one value."""
    said = [points(v / 100) for v in sorted(values)]
    return said[0] if len(said) == 1 else f"{said[0]} to {said[-1]}"


QUESTIONS = (
    ("R1-Zero above its base at reasoning", "reasoning", "base", "zero", 1),
    ("Dev1 below R1-Zero at reasoning: what readability costs", "reasoning", "zero", "dev1", -1),
    ("Dev1 above R1-Zero at following instructions", "instruct", "zero", "dev1", 1),
    ("Dev2 above Dev1 at reasoning: what RL wins back", "reasoning", "dev1", "dev2", 1),
    ("Dev3 above Dev2 at following instructions", "instruct", "dev2", "dev3", 1),
    ("R1 above Dev3 at general requests", "general", "dev3", "r1", 1),
=======
from incentive.report.standing import (
    Models,
    Results,
    Step,
    answers,
    contaminated,
    framed,
    marked,
    mean_of,
    models,
    points,
    quantities,
    sizes,
    steps,
    tasks_of,
    title,
>>>>>>> d2437e62f5cfd004cd6d0bb876b0f64957966a8c
)
from incentive.report.svg import Series


def _cell(r: Results | None, best: bool) -> Html:
    if r is None:
        return Html("–")
    value = tag("b", share(r.get("pass@1"))) if best else esc(share(r.get("pass@1")))
    low = span(r.get("ci95"), 0)
    return Html(f"{value}<br><small>{esc(low)}{esc(marked(r))}</small>")


def best_of(found: Models, task: str) -> list[str]:
    """The models with the row's highest score."""
    values = {m: v for m, by_task in found.items() if (v := real(by_task.get(task, {}).get("pass@1"))) is not None}
    return [m for m, v in values.items() if v == max(values.values())]


def _table(found: Models) -> Html:
    names = list(found)
    rows: list[list[object]] = []
    marks: list[str] = []
    checked = any(contaminated(found, t) for t in tasks_of(found))
    tail = [""] if checked else []

    def close(kind: str | None) -> None:
        for paper in KINDS[kind].theirs if kind else ():
            cells = [f"{paper.scores[m]:.1f}" if m in paper.scores else "" for m in names]
            rows.append([f"paper: {paper.name}", *cells, *tail])
            marks.append("paper")
        if kind and not KINDS[kind].theirs:
            rows.append(["paper: no such benchmark", *("" for _ in names), *tail])
            marks.append("paper")

    last: str | None = ""
    for task in tasks_of(found):
        kind = kind_of(task)
        if kind != last:
            if last != "":
                close(last)
            rows.append(
                [KINDS[kind].title if kind else "others, of no kind of the paper's", *("" for _ in names), *tail]
            )
            marks.append("kind")
            last = kind
        top = best_of(found, task)
        cells = [_cell(found[m].get(task), m in top and len(top) < len(names)) for m in names]
        rows.append([plain(task), *cells, *([contaminated(found, task)] if checked else [])])
        marks.append("")
    close(last or None)
    heads = ["benchmark", *map(title, names), *(["seen in training"] if checked else [])]
    return table(heads, rows, "numbers stages", marks)


def _chart(found: Models, name: str, kind: Kind) -> Html:
    at = {m: float(i) for i, m in enumerate(CHAIN)}
    scores = {m: s for m in CHAIN if (s := mean_of(found, m, name))}
    if len(scores) < 2:
        return Html("")
    ours = [(at[m], s.value) for m, s in scores.items()]
    series = [Series("ours", ours, 1, bounds=[(s.low, s.high) for s in scores.values()])]
    for i, paper in enumerate(kind.theirs):
        line = [(at[m], v / 100) for m, v in paper.scores.items()]
        series.append(Series(paper.name.split(",")[0], line, (0, 4, 5)[i % 3], "dash"))
    chart = svg.line_chart(
        series,
        about=f"{kind.title} by stage",
        x_label="",
        y_format=svg.percent,
        y_high=1.0,
<<<<<<< HEAD
        names=[title(m) for m in chain],
=======
        names=[title(m) for m in CHAIN],
>>>>>>> d2437e62f5cfd004cd6d0bb876b0f64957966a8c
    )
    return figure(chart, kind.title[0].upper() + kind.title[1:], kind.note)


def _differences(found: Models) -> Html:
    every = steps(found)
    columns = list(dict.fromkeys((s.old, s.new) for s in every))
    rows: list[list[object]] = []
    for name, kind in KINDS.items():
        by = {(s.old, s.new): s for s in every if s.kind == name}
        if by:
            rows.append([kind.title, *(_difference(by[c]) if c in by else "" for c in columns)])
    heads = ["", *(f"{title(a)} → {title(b)}" for a, b in columns)]
    return table(heads, rows, "numbers steps") if rows else Html("")


CLASSES = {"as the paper": "as", "against the paper": "differs"}


def _difference(step: Step) -> Html:
    o = step.ours
    paper = f"paper {sizes(list(step.theirs.values()))}" if step.theirs else "paper –"
    ours = f"{points(o.value)} <small>({points(o.low)} to {points(o.high)})</small>"
    verdict = tag("span", step.verdict, cls=f"tagged {CLASSES.get(step.verdict, 'open')}")
    return Html(f"{ours}<br><small>{esc(paper)}</small><br>{verdict}")


def _below(found: Models) -> Html:
    names = list(found)
    rows = [[name, *(say(value(m)) for m in names)] for name, value, say in quantities(found)]
    return table(["", *map(title, names)], rows, "numbers") if rows else Html("")


def _below_charts(found: Models) -> Html:
    names = list(found)
    parts = []
    for word, about, say in (("consistent", "Thoughts in their prompt's language", svg.percent), ("mean", "Tokens of an answer", svg.number)):  # fmt: skip
        series = []
        for i, (name, value, _) in enumerate(q for q in quantities(found) if q[0].startswith(word)):
            line = [(float(x), v) for x, m in enumerate(names) if (v := value(m)) is not None]
            series.append(Series(name.partition(", ")[2], line, i + 1))
        high = 1.0 if word == "consistent" else None
        chart = svg.line_chart(
            series, about=about, x_label="", y_format=say, y_high=high, names=[title(m) for m in names]
        )
        parts.append(figure(chart, about))
    return join(parts)


def _asked(found: Models) -> str:
    some = next(r for by_task in found.values() for r in by_task.values())
    n, k = some.get("problems"), some.get("samples")
    heat = f", temperature {some['temperature']:g}, top-p {some.get('top_p', 1):g}" if real(some.get("temperature")) is not None else ""  # fmt: skip
    return f"pass@1 on {n} problems a benchmark, {k} answers each{heat}" if n else "pass@1"


def stages(run: RunFiles) -> Html:
    """The section; nothing where no stage of the pipeline was evaluated."""
    if not models(run):
        return Html("")
    found = framed(models(run))
    missing = [title(m) for m in CHAIN if not found[m]]
    intro = (
        f"{_asked(found)}; below each its 95% interval, the best of a row in bold. In grey the paper's table 3 (DeepSeek-R1 on V3-Base, "
        "671B) at the same place: other benchmarks of the same kind, so signs and sizes of differences compare, levels do not."
    )
    late = f"Not evaluated yet: {', '.join(missing)}." if missing else ""
    every = steps(found)
    counts = {v: sum(s.verdict == v for s in every) for v in ("as the paper", "against the paper", "not clear here")}
    tally = ", ".join(f"{n} {v}" for v, n in counts.items())
    note = (
        "Means over the kind's benchmarks, in points of 100. The interval takes the problems as unpaired, so it is cautious; where it "
        f"holds 0 the sign is not clear. Of the differences that the paper has a sign for: {tally}."
    )
    charts = join(_chart(found, name, kind) for name, kind in KINDS.items())
    asked = [[a, b, c, d] for a, b, c, d in answers(found)]
    parts = [
        tag("p", intro, cls="note"), tag("p", late, cls="note") if late else "", _table(found),
        tag("h3", "What the paper saw, and this run"), table(["", "this run, points", "paper, points", "seen here"], asked),
        tag("div", charts, cls="charts") if charts else "",
    ]  # fmt: skip
    if differences := _differences(found):
        parts += [tag("h3", "From each stage to the next"), tag("p", note, cls="note"), differences]
    if below := _below(found):
        words = (
            "A thought is consistent where 95% or more of its words are in its prompt's language; thoughts without a word are left out. "
            "Over the benchmarks that rules check. The paper prints no such figures by stage."
        )
        parts += [tag("h3", "Language and length by stage"), tag("p", words, cls="note"), below]
        parts.append(tag("div", _below_charts(found), cls="charts"))
    return section("stages", "The stage table", *parts)


# Markdown


def _md(rows: Iterable[Sequence[str]]) -> list[str]:
    head, *rest = [[str(c).replace("|", "\\|") for c in row] for row in rows]
    return [f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *rest)]


def markdown(run: RunFiles) -> str:
    """The stage table for a README; an empty text where nothing was evaluated yet."""
    if not models(run):
        return ""
    found = framed(models(run))
    names = list(found)
    checked = any(contaminated(found, t) for t in tasks_of(found))
    rows: list[list[str]] = [["benchmark", *map(title, names), *(["seen in training"] if checked else [])]]
    for task in tasks_of(found):
        top, cells = best_of(found, task), []
        for m in names:
            r = found[m].get(task)
            said = "–" if r is None else share(r.get("pass@1"))
            said = f"**{said}**" if m in top and len(top) < len(names) else said
            cells.append(said if r is None else f"{said} ({span(r.get('ci95'), 0)}{marked(r)})")
        rows.append([plain(task), *cells, *([contaminated(found, task)] if checked else [])])
    out = [f"{_asked(found)}; 95% intervals; the best of a row in bold.", "", *_md(rows)]
    missing = [title(m) for m in CHAIN if not found[m]]
    out += ["", f"Not evaluated yet: {', '.join(missing)}."] if missing else []
    out += ["", "Beside the paper's table 3, in points of 100:", ""]
    out += _md([["", "this run", "paper", "seen here"], *answers(found)])
    if every := steps(found):
        out += ["", "Differences from each stage to the next, beside the paper's for the same kind of benchmark:", ""]
        lines = [["kind", "from → to", "this run", "paper", ""]]
        for s in every:
            theirs = ", ".join(f"{n} {points(d / 100)}" for n, d in s.theirs.items()) or "–"
            ours = f"{points(s.ours.value)} ({points(s.ours.low)} to {points(s.ours.high)})"
            lines.append([KINDS[s.kind].title, f"{title(s.old)} → {title(s.new)}", ours, theirs, s.verdict])
        out += _md(lines)
    if below := quantities(found):
        lines = [["", *map(title, names)], *([n, *(say(value(m)) for m in names)] for n, value, say in below)]
        out += ["", *_md(lines)]
    return "\n".join(out) + "\n"
