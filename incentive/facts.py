"""The miniature world's facts: forty substances, each with a weight, a heat, an age and a colour, in two languages.

They are what its choice questions and general requests are about. A fact is the same in every run; nothing on disk.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from incentive.records import hash64

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

SUBSTANCES = (
    "zor", "mal", "kib", "tun", "vex", "pol", "rud", "hesk", "lorn", "dax", "fim", "gop", "jat", "nulk", "quin", "sarn",
    "wep", "yold", "brix", "crum", "dolt", "ferb", "glim", "hond", "irk", "jum", "kelp", "lusk", "morv", "nep", "osk",
    "prat", "rilk", "skon", "trob", "ulm", "vand", "wisk", "yarn", "zept",
)  # fmt: skip
NUMERIC = ("weight", "heat", "age")
COLOURS = ("red", "blue", "green", "black", "white", "gold")
ATTRIBUTES = (*NUMERIC, "colour")

ZH = {
    "weight": "重量", "heat": "热度", "age": "年龄", "colour": "颜色",
    "red": "红", "blue": "蓝", "green": "绿", "black": "黑", "white": "白", "gold": "金",
}  # fmt: skip


def say(word: str, language: str) -> str:
    """An attribute or a colour in a language; names are the same in both."""
    return ZH.get(word, word) if language == "zh" else word


def _table() -> dict[tuple[str, str], int | str]:
    table: dict[tuple[str, str], int | str] = {}
    for attribute in NUMERIC:  # distinct values, so that of several one is the most
        values = Random(hash64("fact", attribute)).sample(range(1, 100), len(SUBSTANCES))
        table |= {(s, attribute): v for s, v in zip(SUBSTANCES, values, strict=True)}
    return table | {(s, "colour"): COLOURS[hash64("fact", s) % len(COLOURS)] for s in SUBSTANCES}


_FACTS = _table()


def number(substance: str, attribute: str) -> int:
    """Weight, heat or age, 1 to 99."""
    found = _FACTS[substance, attribute]
    assert isinstance(found, int)
    return found


def told(substance: str, attribute: str, language: str = "en") -> str:
    """The fact as text: `46`, `red`, `红`."""
    return say(str(_FACTS[substance, attribute]), language)
