"""Tasks of reasoning-gym (extra `gym`): a hundred generators of puzzles, each with a scorer of its own.

    reasoning-gym/zebra_puzzles        reasoning-gym/countdown?min_numbers=3&max_numbers=4

The only file that imports reasoning_gym, and late. A problem is one of a million of its generator, by a hash of (name,
seed, split, index, try), and its split is a hash of its question: where the number alone decided, small generators would
bring a question that was trained on back in the test. An answer is right where the package's scorer gives it 1; partial
credit is wrong. Scorers parse what a model wrote (some of them for minutes), so they run in the killable workers of
`verify.pool`, which make the problem anew from its number.
"""

from __future__ import annotations

import atexit
import difflib
import json
import logging
import re
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from incentive.records import Problem, Split
from incentive.tasks.base import in_split, streams
from incentive.tasks.jsonl import TaskError, content, meaning

PREFIX = "reasoning-gym/"
TRIES = 400  # problems of one index that are made before the wanted split is given up
UNUSABLE = {
    "composite": "it is a mixture: name its parts",
    "boxnet": "it gives no answer of its own to check the scorer by",
    "codeio": "it runs programs that a model wrote, without isolation",
    "game_of_life_halting": "its scorer pays answers that mean nothing",
    "polynomial_multiplication": "what it makes differs from process to process",
    "puzzle24": "its scorer takes any four numbers",
}
SECONDS = 10.0  # wall clock of one answer; a generator that a worker meets for the first time is opened within it


def names() -> list[str]:
    """The generators that make a task.

    Raises:
        TaskError: reasoning-gym is not installed.
    """
    return [n for n in _package().factory.DATASETS if n not in UNUSABLE]


def _package() -> Any:
    try:
        import reasoning_gym
    except ImportError:
        raise TaskError(
            "these tasks need reasoning-gym\nInstall it: pip install 'incentive[gym]' (one part needs a C compiler)"
        ) from None
    logging.getLogger().setLevel(logging.WARNING)  # one of its parts speaks at each import
    return reasoning_gym


SIZES = (2**20, 2**12, 2**8)  # problems of a generator, from the largest that it takes


@lru_cache(maxsize=8)
def _open(name: str, settings: str) -> Any:
    """A generator, as large as it goes; its problems are counted from one seed, which is the same for all of us."""
    for size in SIZES:
        try:
            return _package().create_dataset(name, seed=0, size=size, **json.loads(settings))
        except ValueError as error:
            if "size" not in str(error).lower() or size == SIZES[-1]:
                raise


def _made(name: str, settings: dict[str, Any], index: int) -> tuple[Any, dict[str, Any]]:
    """A generator and one of its problems."""
    found = _open(name, json.dumps(settings, sort_keys=True))
    return found, found[index % len(found)]


def parsed(name: str) -> tuple[str, dict[str, Any]]:
    """The generator and the settings that `reasoning-gym/NAME?setting=value` names; no import.

    Values are JSON where they are, else text.
    """
    place, _, query = name.removeprefix(PREFIX).partition("?")
    settings: dict[str, Any] = {}
    for key, text in parse_qsl(query):
        try:
            settings[key] = json.loads(text)
        except ValueError:
            settings[key] = text
    return place, settings


class Gym:
    """Puzzles of one generator of reasoning-gym, answered as its questions ask and graded by its own scorer.

    Raises:
        TaskError: the package is missing, or it has no such generator or setting.
    """

    def __init__(self, name: str):
        self.name = name
        self.generator, self.settings = parsed(name)
        if self.generator in UNUSABLE:
            raise TaskError(f"{name}: no task: {UNUSABLE[self.generator]}")
        if self.generator not in (known := names()):
            near = difflib.get_close_matches(self.generator, known, n=1)
            raise TaskError(
                f"reasoning-gym has no {self.generator!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + "\nList them: incentive tasks reasoning-gym"
            )
        try:
            _made(self.generator, self.settings, 0)
        except (TypeError, ValueError, AssertionError) as error:
            raise TaskError(f"{name}: reasoning-gym refuses it: {str(error)[:160]}") from None
        self.version = f"{_package().__version__}"

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        """Problem i.

        Raises:
            TaskError: the generator has too few different questions for a split of this kind.
        """
        for rng, _ in zip(streams(self.name, seed, split, i), range(TRIES), strict=False):
            own = rng.getrandbits(20)
            entry = _made(self.generator, self.settings, own)[1]
            key = _key(entry)
            if in_split(key, split):
                spec = {"name": self.generator, "settings": self.settings, "index": own, "key": key}
                tags = {"task": self.name, "language": "en", "domain": "logic", "gym": spec}
                return Problem(f"{self.name}/{own}", key, entry["question"], answer_of(entry), tags)
        raise TaskError(
            f"{self.name}: {TRIES} problems were made and none is of the {split} split: too few differ\n"
            "Give it settings that make more, or use it for training alone."
        )

    def check(self, problem: Problem, answer: str) -> bool:
        return self.checks(problem, [answer])[0] is True

    def checks(self, problem: Problem, answers: list[str]) -> list[bool | None]:
        """All answers to one problem at once, in workers beside each other."""
        from incentive.verify import grade

        grader, asked = _grader()
        spec = json.dumps({**problem.tags["gym"], "answer": problem.answer})
        return grade.together(grader, [asked("", KIND, spec, a) for a in answers])

    def gold(self, problem: Problem) -> str:
        return problem.answer

    def vote_key(self, answer: str) -> str | None:
        return meaning(answer)


