"""The paper's stage table (DeepSeek-R1, arXiv 2501.12948v2, table 3), and which of our benchmarks stand beside which of its.

Ours are of another size and kind: what can be compared is the sign of a difference between two stages, and how large it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from incentive.report.markup import plain

MODELS = {
    "base": "base", "zero": "R1-Zero", "dev1": "Dev1", "dev2": "Dev2", "dev3": "Dev3", "r1": "R1", "student": "student",
}  # fmt: skip
CHAIN = ("base", "zero", "dev1", "dev2", "dev3", "r1")  # of which neighbours are compared


def title(name: str) -> str:
    """How a stage or its model is called: `zero` is R1-Zero."""
    return MODELS.get(name, plain(name))


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    scores: dict[str, float]  # model -> score, in points of 100


def _row(name: str, *scores: float, base: float | None = None) -> Benchmark:
    found = dict(zip(CHAIN[1:], scores, strict=True))
    return Benchmark(name, found if base is None else {"base": base, **found})


@dataclass(frozen=True, slots=True)
class Kind:
    """Benchmarks of one kind: the names that our tasks begin with, and the paper's."""

    title: str
    ours: tuple[str, ...]
    theirs: tuple[Benchmark, ...] = ()
    note: str = ""


KINDS: dict[str, Kind] = {
    "reasoning": Kind(
        "maths and reasoning", ("countdown", "arithmetic", "logic"),
        (
            _row("AIME 2024", 77.9, 59.0, 74.0, 78.1, 79.8, base=15.6),  # base: figure 1
            _row("MATH-500", 95.9, 94.2, 95.9, 95.4, 97.3),
            _row("CNMO 2024", 88.1, 58.0, 73.9, 77.3, 78.8),
        ),
    ),
    "code": Kind(
        "code", ("program",),
        (
            _row("LiveCodeBench", 50.0, 57.5, 63.5, 64.6, 65.9),
            _row("Codeforces, percentile", 80.4, 84.5, 90.5, 92.1, 96.3),
        ),
    ),
    "choice": Kind(
        "choice questions", ("choice",),
        (
            _row("GPQA-Diamond", 75.8, 66.1, 70.7, 71.2, 71.5),
            _row("MMLU", 88.8, 89.1, 91.2, 91.0, 90.8),
            _row("C-Eval (Chinese)", 92.8, 85.7, 91.9, 86.4, 91.8),
        ),
    ),
    "instruct": Kind("following instructions", ("instruct",), (_row("IFEval", 46.6, 71.7, 72.0, 78.1, 83.3),)),
    "general": Kind(
        "general requests", ("general",),
        (
            _row("AlpacaEval 2, length-controlled", 24.7, 50.1, 55.8, 62.1, 87.6),
            _row("Arena-Hard", 53.6, 77.0, 73.2, 75.6, 92.3),
        ),
        "Ours is the share of answers that keep every point of the world's own rubric; the paper's is how often a judge "
        "prefers the answer to another model's.",
    ),
    "harm": Kind(
        "safety", ("harm",), (),
        "Harmful requests declined and look-alikes helped. Table 3 has no safety benchmark, so nothing stands beside it.",
    ),
}  # fmt: skip


def kind_of(task: str) -> str | None:
    """The kind of a task of ours; None where no kind fits."""
    return next((k for k, kind in KINDS.items() if task.startswith(kind.ours)), None)


@dataclass(frozen=True, slots=True)
class Domain:
    """A row of the paper's table 5: its 804,745 rows of fine-tuning data."""

    title: str
    rows: int
    rounds: float
    mean_tokens: float
    share: float  # of all tokens; our arithmetic


DOMAINS: dict[str, Domain] = {
    "reasoning": Domain("Math", 395_285, 1.0, 6_094.2, 0.559),
    "code": Domain("Code", 211_129, 1.1, 7_435.7, 0.364),
    "choice": Domain("STEM", 10_124, 1.0, 4_928.8, 0.012),
    "logic": Domain("Logic", 10_395, 1.0, 2_739.0, 0.007),
    "general": Domain("General", 177_812, 1.1, 1_419.8, 0.059),
}


def domain_of(name: str) -> Domain | None:
    """The paper's domain of one of ours, named by a task or by a user's rows."""
    kind = "logic" if name.startswith("logic") else kind_of(name)
    kind = "general" if kind in ("instruct", "harm") else kind
    return DOMAINS.get(kind or "")
