"""What reward models learn from: pairs of answers, and answers with labels; and how a judge makes pairs.

    {"prompt": "...", "chosen": "<think>..</think>..", "rejected": "<think>..</think>..", "margin": 1.5}
    {"prompt": "...", "response": "<think>..</think>..", "safe": true}

One object a line in the .jsonl and .jsonl.zst files of a folder, in the order of the files' names. A response is a whole
text with its tags; other fields are left alone. A faulty line is an error with its number; nothing is skipped in silence.

Kept from the paper (2.2.2): four calls of the judge with the order of the two changed at random, the mean, |mean| > 1, and
lengths of chosen and rejected balanced over the whole set. Ours, where it is silent: the five verdicts count -2 to 2; of
the four calls two, drawn at random, show the answers the other way round, so that a liking for the first place cancels
out of every mean; a pair to which one call gives no verdict is dropped; and how lengths are balanced (`balanced`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import zstandard

from incentive import chat
from incentive.files import RunError, write_lines
from incentive.measure import wilson
from incentive.records import hash64, to_json

Prompt = str | list[dict[str, str]]
Judge = Callable[[Prompt, str, str], float | None]
"""`(prompt, first, second) -> verdict`: 2 where the first is much better, 1 better, 0 as good, -1 and -2 where the second
is; None where the judge's words hold no verdict."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a prompt, the better one first. `margin` is the judge's mean verdict, above 0."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float


@dataclass(frozen=True, slots=True)
class Label:
    """An answer, and whether it is safe by the written guidelines."""

    prompt: Prompt
    response: str
    safe: bool


# files

_HALF = re.compile("[\ud800-\udfff]")


def _lines(folder: Path) -> Iterator[tuple[str, Any]]:
    """(place, object) of every line that is not blank."""
    files = sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.zst")])
    if not files:
        raise RunError(f"{folder}: no .jsonl or .jsonl.zst file here\nGive a folder of preference records.")
    for file in files:
        try:
            data = file.read_bytes()
            lines = (_unpacked(data) if file.suffix == ".zst" else data).split(b"\n")
        except (OSError, zstandard.ZstdError) as error:
            raise RunError(f"{file}: cannot be read: {error}") from None
        for n, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield f"{file}:{n}", json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    raise RunError(f"{file}:{n}: not valid JSON in UTF-8: {str(error).splitlines()[0]}") from None


def _unpacked(data: bytes) -> bytes:
    """All frames; a stream that ends too early is an error, where zstandard's own reader returns what there is."""
    out = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        out.append(frame.decompress(data))
        if not frame.eof:
            raise zstandard.ZstdError("it ends too early")
        data = frame.unused_data
    return b"".join(out)


def _is_text(value: Any) -> bool:
    """Text that has a UTF-8 form: JSON can hold half of a surrogate pair, which no tokenizer reads."""
    return isinstance(value, str) and not _HALF.search(value)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(
            isinstance(m, dict) and all(_is_text(m.get(k)) for k in ("role", "content")) for m in value
        )
    return _is_text(value) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_PAIR: dict[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": (_is_prompt, "text or a list of messages"),
    "chosen": (_is_text, "text"),
    "rejected": (_is_text, "text"),
    "margin": (lambda v: _is_number(v) and v >= 0, "a number of 0 or more"),
}
_LABEL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "prompt": _PAIR["prompt"],
    "response": _PAIR["chosen"],
    "safe": (lambda v: isinstance(v, bool), "true or false"),
}


