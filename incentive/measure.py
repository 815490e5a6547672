"""What a set of answers shows: accuracy with its uncertainty, votes, signs of emergence (paper, sections 3 and 8).

Pure functions on records, texts and numbers. The two word lists are fixed before any RL and must not follow results.
"Thinking" is the text between the think tags, which `chat.split` gives; it comes in as an argument.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from incentive.records import Group, Problem, Sample

Key = TypeVar("Key", bound=Hashable)

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95%
DRAWS = 10_000  # resamples of an interval or a test

PAPER_WORDS = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")  # fig. 9a
MINI_WORDS = ("wait", "retry", "again", "instead", "hmm", "but", "wrong", "check", "等等", "重来", "但是", "嗯")


# Accuracy


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k samples is right, from c right among n drawn: 1 - C(n-c,k)/C(n,k), unbiased.

    In whole numbers up to the last division, so nothing cancels.

    Raises:
        ValueError: not 0 <= c <= n or not 1 <= k <= n (fewer samples than k say nothing unbiased about k).
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} from {c} right of {n}: needs 0 <= right <= samples and 1 <= k <= samples")
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


def mean_pass_at_k(counts_P: Iterable[tuple[int, int]], k: int) -> float:
    """Mean pass@k over problems, each (samples, right). At k = 1 this is the mean share of right answers."""
    values_P = [pass_at_k(n, c, k) for n, c in counts_P]
    if not values_P:
        raise ValueError("pass@k of no problems")
    return math.fsum(values_P) / len(values_P)


def majority(votes_K: Sequence[Key | None]) -> Key | None:
    """The most frequent vote; None (no answer) never wins; of equals the first seen wins."""
    counts: dict[Key, int] = {}
    for vote in votes_K:
        if vote is not None:
            counts[vote] = counts.get(vote, 0) + 1
    return max(counts, key=counts.__getitem__) if counts else None  # a dict keeps order and max takes the first


def maj_at_k(votes_K: Sequence[Hashable | None], correct_K: Sequence[bool]) -> float:
    """1.0 where the majority vote of one problem's k samples is right, else 0.0.

    Right is the first sample that cast the winning vote: the answer that a user would be shown.
    """
    if len(votes_K) != len(correct_K):
        raise ValueError(f"{len(votes_K)} votes but {len(correct_K)} verdicts")
    winner = majority(votes_K)
    return 0.0 if winner is None else float(correct_K[list(votes_K).index(winner)])


def mean_maj_at_k(votes_P: Sequence[Sequence[Hashable | None]], correct_P: Sequence[Sequence[bool]], k: int) -> float:
    """Mean majority@k over problems. A problem's samples are cut, in order, into votes of k; a rest is unused."""
    values_P = []
    for votes, correct in zip(votes_P, correct_P, strict=True):
        if not 1 <= k <= len(votes) == len(correct):
            raise ValueError(f"majority@{k} from {len(votes)} votes and {len(correct)} verdicts")
        starts = range(0, len(votes) - k + 1, k)
        values_P.append(math.fsum(maj_at_k(votes[i : i + k], correct[i : i + k]) for i in starts) / len(starts))
    if not values_P:
        raise ValueError("majority@k of no problems")
    return math.fsum(values_P) / len(values_P)


# Uncertainty. A problem is the unit: its samples are not independent, so each problem enters as one value.


def _values(values_P: Sequence[float] | np.ndarray) -> np.ndarray:
    v = np.asarray(values_P, dtype=np.float64)
    if v.ndim != 1 or not len(v) or not np.isfinite(v).all():
        raise ValueError("needs one finite value a problem, and at least one problem")
    return v


