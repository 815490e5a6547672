"""What training texts must be: readable, each said once, and none of an evaluation's (paper B.3.2, B.3.3, D.1).

Pure functions on texts. A text that is dropped is dropped for a named reason, so that reasons can be counted. The paper
names the filters and gives no thresholds but the ten words of its contamination check; the others are our choice.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from incentive import chat, measure
from incentive.config import Readable
from incentive.language import code_block, language_share
from incentive.records import Problem

_UNIT = re.compile(
    r"[^\W\d_\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+|\d+|[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_SIGN = re.compile(rf"{_UNIT.pattern}|[^\w\s]")
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n")


def units(text: str, signs: bool = False) -> list[str]:
    """The words of a text in lower case: runs of letters, runs of digits, each ideograph; with `signs` each sign too."""
    return (_SIGN if signs else _UNIT).findall(text.casefold())


# Readable

READABLE = Readable()


def repeated_runs(text: str, run: int) -> float:
    """Share of the text's runs of `run` words and signs that have occurred before in it; works without spaces too."""
    said = units(text, signs=True)
    runs = list(zip(*(said[i:] for i in range(run)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def repeated_lines(text: str) -> float:
    """Share of the lines that say, or compute, what an earlier line has."""
    lines = [line for line in (" ".join(line.split()) for line in text.split("\n")) if line]
    same = 1 - len(set(lines)) / len(lines) if lines else 0.0
    return max(same, measure.repeated_tries(measure.tries(text)))


_LATIN = re.compile(r"[A-Za-z]+")


def unreadable(thinking: str, limits: Readable = READABLE, language: str | None = None, prompt: str = "") -> list[str]:
    """Every reason why a thought is not readable, in a fixed order; empty where it is.

    `length`, `repetition`, `language` (mixed; not where it has no word, or no target is given), `paragraph`, `code`. Latin
    words of a Chinese or Japanese prompt are names, and a thought that says them again is not mixed for it.
    """
    thinking = thinking.strip()
    reasons = []
    if not limits.shortest <= len(thinking) <= limits.longest:
        reasons.append("length")
    if repeated_runs(thinking, limits.run) > limits.repeated or repeated_lines(thinking) > limits.lines:
        reasons.append("repetition")
    names = set(_LATIN.findall(prompt)) if language in ("zh", "ja") else set()
    said = _LATIN.sub(lambda m: "" if m[0] in names else m[0], thinking) if names else thinking
    share = None if language is None else language_share(said, language)
    if share is not None and share < limits.language:
        reasons.append("language")
    if any(len(p.strip()) > limits.paragraph for p in _PARAGRAPH.split(thinking)):
        reasons.append("paragraph")
    if code_block(thinking, limits.code_lines):
        reasons.append("code")
    return reasons


# Hashes: 64 bits of each word by BLAKE2, of a run of words by a polynomial of theirs. The same on every machine.

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_BASE = np.uint64(0x9E3779B97F4A7C15)


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser."""
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))


class _Words(dict[str, int]):
    """Word -> 64-bit hash, made when first asked for."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value


def _runs(texts: Sequence[Sequence[str]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of every text's runs of n words, one after the other, and each text's number of them (at least 1).

    A text of fewer words is one run: the whole of it.

    Returns:
        (R,) uint64, (P,) int64.
    """
    known = _Words()
    lengths = np.array([len(t) for t in texts], dtype=np.int64)
    counts = np.maximum(lengths - n + 1, 1)
    flat = np.fromiter((known[w] for t in texts if len(t) >= n for w in t), dtype=np.uint64)
    rolled = np.zeros(max(len(flat) - n + 1, 0), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for i in range(n if len(rolled) else 0):
            rolled = rolled * _BASE + flat[i : i + len(rolled)]
    whole = np.ones(len(rolled), dtype=bool)  # a run that crosses from one text into the next is none
    edges = np.cumsum(lengths[lengths >= n])[:-1]
    for i in range(1, n):
        whole[edges - i] = False
    hashes = np.empty(int(counts.sum()), dtype=np.uint64)
    long = np.repeat(lengths >= n, counts)
    hashes[long] = _mixed(rolled[whole])
    hashes[~long] = [known["\x1f".join([*t, str(len(t))])] for t in texts if len(t) < n]
    return hashes, counts


# Duplicates

RUN, PERMUTATIONS = 5, 128  # words of a shingle; minima of a signature


def _rows(threshold: float) -> int:
    """Minima of a bucket's key: a pair just at the threshold is met with 95% at 0.8, 99% at 0.6 and at 0.3."""
    return 8 if threshold >= 0.8 else 4 if threshold >= 0.6 else 2


def same(text: str) -> str:
    """The key of exact duplicates: Unicode NFC, runs of white space as one space."""
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    return " ".join(text.split())


@dataclass
class _Signed:
    """Shingles and MinHash signatures of many texts."""

    shingles: list[np.ndarray]  # sorted, distinct uint64
    signatures: np.ndarray  # (P, PERMUTATIONS) uint32

    def buckets(self, rows: int) -> list[list[bytes]]:
        """(P, PERMUTATIONS / rows) keys of the buckets that each text is in."""
        raw, width = np.ascontiguousarray(self.signatures).tobytes(), 4 * rows
        return [
            [raw[at : at + width] for at in range(start, start + 4 * PERMUTATIONS, width)]
            for start in range(0, len(raw), 4 * PERMUTATIONS)
        ]


def _sign(texts: Sequence[str], run: int) -> _Signed:
    hashes, counts = _runs([units(t, signs=True) for t in texts], run)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    draws = (_mixed(np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64) * _BASE) >> np.uint64(32)).astype(np.uint32)
    signatures = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    short = (hashes >> np.uint64(32)).astype(np.uint32)  # twice as fast as 64 bits, and the exact similarity decides
    step = 1 << 16  # shingles at once: they stay in the cache
    at = 0
    while at < len(texts):
        end = max(int(np.searchsorted(starts, starts[at] + step, side="right")) - 1, at + 1)
        mine, own = short[starts[at] : starts[end]], starts[at:end] - starts[at]
        values = np.empty_like(mine)
        with np.errstate(over="ignore"):
            for p in range(PERMUTATIONS):
                np.multiply(mine, draws[2 * p] | np.uint32(1), out=values)
                np.add(values, draws[2 * p + 1], out=values)
                signatures[at:end, p] = np.minimum.reduceat(values, own)
        at = end
    return _Signed([np.unique(s) for s in np.split(hashes, starts[1:-1])] if len(texts) else [], signatures)


def _alike(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard similarity of two sorted arrays of distinct hashes."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, known: Sequence[str] = (), among: bool = True, run: int = RUN
) -> list[int | None]:
    """For each text the first kept text that it is nearly, None where it is kept itself.

    Alike is the Jaccard similarity of their runs of `run` words and signs; MinHash buckets find the pairs and the exact
    similarity decides, so what is called a duplicate is one. Of pairs just at 0.8 one in twenty is missed.

    Args:
        known: texts that are kept anyway; they count first, so a text's index in the answer is `len(known) + i`.
        among: also compare the texts with each other; False: with the known alone.
    """
    every = [*known, *texts]
    signed = _sign(every, run)
    rows = _rows(threshold)
    buckets: list[dict[bytes, list[int]]] = [{} for _ in range(PERMUTATIONS // rows)]
    out: list[int | None] = []
    for i, keys in enumerate(signed.buckets(rows)):
        met: set[int] = set()
        for bucket, key in zip(buckets, keys, strict=True):
            met.update(bucket.get(key, ()))
        found = None if i < len(known) else _nearest(signed, i, sorted(met), threshold)
        if i >= len(known):
            out.append(found)
        if i < len(known) or (among and found is None):
            for bucket, key in zip(buckets, keys, strict=True):
                bucket.setdefault(key, []).append(i)
    return out


def _nearest(signed: _Signed, i: int, met: list[int], threshold: float) -> int | None:
    """The first of the texts met that is alike; a signature that is four deviations below the threshold rules it out."""
    if not met:
        return None
    near = (signed.signatures[met] == signed.signatures[i]).mean(1)
    slack = 4 * (threshold * (1 - threshold) / PERMUTATIONS) ** 0.5
    own = signed.shingles[i]
    for j, share in zip(met, near, strict=True):
        if share >= threshold - slack and _alike(own, signed.shingles[j]) >= threshold:
            return j
    return None


# Contamination


@dataclass(frozen=True, slots=True)
class Text:
    """A row of a training or an evaluation set: what is asked, and the response or reference solution.

    `key` names its content where a task knows it: one that makes its problems from a template does, and words cannot
    tell, for all of them share the template's. Such a row is compared by its key alone.
    """

    prompt: str
    more: str = ""
    key: str | None = None

    @classmethod
    def of(cls, problem: Problem, more: str = "") -> Text:
        """A key that is only a hash of the prompt (`jsonl:...`) is no content."""
        return cls(chat.text_of(problem.prompt), more, None if problem.key.startswith("jsonl:") else problem.key)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Text:
        """A row of a data set: `prompt`, `response`, and `key` where it is known."""
        key = row.get("key")
        return cls(chat.text_of(row["prompt"]), row["response"], key if key and not key.startswith("jsonl:") else None)

    def parts(self, n: int) -> list[list[str]]:
        """Words of the whole, and of a prompt shorter than n words by itself: else no run of it would be found."""
        asked = units(self.prompt)
        whole = asked + units(self.more)
        return [whole, asked] if len(asked) < n and len(whole) > len(asked) else [whole]


@dataclass(frozen=True)
class Held:
    """Evaluation sets by name, that no training text may share content with."""

    sets: dict[str, tuple[Text, ...]] = field(default_factory=dict)
    n: int = 10  # words of a run that is contamination when shared (paper D.1)
    threshold: float = 0.8  # of a near-duplicate

    @classmethod
    def of(cls, problems: Mapping[str, Iterable[Problem]], n: int = 10) -> Held:
        """Evaluation problems with their answers, which may be reference solutions."""

        def text(p: Problem) -> Text:
            return Text.of(p, p.answer if isinstance(p.answer, str) else "")

        return cls({name: tuple(map(text, ps)) for name, ps in problems.items()}, n)

    @property
    def version(self) -> str:
        """Changes with any text: a stage that is given it runs anew."""
        digest = hashlib.sha256(repr((self.n, self.threshold)).encode())
        for name, texts in self.sets.items():
            for t in texts:
                digest.update(repr((name, t.prompt, t.more, t.key)).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Shared:
    """Where a training text meets an evaluation set."""

    set: str
    how: str  # key (the same content), words (a run of n words, or all of a shorter text), near (a near-duplicate)


def contaminated(texts: Sequence[Text], held: Held) -> list[Shared | None]:
    """For each training row the first evaluation set that it shares content with.

    Words are compared without case, signs and white space. What has fewer than n words, on either side, is one run: the
    prompt `1+1` meets `1 + 1 = ?` and no longer text. Near-duplicates are looked for among prompts.
    """
    keys: dict[str, str] = {}
    for name, found in held.sets.items():
        for t in found:
            if t.key is not None:
                keys.setdefault(t.key, name)
    out = [Shared(keys[t.key], "key") if t.key in keys else None for t in texts]
    free = [i for i, t in enumerate(texts) if t.key is None]
    theirs = [(name, t) for name, found in held.sets.items() for t in found if t.key is None]
    if not free or not theirs:
        return out
    for i, at in zip(free, _shared_runs([texts[i] for i in free], [t for _, t in theirs], held.n), strict=True):
        out[i] = None if at is None else Shared(theirs[at][0], "words")
    rest, known = [i for i in free if out[i] is None], [t.prompt for _, t in theirs]
    near = near_duplicates([texts[i].prompt for i in rest], held.threshold, known, among=False)
    for i, at in zip(rest, near, strict=True):
        out[i] = None if at is None else Shared(theirs[at][0], "near")
    return out


def tally(found: Iterable[Shared | None], held: Held) -> dict[str, dict[str, int]]:
    """By evaluation set how many training rows share content with it, and how: for a report, beside the set's score."""
    counts = {name: {"texts": len(texts), "key": 0, "words": 0, "near": 0} for name, texts in held.sets.items()}
    for shared in found:
        if shared is not None:
            counts[shared.set][shared.how] += 1
    return counts


def _owned_runs(texts: Sequence[Text], n: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, owners): every run of n words, and the index of its text; a text without a word has none."""
    pairs = [(i, part) for i, t in enumerate(texts) for part in t.parts(n) if part]
    hashes, counts = _runs([part for _, part in pairs], n)
    return hashes, np.repeat(np.array([i for i, _ in pairs], dtype=np.int64), counts)


def _shared_runs(texts: Sequence[Text], held: Sequence[Text], n: int) -> list[int | None]:
    """For each text the index of the first held text that shares a run of n words with it."""
    theirs, owners = _owned_runs(held, n)
    found, first = np.unique(theirs, return_index=True)
    out: list[int | None] = []
    for at in range(0, len(texts), 20_000):  # memory stays bounded
        part = texts[at : at + 20_000]
        mine, whose = _owned_runs(part, n)
        best = np.full(len(part), len(held), dtype=np.int64)
        if len(found) and len(mine):
            place = np.minimum(np.searchsorted(found, mine), len(found) - 1)
            hits = found[place] == mine
            np.minimum.at(best, whose[hits], owners[first[place[hits]]])
        out += [None if b == len(held) else int(b) for b in best]
    return out
