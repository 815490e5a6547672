"""Run the attacks that ship and write their tables into the docs: `python prove/attacks.py`. Exit status 1 if one succeeds."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

from incentive.verify import attacks_answers
from incentive.verify.attacks_answers import Row

DOCS = Path(__file__).parents[1] / "docs"


def replace(page: Path, name: str, text: str) -> None:
    """Put a text between the page's marks of that name."""
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    old = page.read_text(encoding="utf-8")
    new, n = re.subn(
        re.escape(marks[0]) + ".*?" + re.escape(marks[1]),
        lambda _: f"{marks[0]}\n{text}\n{marks[1]}",
        old,
        flags=re.DOTALL,
    )
    if n != 1:
        raise SystemExit(f"{page}: needs {marks[0]} and {marks[1]} once")
    page.write_text(new, encoding="utf-8")


def shown(text: str) -> str:
    """A text in a table's cell: printable, one line, short."""
    short = text if len(text) <= 44 else f"{text[:30]}... ({len(text):,} characters)"
    escaped = "".join(
        c if c.isprintable() and c not in "|`" else {"|": "¦", "`": "'"}.get(c, ascii(c)[1:-1]) for c in short
    )
    return f"`{escaped}`" if escaped.strip() else "(empty)" if not escaped else f"` {escaped} `"


def graders() -> int:
    """The graders' table; how many attacks succeed, or true answers fail."""
    attacks = [*attacks_answers.run(), *attacks_answers.run_responses()]
    true = attacks_answers.run_true()
    holes = [r for r in attacks if r.outcome != "fail" or r.why.startswith("over ")]
    strict = [r for r in true if r.outcome != "pass"]
    kinds = Counter(r.kind for r in attacks)
    lines = [
        f"{len(attacks)} attacks ({', '.join(f'{n} {k}' for k, n in kinds.most_common())}): {len(holes)} succeed. "
        f"{len(true)} true answers: {len(strict)} are refused.",
        "",
        "| attack | kind | gold | answer | outcome | why |",
        "|---|---|---|---|---|---|",
        *(f"| {r.name} | {r.kind} | {shown(r.gold)} | {shown(r.answer)} | {r.outcome} | {why(r)} |" for r in attacks),
    ]
    replace(DOCS / "attacks.md", "graders", "\n".join(lines))
    for r in [*holes, *strict]:
        print(
            f"{r.kind}: {r.name or 'a true answer'} {shown(r.answer)} for {shown(r.gold)}: {r.outcome}", file=sys.stderr
        )
    return len(holes) + len(strict)


def why(row: Row) -> str:
    return "".join(c if c.isprintable() and c not in "|" else ascii(c)[1:-1] if c != "|" else "¦" for c in row.why)[:60]


if __name__ == "__main__":
    sys.exit(int(graders() > 0))
