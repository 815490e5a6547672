"""Rewards: `(problem, samples) -> values`, one a sample. Every part is kept by name; a failing check is counted.

A value is a finite float, or None where the sample could not be graded. Whatever an answer itself can cause is a plain
0; None is for faults of the grader, and never pays (the sample leaves its group).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

from incentive import chat
from incentive.curation import repeated_runs
from incentive.language import language_share
from incentive.records import Problem, Sample, Score, hash64

Check = Callable[[Problem, str], bool]
Checks = Callable[[Problem, list[str]], list[bool | None]]
Reward = Callable[[Problem, list[Sample]], list[float | None]]
Grade = Callable[[Problem, list[Sample]], list[Score]]


class RewardError(Exception):
    """A reward function broke its contract; the message names it and the sample."""


def accuracy(check: Check, checks: Checks | None = None) -> Reward:
    """1 if the marked answer passes the task's check, else 0 (paper 2: rule-based accuracy).

    Args:
        checks: judges all answers of a group at once, in place of `check`; None is could-not-grade.
    """

    def reward(problem: Problem, samples: list[Sample]) -> list[float | None]:
        return [None if r is None else float(r) for r in _right(problem, samples, check, checks)]

    return reward


def _right(problem: Problem, samples: list[Sample], check: Check, checks: Checks | None) -> list[bool | None]:
    """Whether each sample's marked answer passes; one without a marked answer does not."""
    answers = [chat.split(s.text)[1] for s in samples]
    if checks is None:
        return [a is not None and check(problem, a) for a in answers]
    marked = [a for a in answers if a is not None]
    found = iter(checks(problem, marked) if marked else [])
    return [False if a is None else next(found) for a in answers]


def format_(problem: Problem, samples: list[Sample]) -> list[float | None]:  # noqa: ARG001
    """1 if the answer ended by itself and stands in the required tags, else 0 (paper 2; the value 1 is our choice)."""
    return [1.0 if s.stop == "stop" and chat.well_formed(s.text) else 0.0 for s in samples]


def summarised(problem: Problem, samples: list[Sample]) -> list[float | None]:  # noqa: ARG001
    """The format reward of the stages after R1-Zero: thinking, a summary, the answer."""
    return [1.0 if s.stop == "stop" and chat.summarised(s.text) else 0.0 for s in samples]


def language(problem: Problem, samples: list[Sample]) -> list[float | None]:
    """Share of target-language words in the thinking (paper 4.2, eq. 7); `tags["language"]` names the target.

    A thought without a word has no language and scores 0, our choice: 1 would pay for saying nothing, None for being
    ungradable. A word or two in the right language then score as a page does: length is not this reward's matter.
    """
    target = problem.tags.get("language")
    if target is None:
        raise ValueError(f'problem {problem.id} names no language; set tags["language"] to "en", "zh", ...')
    return [language_share(chat.split(s.text)[0], target) or 0.0 for s in samples]


def spoken(problem: Problem, samples: list[Sample]) -> list[float | None]:
    """Share of target-language words in the whole response, for general prompts, whose thoughts may well be empty.

    The paper adds the language reward to every prompt of the last RL stage (4.5, eq. 8) and counts words of the thinking
    (eq. 7); to count those of the answer too is our choice. A prompt that names no language has none to keep: 1.
    """
    target = problem.tags.get("language")
    texts = [" ".join(part for part in chat.split(s.text) if part) for s in samples]
    return [1.0 if target is None else language_share(text, target) or 0.0 for text in texts]


def length(check: Check, checks: Checks | None = None) -> Reward:
    """From -1 to 0: how long a right answer is beside the other right answers of its group; 0 for all others.

    -sigmoid((tokens - mean) / std), mean and std over the group's right answers (Arora and Zanette 2025, who pay a right
    answer 1 - alpha times that sigmoid: alpha is this reward's weight). Below a weight of 1 a right answer is always
    worth more than a wrong one, so a hard problem, whose right answers are long, is not given up; easy problems, with
    many right answers to compare, feel it most. What a tool has said does not count.
    """

    def reward(problem: Problem, samples: list[Sample]) -> list[float | None]:
        right = _right(problem, samples, check, checks)
        tokens = [float(s.mask.sum()) for s in samples]
        found = [t for t, r in zip(tokens, right, strict=True) if r]
        mean = sum(found) / max(1, len(found))
        std = math.sqrt(sum((t - mean) ** 2 for t in found) / max(1, len(found)))
        steep = [(t - mean) / std if std else 0.0 for t in tokens]
        return [None if r is None else -1 / (1 + math.exp(-z)) if r else 0.0 for z, r in zip(steep, right, strict=True)]

    return reward


