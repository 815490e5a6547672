"""What the terminal, or the pipe in its place, can show."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


def ascii_only(stream: Any = None) -> bool:
    """Whether the stream or the locale shows ASCII alone. (Under LC_ALL=C Python turns to UTF-8, the terminal not.)"""
    encoding = str(getattr(stream or sys.stdout, "encoding", None) or "ascii").lower()
    locale = next((v for k in ("LC_ALL", "LC_CTYPE", "LANG") if (v := os.environ.get(k))), "")
    return "utf" not in encoding or locale in ("C", "POSIX")


def rich_terminal(plain: bool | None = None) -> bool:
    """Whether to draw: a terminal that can, and nobody asked for plain lines."""
    if plain is not None:
        return not plain
    quiet = os.environ.get("CI") or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return sys.stdout.isatty() and not quiet and not ascii_only()


def printable(text: str, ascii_: bool = False) -> str:
    """A model's text without control characters: it must not drive the terminal."""
    clean = "".join(c if c == "\n" or c.isprintable() else "?" for c in text)
    return clean.encode("ascii", "replace").decode() if ascii_ else clean


def silence(stream: Any = None) -> None:
    """Send further output nowhere: its reader is gone, and Python's own flush at exit would complain."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, (stream or sys.stdout).fileno())
        os.close(null)