def _chunks(width: int) -> Iterator[int]:
    """DRAWS resamples in chunks of about 200k numbers: they stay in the cache, and memory is bounded."""
    size = max(1, 200_000 // width)
    for start in range(0, DRAWS, size):
        yield min(size, DRAWS - start)


def wilson(c: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share: c of n independent trials (n may be an effective number, so not whole)."""
    if not 0 <= c <= n:
        raise ValueError(f"{c} of {n}: needs 0 <= c <= n")
    if n == 0:
        return 0.0, 1.0
    p, zz = c / n, Z95 * Z95
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = Z95 / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    # The bound at a share of 0 or 1 is exact; rounding must not leave the value outside.
    return (0.0 if c == 0 else max(0.0, centre - half)), (1.0 if c == n else min(1.0, centre + half))


def share_interval(values_P: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95% interval of a mean of shares in [0, 1] (pass@k, majority@k), clustered by problem.

    Wilson's interval at the effective number of trials p(1-p)/se^2. Near 0 and 1, where a trained model ends, the
    bootstrap is too narrow: with 20 problems at 98% it covers 82%, this 92%; in the middle they agree (P = 64: 95%).
    """
    v = _values(values_P)
    if v.min() < 0 or v.max() > 1:
        raise ValueError("shares lie in [0, 1]; use interval()")
    p = float(v.mean())
    squared_error = float(v.var(ddof=1)) / len(v) if len(v) > 1 else 0.0
    n = p * (1 - p) / squared_error if squared_error > 1e-18 else float(len(v))
    return wilson(p * n, n)


def interval(values_P: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% interval of a mean over problems, of any quantity (tokens, reflections): percentile bootstrap."""
    v = _values(values_P)
    rng = np.random.default_rng(seed)
    means = np.concatenate([v[rng.integers(0, len(v), (rows, len(v)))].mean(1) for rows in _chunks(len(v))])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Difference:
    """mean(a - b) over the same problems, its 95% interval and the two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float


def paired_difference(
    a_P: Sequence[float] | np.ndarray, b_P: Sequence[float] | np.ndarray, seed: int = 0
) -> Difference:
    """Compare two models on the same problems: bootstrap interval, and a sign-flip test of "no difference".

    p counts the observed signs among the draws, so it is never 0; its smallest value is 1/10,001.
    """
    a, b = _values(a_P), _values(b_P)
    if len(a) != len(b):
        raise ValueError(f"not paired: {len(a)} problems and {len(b)}")
    d = a - b
    rng = np.random.default_rng([seed, 1])
    observed = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # equal sums in another order count as equal
    beyond = 0
    for rows in _chunks(len(d)):
        signs = rng.integers(0, 2, (rows, len(d)), dtype=np.int8) * 2.0 - 1.0
        beyond += int((np.abs(signs @ d) >= observed).sum())
    return Difference(float(d.mean()), *interval(d, seed), (1 + beyond) / (1 + DRAWS))


# Emergence


@lru_cache(maxsize=64)
def _whole_words(words: tuple[str, ...]) -> re.Pattern[str]:
    # ASCII word bounds: a word between Chinese characters is whole. Chinese itself has no bounds.
    bound = [rf"\b{re.escape(w)}\b" if w.isascii() else re.escape(w) for w in words]
    return re.compile("|".join(bound), re.IGNORECASE | re.ASCII)


def reflections(text: str, words: Sequence[str] = MINI_WORDS) -> int:
    """How often the words occur, whole and in any case."""
    return len(_whole_words(tuple(words)).findall(text)) if words else 0


def count_word(text: str, word: str) -> int:
    return reflections(text, (word,))


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt in a thought: what it computes, what it claims, and whether its arithmetic is true."""

    steps: str  # the computations without spaces, `3+7=10,10+25=35`
    value: int | None  # the last result; None where the line breaks off before it
    target: int | None  # the number after `?`
    verdict: str | None  # yes, no, or None
    arithmetic_ok: bool  # every `=` of the line is a computation that can be read and is true

    def numbers(self) -> list[int]:
        """What it computes from, sorted: the operands that are no result of an earlier step."""
        free: list[int] = []
        results: list[int] = []
        for step in self.steps.split(","):
            expression, _, result = step.rpartition("=")
            for n in (int(n) for _, n in _TERM.findall(expression)):
                results.remove(n) if n in results else free.append(n)
            results.append(int(result))
        return sorted(free)

    def right(self, target: int) -> bool:
        """It reaches the target, by true arithmetic. Whether it uses the given numbers is for the task to check."""
        return self.value == target and self.arithmetic_ok


# A number has at most 18 digits. Possessive repeats, and a start only where no chain runs already, keep it linear.
_N = r"-?[0-9]{1,18}+(?![0-9])"
_START = r"(?<![0-9+*/-])(?<![0-9]\.)(?<![0-9][+*/-] )(?<![0-9] [+*/-] )"
_STEP = re.compile(rf"{_START}({_N}(?: ?[-+*] ?{_N})++) ?= ?({_N})(?!\.[0-9])")
_TERM = re.compile(rf"([-+*]?) ?({_N})")
_VALUE = re.compile(rf" ?({_N})(?!\.[0-9])")
_TARGET = re.compile(rf"\? ?({_N})")
_VERDICT = re.compile(r"\b(?:yes|no)\b|不对|对", re.IGNORECASE | re.ASCII)
_SAYS = {"对": "yes", "不对": "no"}


def _compute(expression: str) -> int:
    """The value of whole numbers joined by + - *, by the usual precedence; read term by term, never by `eval`."""
    terms: list[int] = []
    for op, number in _TERM.findall(expression):
        if op == "*":
            terms[-1] *= int(number)
        else:
            terms.append(-int(number) if op == "-" else int(number))
    return sum(terms)


def tries(thinking: str) -> list[Try]:
    """The attempts of a Countdown thought: its lines that hold a computation, such as `wait 3+7=10,10+25=35?46 no`."""
    found = []
    for line in thinking.split("\n"):
        steps = _STEP.findall(line)
        if not steps:
            continue
        tail = line.rpartition("=")[2]
        value, target, verdict = _VALUE.match(tail), _TARGET.search(tail), _VERDICT.search(tail)
        found.append(
            Try(
                steps=",".join(f"{left}={result}" for left, result in steps).replace(" ", ""),
                value=int(value[1]) if value else None,
                target=int(target[1]) if target else None,
                verdict=_SAYS.get(verdict[0], verdict[0].lower()) if verdict else None,
                arithmetic_ok=len(steps) == line.count("=") and all(_compute(e) == int(r) for e, r in steps),
            )
        )
    return found


def first_right(thinking: str, target: int, numbers: Sequence[int] | None = None) -> int | None:
    """Where the first right try ends, in characters, its own check included; None where no try is right.

    Right: it reaches the target by true arithmetic and, where they are given, from all the numbers, each once.
    """
    end = -1
    for line in thinking.split("\n"):
        end += 1 + len(line)
        if any(t.right(target) and (numbers is None or t.numbers() == sorted(numbers)) for t in tries(line)):
            return end
    return None


def recovered(tries_: Sequence[Try], target: int) -> bool:
    """The first try is wrong and a later one right."""
    return bool(tries_) and not tries_[0].right(target) and any(t.right(target) for t in tries_[1:])


@dataclass(frozen=True, slots=True)
class CheckQuality:
    """How well "yes" tells a value that is the target. A share of nothing is None."""

    precision: float | None  # of the tries called yes, how many are on target
    recall: float | None  # of the checked tries on target, how many are called yes
    checked: int  # tries with a verdict
    tries: int


def check_quality(thoughts: Iterable[tuple[Sequence[Try], int]]) -> CheckQuality:
    """Precision and recall of the verdict "yes" against value == target, over (tries, target) of many thoughts."""
    total = checked = said = true = both = 0
    for tries_, target in thoughts:
        total += len(tries_)
        for t in tries_:
            if t.verdict is not None:
                yes, hit = t.verdict == "yes", t.value == target
                checked, said, true, both = checked + 1, said + yes, true + hit, both + (yes and hit)
    return CheckQuality(both / said if said else None, both / true if true else None, checked, total)


def repetition(text: str) -> float:
    """Share of the text's runs of four words that have occurred before in it; 0 for fewer than five words."""
    words = text.split()
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def repeated_tries(tries_: Sequence[Try]) -> float:
    """Share of the tries that compute what an earlier one has computed: going in circles."""
    return 1 - len({t.steps for t in tries_}) / len(tries_) if tries_ else 0.0


@dataclass(frozen=True, slots=True)
class Emergence:
    """How a set of responses thinks. Reflections are counted by the miniature's list; `paper_` by the paper's."""

    responses: int
    mean_tokens: float
    reflections_per_response: float
    reflections_per_1k_tokens: float
    paper_reflections_per_response: float
    paper_reflections_per_1k_tokens: float
    wait_per_response: float
    tries_per_response: float
    recoveries: float | None  # share of the responses with a target that recover; None where no target is given


def emergence(
    thinkings: Sequence[str], tokens: Sequence[int], targets: Sequence[int | None] | None = None
) -> Emergence:
    """The summary over responses: thinking text, length in tokens and, where tries make sense, the target.

    Per 1,000 tokens is all words over all tokens, so a long response weighs by its length.
    """
    targets = [None] * len(thinkings) if targets is None else targets
    if not len(thinkings) == len(tokens) == len(targets) or not thinkings:
        raise ValueError(f"{len(thinkings)} texts, {len(tokens)} lengths, {len(targets)} targets: equal and not 0")
    n, length = len(thinkings), sum(tokens)
    mini, paper = (sum(reflections(t, words) for t in thinkings) for words in (MINI_WORDS, PAPER_WORDS))
    tries_N = [tries(t) for t in thinkings]
    recovered_N = [recovered(t, target) for t, target in zip(tries_N, targets, strict=True) if target is not None]
    return Emergence(
        responses=n,
        mean_tokens=length / n,
        reflections_per_response=mini / n,
        reflections_per_1k_tokens=1000 * mini / length if length else 0.0,
        paper_reflections_per_response=paper / n,
        paper_reflections_per_1k_tokens=1000 * paper / length if length else 0.0,
        wait_per_response=sum(count_word(t, "wait") for t in thinkings) / n,
        tries_per_response=sum(map(len, tries_N)) / n,
        recoveries=sum(recovered_N) / len(recovered_N) if recovered_N else None,
    )


def aha(
    groups: Iterable[Group],
    top: int,
    thinking_of: Callable[[str], str],
    target_of: Callable[[Problem], int | None],
) -> list[Sample]:
    """The samples that look most like the paper's aha moment: a right answer, a wrong first try, and a turn.

    The score is how many more reflective words the thought has than its group's mean, times the squared share of
    it that is not repetition: it must stand out among answers to the same problem, and not by saying "wait" in a
    circle (n such words shrink the share as 1/n only, so its first power would leave the score as it is). A sample
    below its group's mean is none. One sample a problem, best score first; of equals the shortest, then the lowest
    id. Right is `parts["accuracy"] > 0`. Problems without a target are passed over.
    """
    best: list[tuple[float, int, str, Sample]] = []
    for group in groups:
        target = target_of(group.problem)
        if target is None or not group.samples:
            continue
        thoughts_G = [thinking_of(s.text) for s in group.samples]
        words_G = [reflections(t) for t in thoughts_G]
        mean = sum(words_G) / len(words_G)
        ranked = [
            (-(words - mean) * (1 - repetition(thought)) ** 2, len(sample.ids), sample.id, sample)
            for sample, score, thought, words in zip(group.samples, group.scores, thoughts_G, words_G, strict=True)
            if score.parts.get("accuracy", 0.0) > 0 and words >= max(mean, 1) and recovered(tries(thought), target)
        ]
        if ranked:
            best.append(min(ranked, key=lambda r: r[:3]))
    return [sample for *_, sample in sorted(best, key=lambda r: r[:3])[:top]]