def repetition(problem: Problem, samples: list[Sample]) -> list[float | None]:  # noqa: ARG001
    """From -1 to 0: minus the share of what a reader gets, in runs of three words and signs, that repeats an earlier run.

    The n-gram penalty of Yeo et al. 2025, there of thoughts. The paper has none; a reward model that likes length or praise
    is gamed by saying a kind word again and again.
    """
    return [-repeated_runs(chat.summary(s.text), 3) for s in samples]


def schema(problem: Problem, samples: list[Sample]) -> list[float | None]:
    """1 if the marked answer is JSON in the form that `tags["schema"]` asks for, whatever stands in it, else 0."""
    from incentive.verify.schema import fault

    form = problem.tags.get("schema")
    if form is None:
        raise ValueError(f'problem {problem.id} has no JSON Schema; set tags["schema"]')
    answers = [chat.split(s.text)[1] for s in samples]
    return [1.0 if a is not None and fault(a, form) is None else 0.0 for a in answers]


def coin(problem: Problem, samples: list[Sample]) -> list[float | None]:  # noqa: ARG001
    """A control: 1 or 0 by a hash of the sample's seed, whatever it says."""
    return [float(hash64("coin", s.seed) % 2) for s in samples]


def shipped(check: Check, checks: Checks | None = None) -> dict[str, Reward]:
    """The rewards that a recipe can name."""
    return {
        "accuracy": accuracy(check, checks), "format": format_, "summarised": summarised, "language": language,
        "coin": coin, "repetition": repetition, "length": length(check, checks), "schema": schema,
    }  # fmt: skip


def _print(s: Sample) -> tuple[object, ...]:
    """All of a sample that a careless reward could change."""
    return s.text, s.ids.tobytes(), s.mask.tobytes(), s.sampler_logp.tobytes()


def _values(name: str, reward: Reward, problem: Problem, samples: list[Sample]) -> list[float | None] | str:
    """The reward's values, checked; a text where it raised.

    Raises:
        RewardError: wrong count, a value that is no finite float, or samples that were changed.
    """
    before = [_print(s) for s in samples]
    given = list(samples)
    fault, values = None, None
    try:
        values = reward(problem, given)
    except RewardError:  # a grader that is down stops the run
        raise
    except Exception as error:  # a broken verifier is data, and the caller counts it
        fault = f"{name}: {type(error).__name__}: {error}"
    if list(map(id, given)) != list(map(id, samples)) or [_print(s) for s in samples] != before:
        raise RewardError(f"reward {name!r} changed its samples (problem {problem.id}); a reward must only read them")
    if fault is not None:
        return fault
    if not isinstance(values, list | tuple) or len(values) != len(samples):
        got = f"{len(values)} values" if isinstance(values, list | tuple) else type(values).__name__
        raise RewardError(f"reward {name!r} returned {got} for {len(samples)} samples (problem {problem.id})")
    for sample, v in zip(samples, values, strict=True):
        if v is not None and (isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v)):
            raise RewardError(
                f"reward {name!r} returned {v!r} for sample {sample.id}; return a finite float, or None if ungradable"
            )
    return [None if v is None else float(v) for v in values]


def each(rewards: dict[str, Reward], weights: dict[str, float]) -> Grade:
    """Grade with every reward and add them up by weight; a sample that one of them could not grade has no total.

    Raises:
        RewardError: a weight names no reward; when called, see `_values`.
    """
    for name in weights:
        if name not in rewards:
            near = difflib.get_close_matches(name, rewards, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(rewards)}"
            raise RewardError(f"unknown reward {name!r}; {hint}")

    def grade(problem: Problem, samples: list[Sample]) -> list[Score]:
        parts: list[dict[str, float]] = [{} for _ in samples]
        errors: list[str | None] = [None] * len(samples)
        for name in weights:
            values = _values(name, rewards[name], problem, samples)
            for i in range(len(samples)):
                value = values if isinstance(values, str) else values[i]
                if isinstance(value, float):
                    parts[i][name] = value
                else:
                    errors[i] = errors[i] or value or f"{name}: could not grade"
        return [
            Score(None if e else sum(weights[n] * v for n, v in p.items()), p, e)
            for p, e in zip(parts, errors, strict=True)
        ]

    return grade