def _read(folder: Path, wanted: dict[str, tuple[Callable[[Any], bool], str]]) -> Iterator[dict[str, Any]]:
    for place, data in _lines(folder):
        if not isinstance(data, dict):
            raise RunError(f"{place}: not an object; write one with {', '.join(wanted)}")
        for name, (good, kind) in wanted.items():
            if not good(data.get(name)):
                what = f"{name!r} must be {kind}" if name in data else f"{name!r} is missing"
                raise RunError(f"{place}: {what}; a line has {', '.join(wanted)}")
        yield {name: data[name] for name in wanted}


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of a folder.

    Raises:
        RunError: a line is no pair; the message names the file and line.
    """
    return [Pair(**data) for data in _read(folder, _PAIR)]


def read_labels(folder: Path) -> list[Label]:
    """The labelled answers of a folder.

    Raises:
        RunError: a line is no labelled answer; the message names the file and line.
    """
    return [Label(**data) for data in _read(folder, _LABEL)]


def write(folder: Path, records: Iterable[Pair | Label]) -> None:
    """Write records as one file of the folder, whole or not at all."""
    write_lines(folder / "records.jsonl.zst", map(to_json, records))


# the making of pairs


@dataclass(frozen=True, slots=True)
class Made:
    """Pairs, and how many candidates did not become one and why."""

    pairs: list[Pair]
    counts: dict[str, int] = field(default_factory=dict)
    judge: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, float] = field(default_factory=dict)


def _ask(judge: Judge, calls: int, seed: int, candidate: tuple[Prompt, str, str]) -> list[tuple[bool, float | None]]:
    """(whether b was shown first, verdict in favour of a) of each call; half of the calls show b first."""
    prompt, a, b = candidate
    swaps = [i % 2 == 1 for i in range(calls)]
    Random(hash64("judge", seed, json.dumps(prompt), a, b)).shuffle(swaps)
    found: list[tuple[bool, float | None]] = []
    for swapped in swaps:
        said = judge(prompt, b, a) if swapped else judge(prompt, a, b)
        if said is not None and not (_is_number(said) and -2 <= said <= 2):
            raise ValueError(f"the judge returned {said!r}; a verdict is a number from -2 to 2, or None")
        found.append((swapped, said if said is None else -said if swapped else said))
    return found


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def _agreement(asked: list[list[tuple[bool, float]]]) -> dict[str, Any]:
    """How far the judge agrees with itself.

    `agreement` is the share of two calls on one pair that point the same way (better, as good, worse), `swapped` that of
    two which showed it in different orders; `unanimous` the share of pairs on which all calls do. `first_place` is the
    mean verdict in favour of what was shown first, 0 without a liking for a place. Intervals are 95%.
    """
    same: list[float] = []
    across: list[float] = []
    unanimous, place = 0, []
    for calls in asked:
        twos = [(_sign(v) == _sign(w), s != t) for (s, v), (t, w) in combinations(calls, 2)]
        same += [fmean(equal for equal, _ in twos)] if twos else []
        mixed = [equal for equal, differs in twos if differs]
        across += [fmean(mixed)] if mixed else []
        unanimous += len({_sign(v) for _, v in calls}) == 1
        place += [-v if swapped else v for swapped, v in calls]
    n = len(asked)
    if not n:
        return {"pairs": 0}
    low, high = wilson(unanimous, n)
    return {
        "pairs": n,
        "agreement": fmean(same) if same else None,
        "swapped": fmean(across) if across else None,
        "unanimous": unanimous / n,
        "unanimous_ci95": [low, high],
        "first_place": fmean(place),
    }


def make_pairs(
    candidates: Iterable[tuple[Prompt, str, str]],
    judge: Judge,
    *,
    seed: int = 0,
    calls: int = 4,
    threshold: float = 1.0,
    tolerance: float = 0.02,
    length: Callable[[str], int] = len,
    workers: int = 1,
) -> Made:
    """Pairs out of two responses to each prompt.

    The judge sees summaries, as the reward model will. A candidate is dropped, and counted, where a summary is empty
    (`empty`), both are the same (`same`), it came before (`repeated`), a call gave no verdict (`no_verdict`), or
    |mean verdict| <= threshold (`unclear`); then lengths are balanced (`length`). What the judge raises is passed on.

    Args:
        calls: of the judge on each pair.
        tolerance: see `balanced`.
        length: of a summary; characters unless a tokenizer's count is given.
        workers: pairs that are judged beside each other, where the judge waits for a network. It changes no result.
    """
    counts = dict.fromkeys(("candidates", "empty", "same", "repeated", "no_verdict", "unclear", "length", "kept"), 0)
    seen: set[tuple[str, ...]] = set()
    asked: list[tuple[Prompt, str, str]] = []
    shown: list[tuple[Prompt, str, str]] = []
    for prompt, a, b in candidates:
        counts["candidates"] += 1
        first, second = chat.summary(a), chat.summary(b)
        key = (json.dumps(prompt), *sorted((first, second)))
        why = "empty" if not (first and second) else "same" if first == second else "repeated" if key in seen else None
        if why:
            counts[why] += 1
            continue
        seen.add(key)
        asked.append((prompt, a, b))
        shown.append((prompt, first, second))
    with ThreadPoolExecutor(workers) as pool:
        verdicts = list(pool.map(partial(_ask, judge, calls, seed), shown))

    pairs, whole = [], []
    for (prompt, a, b), told in zip(asked, verdicts, strict=True):
        given = [(swapped, v) for swapped, v in told if v is not None]
        if len(given) < calls:
            counts["no_verdict"] += 1
            continue
        whole.append(given)
        mean = fmean(v for _, v in given)
        if abs(mean) <= threshold:
            counts["unclear"] += 1
        else:
            pairs.append(Pair(prompt, *((a, b) if mean > 0 else (b, a)), abs(mean)))
    kept = balanced(pairs, tolerance, seed, length)
    counts["length"], counts["kept"] = len(pairs) - len(kept), len(kept)
    lengths = {f"{k}_before": v for k, v in _lengths(pairs, length).items()} | _lengths(kept, length)
    return Made(kept, counts, _agreement(whole), lengths | {"tolerance": tolerance})


def _lengths(pairs: list[Pair], length: Callable[[str], int]) -> dict[str, float]:
    """Mean lengths of the summaries, and the share of pairs whose chosen one is longer."""
    if not pairs:
        return {}
    both = [(length(chat.summary(p.chosen)), length(chat.summary(p.rejected))) for p in pairs]
    return {
        "chosen": fmean(c for c, _ in both),
        "rejected": fmean(r for _, r in both),
        "chosen_longer": fmean((c > r) + (c == r) / 2 for c, r in both),
    }


def balanced(
    pairs: list[Pair], tolerance: float = 0.02, seed: int = 0, length: Callable[[str], int] = len
) -> list[Pair]:
    """The pairs, in their order, without some of those on the side (chosen longer, or shorter) that outweighs.

    Afterwards mean lengths of chosen and rejected summaries differ by at most `tolerance` of the mean length. Which ones
    leave is settled by a hash of their content, not by their length: dropping those with the largest gap would need
    fewer, and would teach that of two very unequal answers the short one is better. One whose loss would tip the balance
    to the other side is passed over, unless nothing else is left to drop.
    """
    sizes = [(length(chat.summary(p.chosen)), length(chat.summary(p.rejected))) for p in pairs]
    order = sorted(range(len(pairs)), key=lambda i: (hash64("balance", seed, json.dumps(pairs[i].prompt), pairs[i].chosen, pairs[i].rejected), i))  # fmt: skip
    gap, total, kept = sum(c - r for c, r in sizes), sum(c + r for c, r in sizes), set(range(len(pairs)))

    def even(gap: int, total: int) -> bool:
        return abs(gap) <= tolerance * total / 2

    def drop(i: int) -> None:
        nonlocal gap, total
        kept.discard(i)
        gap -= sizes[i][0] - sizes[i][1]
        total -= sum(sizes[i])

    for i in order:
        d, rest = sizes[i][0] - sizes[i][1], total - sum(sizes[i])
        if even(gap, total):
            break
        if d * gap > 0 and (abs(d) <= abs(gap) or even(gap - d, rest)):
            drop(i)
    while not even(gap, total):  # only large gaps are left on that side
        heavier = [i for i in order if i in kept and (sizes[i][0] - sizes[i][1]) * gap > 0]
        drop(min(heavier, key=lambda i: abs(sizes[i][0] - sizes[i][1])))
    return [p for i, p in enumerate(pairs) if i in kept]
