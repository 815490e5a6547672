"""HTML, safe by default: text is escaped unless it is `Html` already. Model text is untrusted.

Nothing here may name the machine: `plain` shortens absolute paths to their last part.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Markup that is safe as it stands."""

    __slots__ = ()


_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160), *range(0xD800, 0xE000)], "\ufffd")
_PATH = re.compile(r"(?<![\w./<…])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:'\"<>|,;()]+[/\\])+([^\s/\\:'\"<>|,;()]*)")


def esc(text: object) -> Html:
    """Text as markup; control characters and lone surrogates become the replacement character."""
    return text if isinstance(text, Html) else Html(html.escape(str(text).translate(_CONTROL), quote=True))


def plain(text: object) -> str:
    """Text without the machine's paths: `/home/me/run/zero` is `…/zero`."""
    return _PATH.sub(lambda m: f"…/{m[1]}", str(text))


def join(parts: Iterable[str], by: str = "") -> Html:
    return Html(by.join(esc(p) for p in parts if p))


def tag(name: str, *parts: object, cls: str = "", **attributes: str) -> Html:
    """`<name class=cls ...>parts</name>`."""
    named = {"class": cls, **attributes} if cls else attributes
    about = "".join(f' {k.rstrip("_")}="{esc(v)}"' for k, v in named.items())
    return Html(f"<{name}{about}>{''.join(esc(p) for p in parts)}</{name}>")


def table(
    columns: Sequence[object], rows: Iterable[Sequence[object]], cls: str = "", marks: Sequence[str] = ()
) -> Html:
    """A table that scrolls sideways where it must; the first column heads its row. `marks` are classes of rows."""
    body = []
    for i, row in enumerate(rows):
        first, *rest = row
        mark = f' class="{esc(marks[i])}"' if i < len(marks) and marks[i] else ""
        cells = "".join(f"<td>{esc(c)}</td>" for c in rest)
        body.append(f'<tr{mark}><th scope="row">{esc(first)}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{esc(c)}</th>' for c in columns)
    top = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return Html(f'<div class="scroll"><table class="{esc(cls)}">{top}<tbody>{"".join(body)}</tbody></table></div>')


def details(title: object, *parts: object, open_: bool = False) -> Html:
    return Html(f"<details{' open' if open_ else ''}><summary>{esc(title)}</summary>{join(map(esc, parts))}</details>")


def section(ident: str, title: str, *parts: object) -> Html:
    """A part of the page; nothing where its parts are empty."""
    inner = join(map(esc, parts))
    return Html(f'<section id="{esc(ident)}"><h2>{esc(title)}</h2>{inner}</section>') if inner else Html("")


def figure(chart: str, title: str, note: object = "", now: str = "") -> Html:
    """A chart under its title; `now` says first and last; nothing where the chart is empty."""
    if not chart:
        return Html("")
    head = tag("figcaption", tag("b", title), tag("span", now, cls="now") if now else "")
    return tag("figure", head, Html(chart), tag("p", note, cls="note") if note else "")


# numbers


def real(value: Any) -> float | None:
    """The value as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def share(value: Any, digits: int = 1) -> str:
    """A share in percent; what is not quite 0 or 1 does not read as 0 or 100%."""
    x = real(value)
    if x is None:
        return "–"
    while digits < 3 and 0 < x < 1 and f"{100 * x:.{digits}f}" in ("0", "100", "0.0", "100.0", "0.00", "100.00"):
        digits += 1
    return f"{100 * x:.{digits}f}%"


def span(pair: Any, digits: int = 1) -> str:
    """A 95% interval of a share: `35.2 to 41.0%`."""
    if not isinstance(pair, list | tuple) or len(pair) != 2 or any(real(v) is None for v in pair):
        return ""
    return f"{share(pair[0], digits)[:-1]} to {share(pair[1], digits)}"


def amount(value: Any) -> str:
    """A quantity with about three digits."""
    x = real(value)
    if x is None:
        return "–"
    if abs(x) >= 100 or x == int(x):
        return f"{x:,.0f}"
    return f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}" if abs(x) >= 0.1 else f"{x:.3g}"


def factor(before: Any, after: Any) -> str:
    """`×2.4`, or nothing where there is nothing to divide by."""
    a, b = real(before), real(after)
    if a is None or b is None or a <= 0:
        return ""
    ratio = b / a
    return f"×{ratio:.0f}" if ratio >= 100 else f"×{ratio:.1f}" if ratio >= 10 else f"×{ratio:.2f}"