def _key(entry: dict[str, Any]) -> str:
    """A problem's content. No hash of a free text: questions of one generator share its words (`curation.Text`)."""
    return "reasoning-gym:" + content(entry["question"])


def answer_of(entry: dict[str, Any]) -> str:
    """The package's own answer, or where it gives none the example that goes along with the problem."""
    given = entry["answer"]
    if given is None:
        about = entry["metadata"]
        given = next(
            (about[k] for k in ("possible_answer", "example_answer", "example_correct_answer") if k in about), ""
        )
    return given if isinstance(given, str) else json.dumps(given) if isinstance(given, dict | list) else str(given)


# in the workers

KIND = "reasoning-gym"


def setup(_: Any) -> None:
    """Import the package before the first job, outside of its clock."""
    _package()


# Of reasoning-gym 0.1.25: scorers that give a part of their text to `eval`, themselves or through sympy. What is not wholly
# of these signs and words never reaches them, and is wrong: without a call, a dot and an underscore no code does anything.
_LIST = re.compile(r"[A-Za-z0-9 \n,\[\]'\"+-]*")
_FORMULA = re.compile(
    r"(?:[0-9 \n+\-*/^(),]|\.(?![A-Za-z_])|(?<![A-Za-z])(?:[A-Za-z]|sin|cos|tan|exp|log|ln|sqrt|pi|atan|asin)(?![A-Za-z]))*"
)
EVALUATED = {
    "binary_matrix": _LIST, "n_queens": _LIST, "spiral_matrix": _LIST, "string_insertion": _LIST,
    "countdown": _FORMULA, "intermediate_integration": _FORMULA, "simple_integration": _FORMULA,
}  # fmt: skip
LONGEST = 2000  # characters of a text that is evaluated
GARBAGE = ("", "nonsense 7 (", "?")  # a scorer that pays one of these pays for nothing


@lru_cache(maxsize=64)
def _again(spec: str) -> tuple[Any, dict[str, Any], str]:
    """The generator and the problem of a spec, made anew, and what is the matter with its scorer, if anything.

    Raises:
        ValueError: another question came out, so the package is not the one that made the problem.
    """
    told = json.loads(spec)
    dataset, entry = _made(told["name"], told["settings"], told["index"])
    if _key(entry) != told["key"]:
        raise ValueError(f"reasoning-gym makes another problem of {told['name']} from the same number here")
    if _score(dataset, told["answer"], entry) < 1:
        return dataset, entry, "the package's scorer gives its own answer less than 1"
    paid = [text for text in GARBAGE if text != told["answer"].strip() and _score(dataset, text, entry) >= 1]
    return dataset, entry, f"the package's scorer gives {paid[0]!r} 1 as well" if paid else ""


def _score(dataset: Any, answer: str, entry: dict[str, Any]) -> float:
    """The package's score; what its scorer cannot read, so that it raises, is wrong."""
    harmless = EVALUATED.get(entry["metadata"].get("source_dataset", ""))
    if harmless and answer != entry["answer"] and not (len(answer) <= LONGEST and harmless.fullmatch(answer)):
        return 0.0
    try:
        return float(dataset.score_answer(answer, entry))
    except MemoryError:
        raise
    except Exception:  # a hundred scorers raise a hundred kinds
        return 0.0


def judge(job: dict[str, Any]) -> list[Any]:
    """[verdict, why, no audit] of one answer, the form that `verify.grade` reads."""
    dataset, entry, fault = _again(job["gold"])
    if fault:
        return ["gold", fault, None]
    score = _score(dataset, job["answer"], entry)
    return ["pass" if score >= 1 else "fail", "" if score >= 1 else f"scored {score:g}", None]


# here


@lru_cache(maxsize=1)
def _grader() -> Any:
    from incentive.verify import grade

    class Asked(grade.Question):
        """A question whose gold is the whole spec of its problem."""

        __slots__ = ()

        def job(self, answer: str | None = None) -> dict[str, Any]:
            text = self.answer if answer is None else json.loads(self.gold)["answer"]
            return {"gold": self.gold, "answer": text}

    grader = grade.Grader([KIND], timeout=SECONDS, target=f"{__name__}:judge")
    atexit.register(grader.close)
    return grader, Asked
