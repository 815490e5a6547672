"""The shell of every page: one file, no script, no network; a policy in its head forbids both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from incentive.report.markup import Html, esc, join, tag
from incentive.report.svg import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def document(title: str, parts: Sequence[Html], made_from: str) -> str:
    """The whole HTML document, with a footer that says what it was made from."""
    style = STYLE + (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    footer = tag("footer", f"Made by incentive from {made_from}; nothing on this page is loaded from elsewhere.")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{esc(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n{join([*parts, footer])}\n</body>\n</html>\n"
    )
