"""The stage table: every model of a run on every benchmark, the paper's table 3 at the same place; as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from incentive.report import svg
from incentive.report.markup import Html, esc, figure, join, plain, real, section, share, span, table, tag
from incentive.report.paper import CHAIN, KINDS, Kind, kind_of, title
from incentive.report.read import RunFiles
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
        names=[title(m) for m in CHAIN],
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
