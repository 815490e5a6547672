"""Which stage started from which weights and saw which data, drawn from the stages' own records; and what follows from it.

A stage has a row of its own, in the order in which it ran; weights stand in one column, data in the next, reward models in the
last. Nothing is drawn that stage.json and done.json do not say.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from incentive import ledger
from incentive.report.markup import Html, join, plain, real, section, table, tag
from incentive.report.paper import title
from incentive.report.read import RunFiles, StageFiles, fields, given, graders, inputs, makers
from incentive.report.svg import CHAR, Size, drawing

COLUMNS = {"base": 0, "weights": 1, "data": 2, "reward": 3}
COLOURS = {"base": 0, "rl": 1, "sft": 3, "pretrain": 3, "data": 5, "reward": 4}
EDGES = {"weights": ("starts from", 0), "answers": ("is answered by", 1), "data": ("learns from", 5), "grades": ("is graded by", 4)}  # fmt: skip
WIDTHS, GAP, LEFT, ROW, BOX, TOP = (112.0, 262.0, 256.0, 214.0), 54.0, 4.0, 56.0, 42.0, 34.0
SMALL = 5.7  # width of a character at 11 px, on average


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    column: int
    colour: int
    title: str
    said: str = ""
    row: int = 0
    outside: bool = False  # not made by this run, or not done yet


@dataclass(frozen=True, slots=True)
class Edge:
    old: str
    new: str
    kind: str


def base_name(base: Any) -> str:
    """`runs/base-wide/base/model` is base-wide; a name is itself."""
    parts = [p for p in plain(base or "").split("/") if p]
    return next((p for p in reversed(parts) if p not in ("model", "base", "runs", "…")), "base model")


# what a stage is


def _seconds(run: RunFiles, stage: StageFiles) -> str:
    costs = run.costs(stage) if stage.rows else None
    return ledger.duration(costs.seconds) if costs and costs.seconds else ""


def counted(n: int, what: str) -> str:
    return f"{n:,} {what}" if n != 1 else f"1 {what.removesuffix('s')}"


def _made(stage: StageFiles) -> str:
    """How much a stage made or used, in a few words."""
    meta = fields(stage.done.get("meta"))
    updates = sum(1 for row in stage.rows if row["step"] > 0)
    if stage.kind == "rl":
        each, n = stage.section.get("problems_per_step"), stage.section.get("num_generations")
        return f"RL, {counted(updates, 'steps')}" + (f" of {each} × {n} answers" if each and n else "")
    if stage.kind == "sft":
        return f"SFT, {counted(meta['rows'], 'rows')}, {counted(updates, 'steps')}" if "rows" in meta else "SFT"
    if stage.kind == "curate":
        total = stage.told.get("total") or {}
        return f"{total['samples']:,} answers, {total['rows']:,} kept" if {"samples", "rows"} <= total.keys() else "curation"  # fmt: skip
    counts = fields(stage.told.get("counts"))
    if stage.kind == "prefer":
        if "kept" in counts:
            return f"{counts['candidates']:,} pairs judged, {counts['kept']:,} kept"
        return f"{counts['answers']:,} answers, {counts['safe']:,} safe" if "answers" in counts else "answers"
    if stage.kind == "reward":
        right = real((stage.told.get("accuracy") or {}).get("share"))
        more = f", {right:.0%} right" if right is not None else ""
        return f"{stage.told.get('trained', 0):,} records{more}"
    by = f", by {meta['written_by']}" if meta.get("written_by") else ""
    return f"{counted(meta['rows'], 'rows')}{by}" if "rows" in meta else ""


def _column(stage: StageFiles) -> tuple[int, int]:
    if stage.kind in ("rl", "sft", "pretrain", "reward"):
        return COLUMNS["reward" if stage.kind == "reward" else "weights"], COLOURS[stage.kind]
    return (COLUMNS["data"], COLOURS["data"]) if stage.done.get("kind") != "weights" else (COLUMNS["weights"], 0)


def graph(run: RunFiles) -> tuple[list[Node], list[Edge]]:
    """Every stage but evaluations, what each comes from, and what came from outside the run."""
    chain = [s for s in run.stages if s.kind != "eval"]
    made = makers(run.stages)
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []

    def source(key: str, kind: str, row: int, name: str) -> str:
        if key in made:
            return made[key].name
        ident = f"outside {key}"
        if ident not in nodes:
            column = "base" if kind != "data" else "data"
            said = "from outside" if kind == "data" else "base model"
            nodes[ident] = Node(ident, COLUMNS[column], COLOURS[column], name or key[:8], said, row, True)
        return ident

    row = 0
    for stage in chain:
        of = given(stage)
        start, data = of.get("continue_from") or of.get("start"), of.get("data")
        for key in data if isinstance(data, list) else []:
            edges.append(Edge(source(str(key), "data", row, ""), stage.name, "data"))
            row += edges[-1].old.startswith("outside") and nodes[edges[-1].old].row == row  # a row of its own
        column, colour = _column(stage)
        if isinstance(start, str) and start:
            name = base_name(run.config.get("student" if stage.name.startswith("student") else "base"))
            kind = "answers" if column == COLUMNS["data"] else "weights"
            edges.append(Edge(source(start, kind, row, name), stage.name, kind))
        edges += [Edge(made[k].name, stage.name, "grades") for k in dict.fromkeys(graders(stage)) if k in made]
        said = ", ".join(filter(None, [_made(stage), _seconds(run, stage)]))
        done = bool(stage.done)
        nodes[stage.name] = Node(
            stage.name,
            column,
            colour,
            title(stage.name),
            said if done else f"{said}; not done yet".lstrip("; "),
            row,
            not done,
        )
        row += 1
    return list(nodes.values()), edges


# the drawing


def _lefts() -> list[float]:
    out, x = [], LEFT
    for wide in WIDTHS:
        out.append(x)
        x += wide + GAP
    return out


def _middle(node: Node) -> float:
    return TOP + ROW * node.row + BOX / 2


def _arrow(x: float, y: float, way: str, paint: str) -> str:
    shape = {"right": f"M{x:.1f} {y:.1f}l-7 -3.6v7.2z", "left": f"M{x:.1f} {y:.1f}l7 -3.6v7.2z", "down": f"M{x:.1f} {y:.1f}l-3.6 -7h7.2z"}  # fmt: skip
    return f'<path d="{shape[way]}" style="fill:{paint}"/>'


def _edge(edge: Edge, old: Node, new: Node, between: bool) -> str:
    """A path of right angles in the gaps between columns. `between`: a box stands in the way of a straight line down."""
    lefts = _lefts()
    words, colour = EDGES[edge.kind]
    paint = f"var(--c{colour})"
    y1, y2 = _middle(old), _middle(new)
    if old.column == new.column and not between:
        x = lefts[old.column] + 26
        path, head = f"M{x:.1f} {y1 + BOX / 2:.1f}V{y2 - BOX / 2:.1f}", _arrow(x, y2 - BOX / 2, "down", paint)
    elif old.column == new.column:
        x = lefts[old.column] + WIDTHS[old.column]
        path, head = f"M{x:.1f} {y1:.1f}h12V{y2:.1f}h-12", _arrow(x, y2, "left", paint)
    elif old.column < new.column:
        x1, x2 = lefts[old.column] + WIDTHS[old.column], lefts[new.column]
        path, head = f"M{x1:.1f} {y1:.1f}H{x1 + 20:.1f}V{y2:.1f}H{x2:.1f}", _arrow(x2, y2, "right", paint)
    else:
        x1, x2 = lefts[old.column], lefts[new.column] + WIDTHS[new.column]
        path, head = f"M{x1:.1f} {y1:.1f}H{x1 - 18:.1f}V{y2:.1f}H{x2:.1f}", _arrow(x2, y2, "left", paint)
    told = html.escape(f"{new.title} {words} {old.title}")
    return f'<g><title>{told}</title><path d="{path}" style="fill:none;stroke:{paint};stroke-width:1.6"/>{head}</g>'


def _box(node: Node) -> str:
    x, y, wide = _lefts()[node.column], TOP + ROW * node.row, WIDTHS[node.column]
    paint, dash = f"var(--c{node.colour})", ";stroke-dasharray:4 3" if node.outside else ""
    room = int((wide - 14) / SMALL)
    said = node.said if len(node.said) <= room else node.said[: room - 1] + "…"
    head = node.title if len(node.title) <= room - 2 else node.title[: room - 3] + "…"
    return (
        f"<g><title>{html.escape(f'{node.title}: {node.said}')}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{BOX:.1f}" rx="6" '
        f'style="fill:var(--bg);stroke:{paint};stroke-width:1.5{dash}"/>'
        f'<text x="{x + 9:.1f}" y="{y + 17:.1f}" class="name" style="fill:{paint}">{html.escape(head)}</text>'
        f'<text x="{x + 9:.1f}" y="{y + 33:.1f}" style="font-size:11px">{html.escape(said)}</text></g>'
    )


def draw(run: RunFiles) -> str:
    """The graph as SVG; an empty text for a run of one or two stages, where it would say nothing."""
    nodes, edges = graph(run)
    if len([n for n in nodes if not n.name.startswith("outside")]) < 3:
        return ""
    by = {n.name: n for n in nodes}
    rows: dict[int, set[int]] = {}
    for n in nodes:
        rows.setdefault(n.column, set()).add(n.row)
    used = max(n.column for n in nodes)
    width = _lefts()[used] + WIDTHS[used] + 6
    height = TOP + ROW * (max(n.row for n in nodes) + 1)
    parts, x = [], LEFT
    for kind, (words, colour) in EDGES.items():
        if any(e.kind == kind for e in edges):
            parts.append(f'<path d="M{x:.1f} 12h22" style="stroke:var(--c{colour});stroke-width:1.6"/>')
            parts.append(f'<text x="{x + 28:.1f}" y="16">{words}</text>')
            x += 28 + len(words) * CHAR + 20
    for e in edges:
        old, new = by[e.old], by[e.new]
        between = any(old.row < r < new.row for r in rows[old.column])
        parts.append(_edge(e, old, new, between))
    parts += map(_box, nodes)
    return drawing(Size(width, height), "which stage started from which weights and saw which data", parts)


# what follows from it


@dataclass(frozen=True, slots=True)
class Source:
    """Rows that reached the weights by fine-tuning before RL."""

    name: str
    said: str
    known: bool  # written by a model of this run or by a program, as its records say


def _upstream(stage: StageFiles, made: dict[str, StageFiles]) -> list[StageFiles]:
    """The stages whose weights a stage goes on with, nearest first, without itself."""
    out: list[StageFiles] = []
    while True:
        of = given(stage)
        key = of.get("continue_from") or of.get("start")
        if not isinstance(key, str) or key not in made or made[key] in out:
            return out
        stage = made[key]
        out.append(stage)


def sources(key: str, made: dict[str, StageFiles]) -> list[Source]:
    """Where the rows of a data set come from, and those that were added to it."""
    if key not in made:
        return [Source(key[:8], f"data from outside the run ({key[:8]}); who wrote it the run cannot say", False)]
    stage = made[key]
    of, meta = given(stage), stage.done.get("meta") or {}
    start = made.get(str(of.get("start")))
    if of.get("start"):
        who = f"answers of {title(start.name)}" if start else "answers of the base model"
        rewrite = f", rewritten by {of['rewrite']}" if of.get("rewrite") else ""
        total = stage.told.get("total") or {}
        rows = total.get("rows", meta.get("rows"))
        size = f"{counted(rows, 'rows')} out of " if isinstance(rows, int) else ""
        added = [x for k in of.get("data") or [] for x in sources(str(k), made)]
        more = f" and {total.get('added', 0):,} rows of stage {' and '.join(a.name for a in added)}" if added else ""
        return [Source(stage.name, f"{stage.name} ({size}{who}{rewrite}{more})", True), *added]
    writer = meta.get("written_by")
    size = counted(meta["rows"], "rows") if isinstance(meta.get("rows"), int) else "rows"
    told = f"written by {writer}, as its stage says" if writer else "its stage names no model that wrote it"
    return [Source(stage.name, f"{stage.name} ({size}, {told})", writer in ("a program", "a model"))]


def entered(run: RunFiles) -> list[tuple[StageFiles, list[Source], bool]]:
    """For each RL stage the data sets that its weights were fine-tuned on before, and whether it was given data itself."""
    made = makers(run.stages)
    out = []
    for stage in run.of("rl"):
        keys = [str(k) for up in _upstream(stage, made) for k in given(up).get("data") or []]
        found: dict[str, Source] = {}
        for key in dict.fromkeys(keys):
            for source in sources(key, made):
                found.setdefault(source.name, source)
        out.append((stage, list(found.values()), bool(given(stage).get("data"))))
    return out


def statement(run: RunFiles) -> tuple[str, list[str]]:
    """(the verdict in one sentence, one sentence for each RL stage), by the records alone; empty without RL."""
    found = entered(run)
    if not found:
        return "", []
    made = makers(run.stages)
    strange = list(dict.fromkeys(s.name for _, ss, _ in found for s in ss if not s.known))
    fed = [title(stage.name) for stage, _, data in found if data]
    if fed:
        verdict = f"Data was given to RL itself ({', '.join(fed)}); whether people wrote it the run cannot say."
    elif strange:
        verdict = (
            f"No data was given to RL itself. By fine-tuning before it came {', '.join(strange)}, of which the run cannot say who "
            "wrote it: that no human-written reasoning entered RL holds only if no person did."
        )
    else:
        verdict = "No human-written reasoning entered RL: it saw problems, and grades of the model's own answers."
    lines = []
    for stage, ss, data in found:
        up = _upstream(stage, made)
        origin = title(up[0].name) if up else "its base"
        seen = "; ".join(s.said for s in ss) or "no data set at all"
        tuned = f"its weights were fine-tuned before on {seen}" if ss else "no data set came before it"
        own = "a data set of its own" if data else "no data set"
        grades = [title(made[k].name) for k in dict.fromkeys(graders(stage)) if k in made]
        judged = f"; answers are graded by {', '.join(grades)} too" if grades else ""
        lines.append(f"{title(stage.name)} starts from {origin} and was given {own}; {tuned}{judged}.")
    return verdict, lines


def lineage(run: RunFiles) -> Html:
    """The section of a pipeline: what follows from the records, then the drawing. A run of one or two stages has none."""
    svg = draw(run)
    return (
        section("lineage", "Where it came from", *_said(run), tag("div", Html(svg), cls="scroll drawn"))
        if svg
        else Html("")
    )


def _said(run: RunFiles) -> list[Html]:
    verdict, lines = statement(run)
    if not verdict:
        return []
    listed = tag("ul", join(tag("li", plain(line)) for line in lines), cls="list plain")
    note = "What a base model had read before this run is not in this statement."
    return [tag("p", tag("b", verdict)), listed, tag("p", note, cls="note")]


def keys(run: RunFiles) -> Html:
    """What each stage was made from, as a table of keys."""
    made, base = {k: s.name for k, s in makers(run.stages).items()}, plain(run.config.get("base", ""))
    rows = []
    for s in run.stages:
        names = [made.get(k) or f"{base or 'outside'} ({k[:8]})" for k in inputs(s)]
        result = f"{s.done.get('kind', '')} {str(s.done.get('artifact', ''))[:8]}".strip() if s.done else "not done yet"
        steps = max((r["step"] for r in s.rows), default=0)
        rows.append([s.name, ", ".join(names) or "nothing", s.kind if s.kind != "other" else "", f"{steps:,}", result])
    return table(["stage", "made from", "kind", "last step", "result"], rows) if rows else Html("")
