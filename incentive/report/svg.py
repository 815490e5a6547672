"""Charts as inline SVG: lines, stacked areas, dots with intervals, bars. Strings out, no script, no I/O.

Colours are CSS variables (`--c0` ink, `--c1` ... `--c6`, safe for the colour-blind), so that one drawing serves light,
dark and print. Values show on hover by `<title>`: one invisible column for each x names every line there.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Point = tuple[float, float]
Format = Callable[[float], str]

COLOURS = 6
LIMIT = 400  # points of a line
COLUMNS = 100  # hover columns of a chart
CHAR = 6.3  # width of a character at 12 px, on average
BOLD = 7.3  # of a bold one, in a wide face

STYLE = """
:root { color-scheme: light dark; --bg: #fdfcfa; --ink: #1f2328; --muted: #62676e; --rule: #e3e0da; --grid: #ebe8e2;
  --c0: #33383f; --c1: #0067a5; --c2: #c24e00; --c3: #00785a; --c4: #a2477f; --c5: #7a6300; --c6: #4a52b8; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #14171b; --ink: #e6e4df; --muted: #9aa0a8; --rule: #2d3238; --grid: #262b31;
  --c0: #d5d8dc; --c1: #5cb3ee; --c2: #f2934d; --c3: #45c9a2; --c4: #e497c5; --c5: #dcc04f; --c6: #9fa8ff; } }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--muted); }
.chart .name { font-weight: 600; }
.chart .grid { stroke: var(--grid); }
.chart .axis { stroke: var(--muted); stroke-opacity: .6; }
.chart .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; pointer-events: none; }
.chart .raw { fill: none; stroke-width: 1; stroke-opacity: .3; stroke-linejoin: round; pointer-events: none; }
.chart .dash { stroke-dasharray: 5 4; }
.chart .band { stroke: none; fill-opacity: .16; pointer-events: none; }
.chart .area { stroke: var(--bg); stroke-width: .6; fill-opacity: .82; pointer-events: none; }
.chart .hit rect { fill: transparent; } .chart .hit line { stroke: none; }
.chart .hit:hover line { stroke: var(--muted); stroke-dasharray: 2 3; }
@media print { :root { color-scheme: light; --bg: #fff; --ink: #000; --muted: #444; --rule: #ccc; --grid: #e5e5e5;
  --c0: #333; --c1: #0067a5; --c2: #c24e00; --c3: #00785a; --c4: #a2477f; --c5: #7a6300; --c6: #4a52b8; } }
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `smooth` draws the points thin and their moving mean bold; `bounds` are (low, high) at each point."""

    name: str
    points: Sequence[Point]
    colour: int = 1
    style: Literal["line", "dash", "dots"] = "line"
    bounds: Sequence[tuple[float, float]] | None = None
    smooth: bool = False
    label: bool = True  # write the name at the line's end


@dataclass(frozen=True, slots=True)
class Dot:
    name: str
    value: float
    low: float
    high: float
    colour: int = 1
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    width: float = 480
    height: float = 264
    attributes: str = ""  # of the svg element: x and y where it lies in another


def number(x: float) -> str:
    """Three digits or so: 0.00123, 0.12, 12.3, 1,234, 12.3k, 4.5M."""
    size = abs(x)
    if size and size < 0.001:
        return f"{x:.1e}".replace("e-0", "e-")
    for unit, mark in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{x / (1e3 if mark == 'k' else unit):.3g}{mark}"
    if size >= 100 or x == int(x):
        return f"{x:,.0f}"
    return f"{x:.3g}"


def percent(x: float) -> str:
    return f"{100 * x:.3g}%" if abs(x) < 1 else f"{100 * x:.0f}%"


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About `n` round values from `low` or below it to `high` or above it."""
    span = high - low or abs(high) or 1.0
    raw = span / max(1, n)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of two, or of ten over more than four decades; at most nine."""
    base = 2.0 if high / low <= 1e4 else 10.0
    first, last = math.floor(math.log(low, base) + 1e-9), math.ceil(math.log(high, base) - 1e-9)
    every = max(1, math.ceil((last - first + 1) / 9))
    return [base**e for e in range(first, last + 1) if (e - first) % every == 0]


def thin(points: Sequence[Point], limit: int = LIMIT) -> list[Point]:
    """At most `limit` points: means of equal runs of points."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / limit)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in r) / len(r), sum(y for _, y in r) / len(r)) for r in runs]


def window(n: int) -> int:
    """Points on each side that a bold line averages over."""
    return max(1, n // 40) if n >= 16 else 0


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A centred moving mean; at the ends it averages over what is there."""
    half, out = window(len(points)), []
    for i, (x, _) in enumerate(points):
        near = points[max(0, i - half) : i + half + 1]
        out.append((x, sum(y for _, y in near) / len(near)))
    return out


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{html.escape(text)}</text>'


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _paint(colour: int) -> str:
    return f"var(--c{colour if colour <= COLOURS else (colour - 1) % COLOURS + 1})"


def spread(wanted: Sequence[float], low: float, high: float, gap: float = 14) -> list[float]:
    """Places near the wanted ones, at least `gap` apart where the room allows it, in the same order."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    places = [0.0] * len(wanted)
    at = -math.inf
    for i in order:
        at = places[i] = max(wanted[i], at + gap, low)
    at = math.inf
    for i in reversed(order):
        at = places[i] = min(places[i], at - gap, high)
    return places


@dataclass(slots=True)
class _Plane:
    """The plot area and its two scales."""

    size: Size
    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log_x: bool
    names: Sequence[str] = ()  # of the x values 0, 1, 2 ..., where they are no quantity
    out: list[str] = field(default_factory=list)

    def x_name(self, label: str, value: float) -> str:
        """How a hover names a place on the x axis."""
        return self.names[int(value)] if self.names else f"{label} {number(value)}"

    def x(self, value: float) -> float:
        low, high = self.x_range
        if self.log_x:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return self.left + (self.right - self.left) * ((value - low) / (high - low) if high > low else 0.5)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (self.bottom - self.top) * (value - low) / (high - low)

    def at(self, points: Sequence[Point]) -> list[Point]:
        return [(self.x(x), self.y(y)) for x, y in points]

    def axes(self, x_label: str, y_ticks: Sequence[float], y_format: Format) -> None:
        for v in y_ticks:
            y = self.y(v)
            kind = "axis" if v == y_ticks[0] else "grid"
            self.out.append(
                f'<line class="{kind}" x1="{self.left:.1f}" x2="{self.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            self.out.append(_text(self.left - 6, y + 4, y_format(v), ' text-anchor="end"'))
        low, high = self.x_range
        room = max(2, int((self.right - self.left) / 45))
        marks = log_ticks(max(low, 1e-12), high) if self.log_x else ticks(low, high, room)
        if not self.log_x and all(v == int(v) for v in self.x_range):
            marks = [v for v in marks if v == int(v)]  # no half steps
        if self.names:
            marks = [float(i) for i in range(len(self.names))]
        for v in (v for v in marks if low <= v <= high):
            x = self.x(v)
            self.out.append(
                f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{self.bottom:.1f}" y2="{self.bottom + 4:.1f}"/>'
            )
            said = self.names[int(v)] if self.names else number(v)
            self.out.append(_text(x, self.bottom + 17, said, ' text-anchor="middle"'))
        self.out.append(_text((self.left + self.right) / 2, self.bottom + 33, x_label, ' text-anchor="middle"'))

    def hover(self, named: Sequence[tuple[str, Sequence[Point]]], x_label: str, y_format: Format) -> None:
        """One invisible column for each x, thinned to `COLUMNS`; its title names every value there."""
        values = [dict(points) for _, points in named]
        xs = sorted({x for v in values for x in v})
        every = max(1, math.ceil(len(xs) / COLUMNS))
        picked = xs[::every] + ([xs[-1]] if xs and (len(xs) - 1) % every else [])
        places = [self.x(x) for x in picked]
        for i, (x, at) in enumerate(zip(picked, places, strict=True)):
            lines = [f"{n} {y_format(v[x])}".strip() for (n, _), v in zip(named, values, strict=True) if x in v]
            before = (places[i - 1] + at) / 2 if i else self.left
            after = (places[i + 1] + at) / 2 if i + 1 < len(places) else self.right
            where = f'y1="{self.top:.0f}" y2="{self.bottom:.0f}"'
            self.out.append(
                f'<g class="hit"><rect x="{before:.1f}" y="{self.top:.0f}" width="{max(0.1, after - before):.1f}" '
                f'height="{self.bottom - self.top:.0f}"/><line x1="{at:.1f}" x2="{at:.1f}" {where}/>'
                f"<title>{html.escape(self.x_name(x_label, x))}\n{html.escape(chr(10).join(lines))}</title></g>"
            )

    def labels(self, ends: Sequence[tuple[str, float, int]]) -> None:
        """Names at the right, beside the ends of their lines."""
        places = spread([y for _, y, _ in ends], self.top + 4, self.bottom - 2)
        for (name, _, colour), y in zip(ends, places, strict=True):
            self.out.append(_text(self.right + 7, y + 4, name, f' class="name" style="fill:{_paint(colour)}"'))

    def legend(self, entries: Sequence[tuple[str, str, int]]) -> None:
        """(style, text, colour) entries above the plot."""
        x = self.left
        for style, text, colour in entries:
            paint = _paint(colour)
            if style == "dots":
                self.out.append(f'<circle cx="{x + 8:.1f}" cy="9" r="3.4" style="fill:{paint}"/>')
            else:
                self.out.append(f'<path class="line {style}" d="M{x:.1f} 9h16" style="stroke:{paint}"/>')
            self.out.append(_text(x + 21, 13, text))
            x += 21 + len(text) * CHAR + 16

    def svg(self, about: str) -> str:
        return drawing(self.size, about, self.out)


def drawing(size: Size, about: str, parts: Sequence[str]) -> str:
    """An SVG element around its parts; `about` is what a screen reader says."""
    return (
        f'<svg class="chart" viewBox="0 0 {size.width:.0f} {size.height:.0f}" role="img" '
        f'aria-label="{html.escape(about)}" {size.attributes}>{"".join(parts)}</svg>'
    )


def _plane(
    size: Size,
    xs: Sequence[float],
    ys: Sequence[float],
    names: Sequence[str],
    legend: bool,
    y_format: Format,
    y_low: float | None,
    y_high: float | None,
    log_x: bool,
) -> tuple[_Plane, list[float]]:
    low = min(ys) if y_low is None else min(y_low, *ys)
    high = max(ys) if y_high is None else max(y_high, *ys)
    marks = ticks(low, high if high > low else low + (abs(low) * 0.1 or 1.0))
    left = 12 + max(len(y_format(v)) for v in marks) * CHAR
    right = size.width - (min(0.36 * size.width, 14 + max(map(len, names)) * BOLD) if names else 14)
    top = 28 if legend else 12
    x_range = (max(min(xs), 1e-12) if log_x else min(xs), max(xs))
    return _Plane(size, left, right, top, size.height - 40, x_range, (marks[0], marks[-1]), log_x), marks


def line_chart(
    series: Sequence[Series],
    *,
    about: str,
    x_label: str = "step",
    y_format: Format = number,
    y_low: float | None = 0.0,
    y_high: float | None = None,
    log_x: bool = False,
    legend: Sequence[tuple[str, str, int]] = (),
    names: Sequence[str] = (),
    size: Size | None = None,
) -> str:
    """A line chart; an empty text where no series has a point.

    Args:
        about: what a screen reader says.
        names: of x = 0, 1, 2 ..., where x is no quantity.
        y_low: the axis reaches down to it at least; None: to the data. `y_high` alike.
        legend: (style, text, colour) entries, where direct labels do not say enough.
    """
    shown = [(s, thin(s.points)) for s in series if s.points]
    if log_x:
        shown = [(s, kept) for s, points in shown if (kept := [p for p in points if p[0] > 0])]
    if not shown:
        return ""
    bounds = [b for s, _ in shown for pair in s.bounds or () for b in pair]
    xs = [x for _, points in shown for x, _ in points]
    ys = [y for _, points in shown for _, y in points] + bounds
    labels = [s.name for s, _ in shown if s.label and s.name]
    xs += [0.0, len(names) - 1.0] if names else []
    plane, marks = _plane(size or Size(), xs, ys, labels, bool(legend), y_format, y_low, y_high, log_x)
    plane.names = names
    plane.axes(x_label, marks, y_format)
    plane.legend(legend)
    plane.hover([(s.name, points) for s, points in shown if s.style != "dots"], x_label, y_format)
    ends = []
    for s, points in shown:
        paint, drawn = _paint(s.colour), points
        whole = s.bounds if s.bounds is not None and len(s.bounds) == len(points) else None
        if whole and s.style != "dots":
            edge = [(x, hi) for (x, _), (_, hi) in zip(points, whole, strict=True)]
            edge += [(x, lo) for (x, _), (lo, _) in zip(reversed(points), reversed(whole), strict=True)]
            plane.out.append(f'<path class="band" d="{_path(plane.at(edge))}Z" style="fill:{paint}"/>')
        if s.smooth and window(len(points)):
            plane.out.append(f'<path class="raw" d="{_path(plane.at(points))}" style="stroke:{paint}"/>')
            drawn = smoothed(points)
        if s.style == "dots":
            plane.out += _dots(plane, s, points, whole, x_label, y_format)
        elif len(drawn) > 1:
            plane.out.append(f'<path class="line {s.style}" d="{_path(plane.at(drawn))}" style="stroke:{paint}"/>')
        if s.style != "dots" and len(drawn) <= 12:
            for x, y in plane.at(drawn):
                plane.out.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" style="fill:{paint};pointer-events:none"/>'
                )
        if s.label and s.name:
            ends.append((s.name, plane.y(drawn[-1][1]), s.colour))
    plane.labels(ends)
    return plane.svg(about)


def _dots(
    plane: _Plane,
    s: Series,
    points: Sequence[Point],
    bounds: Sequence[tuple[float, float]] | None,
    x_label: str,
    y_format: Format,
) -> list[str]:
    """A dot for each point, with its whisker, and a thin line through them."""
    paint, out = _paint(s.colour), []
    if len(points) > 1:
        line = _path(plane.at(points))
        out.append(f'<path class="raw dash" d="{line}" style="stroke:{paint};stroke-opacity:.55"/>')
    for i, (x, y) in enumerate(points):
        at, whisker, said = plane.x(x), "", ""
        if bounds:
            low, high = bounds[i]
            said = f" (95%: {y_format(low)} to {y_format(high)})"
            whisker = (
                f'<path d="M{at:.1f} {plane.y(low):.1f}V{plane.y(high):.1f}" '
                f'style="stroke:{paint};stroke-width:1.2;stroke-opacity:.55"/>'
            )
        title = html.escape(f"{plane.x_name(x_label, x)}\n{s.name} {y_format(y)}{said}")
        dot = f'<circle cx="{at:.1f}" cy="{plane.y(y):.1f}" r="3.4" style="fill:{paint}"/>'
        out.append(f"<g>{whisker}{dot}<title>{title}</title></g>")
    return out


def area_chart(
    xs: Sequence[float],
    layers: Sequence[tuple[str, Sequence[float]]],
    *,
    about: str,
    x_label: str = "step",
    y_format: Format = number,
    size: Size | None = None,
    colours: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """Layers on top of each other, the first at the bottom, each with its name at its right end."""
    layers = [(name, values) for name, values in layers if any(values)]
    if not layers or not xs:
        return ""
    thinned = [[y for _, y in thin(list(zip(xs, values, strict=True)))] for _, values in layers]
    xs = [x for x, _ in thin([(x, 0.0) for x in xs])]
    sums = [[0.0] * len(xs)]
    for values in thinned:
        sums.append([a + b for a, b in zip(sums[-1], values, strict=True)])
    names = [name for name, _ in layers]
    plane, marks = _plane(size or Size(), xs, sums[-1], names, False, y_format, 0.0, None, False)
    plane.axes(x_label, marks, y_format)
    columns = [(name, list(zip(xs, values, strict=True))) for name, values in zip(names, thinned, strict=True)]
    plane.hover([*reversed(columns), ("together", list(zip(xs, sums[-1], strict=True)))], x_label, y_format)
    ends = []
    for i, name in enumerate(names):
        low, high, colour = sums[i], sums[i + 1], colours.get(name, i + 1)
        edge = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
        plane.out.append(f'<path class="area" d="{_path(plane.at(edge))}Z" style="fill:{_paint(colour)}"/>')
        ends.append((name, plane.y((low[-1] + high[-1]) / 2), colour))
    plane.labels(ends)
    return plane.svg(about)


def dot_chart(
    rows: Sequence[tuple[str, Sequence[Dot]]],
    *,
    about: str,
    x_format: Format = percent,
    x_low: float = 0.0,
    x_high: float | None = 1.0,
    width: float = 640,
) -> str:
    """One line for each row: dots with their 95% intervals, joined in order."""
    rows = [(label, dots) for label, dots in rows if dots]
    if not rows:
        return ""
    line, top = 44, 14
    size = Size(width, top + line * len(rows) + 26)
    left = 14 + max(len(label) for label, _ in rows) * 8
    ends = [v for _, dots in rows for d in dots for v in (d.low, d.high)]
    marks = ticks(min(x_low, *ends), max(ends) if x_high is None else max(x_high, *ends))
    plane = _Plane(size, left, width - 20, top, size.height - 26, (marks[0], marks[-1]), (0, 1), False)
    for v in marks:
        x = plane.x(v)
        plane.out.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{plane.bottom:.1f}"/>')
        plane.out.append(_text(x, plane.bottom + 18, x_format(v), ' text-anchor="middle"'))
    for i, (label, dots) in enumerate(rows):
        y = top + line * (i + 0.5) + 5
        plane.out.append(_text(left - 10, y + 4, label, ' text-anchor="end" class="name" style="fill:var(--ink)"'))
        if len(dots) > 1:
            path = f"M{plane.x(dots[0].value):.1f} {y:.1f}H{plane.x(dots[-1].value):.1f}"
            plane.out.append(f'<path d="{path}" style="stroke:var(--muted);stroke-opacity:.35"/>')
        for d in dots:
            paint, x = _paint(d.colour), plane.x(d.value)
            title = html.escape(
                f"{label}, {d.name}: {x_format(d.value)} (95%: {x_format(d.low)} to {x_format(d.high)})"
            )
            fill = "var(--bg)" if d.hollow else paint
            plane.out.append(
                f'<g><path d="M{plane.x(d.low):.1f} {y:.1f}H{plane.x(d.high):.1f}" '
                f'style="stroke:{paint};stroke-width:5;stroke-opacity:.35;stroke-linecap:round"/>'
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" style="fill:{fill};stroke:{paint};stroke-width:2.4"/>'
                + _text(x, y - 12, f"{d.name} {x_format(d.value)}", f' text-anchor="middle" style="fill:{paint}"')
                + f"<title>{title}</title></g>"
            )
    return plane.svg(about)


def bar_chart(
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    *,
    about: str,
    x_format: Format = number,
    width: float = 640,
    colours: Mapping[str, int] = MappingProxyType({}),
    ends: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """One horizontal bar for each row, of named parts on a common scale; at its end the whole, or what `ends` says."""
    rows = [(label, parts) for label, parts in rows if sum(v for _, v in parts) > 0]
    if not rows:
        return ""
    names = list(dict.fromkeys(name for _, parts in rows for name, _ in parts))
    paints = {name: _paint(colours.get(name, i + 1)) for i, name in enumerate(names)}
    left = 14.0 + max(len(label) for label, _ in rows) * 8
    out, x, y = [], left, 4.0
    for name in names:
        wide = 16 + len(name) * CHAR + 18
        if x > left and x + wide > width:  # a further line of the legend
            x, y = left, y + 18
        square = f'<rect x="{x:.1f}" y="{y:.0f}" width="11" height="11" rx="2" '
        out.append(f'{square}style="fill:{paints[name]};fill-opacity:.82"/>')
        out.append(_text(x + 16, y + 10, name))
        x += wide
    line, top = 30.0, y + 26
    most = max(sum(v for _, v in parts) for _, parts in rows)
    size, room = Size(width, top + line * len(rows) + 4), width - left - 110
    for row, (label, parts) in enumerate(rows):
        y, x = top + line * row, left
        out.append(_text(left - 10, y + 14, label, ' text-anchor="end" class="name" style="fill:var(--ink)"'))
        for name, value in parts:
            wide = room * value / most
            title = html.escape(f"{label}, {name}: {x_format(value)}")
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{max(0.0, wide - 0.6):.1f}" height="20" rx="1.5" '
                f'style="fill:{paints[name]};fill-opacity:.82"><title>{title}</title></rect>'
            )
            x += wide
        out.append(_text(x + 6, y + 14, ends.get(label) or x_format(sum(v for _, v in parts))))
    return drawing(size, about, out)
