"""Whether what a model learned from holds what it is tested on: every training set beside every evaluation set.

Kept from the paper (D.1): ten words in a row shared with a question or its reference solution. Ours besides: prompts that are
near-duplicates (MinHash), and the key of a problem where a task makes its problems itself, for all of those share a template
and words cannot tell them apart. The recipe asks before each training stage; what is found stands beside each score, counted
in evaluation problems, with every training set that lies upstream of the model in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from incentive.config import RL
from incentive.curation import Held, Text, contaminated, units
from incentive.files import RunError, read_lines, write_json
from incentive.keys import Artifact
from incentive.records import Problem, hash64
from incentive.tasks.base import Task

Met = dict[
    str, dict[int, str]
]  # evaluation set -> index of a problem of it -> how it was met: key, words, near, prompt
HOW = ("key", "prompt", "words", "near")  # the surest first
PART = 20_000  # training texts that are compared at a time: public data is larger than memory
DYNAMIC = 4  # times as many problems as a step uses are drawn at most where groups without signal are replaced


def meeting(texts: Iterable[Text], held: Held, part: int = PART) -> Met:
    """The evaluation problems that share content with a training text, and how; sets without one are left out.

    A problem with a key is compared with a text without one by the whole prompt alone (`prompt`): their template's words
    are the same in all of them.

    Args:
        part: training texts that are held in memory at a time.
    """
    out: Met = {}
    texts = iter(texts)
    while some := tuple(islice(texts, part)):
        for name, found in _meeting(some, held).items():
            met = out.setdefault(name, {})
            for i, how in found.items():
                met[i] = min(how, met.get(i, how), key=HOW.index)
    return out


def _meeting(texts: tuple[Text, ...], held: Held) -> Met:
    training = Held({"": texts}, held.n, held.threshold)
    asked = {tuple(units(t.prompt, signs=True)) for t in training.sets[""] if t.key is None}
    out: Met = {}
    for name, texts_ in held.sets.items():
        met = {i: shared.how for i, shared in enumerate(contaminated(texts_, training)) if shared is not None}
        for i, t in enumerate(texts_ if asked else ()):
            if t.key is not None and tuple(units(t.prompt, signs=True)) in asked:
                met.setdefault(i, "prompt")
        if met:
            out[name] = met
    return out


def drawn_by(section: RL) -> int:
    """Train problems that an RL stage asks at most, counted from the first."""
    return section.max_steps * section.problems_per_step * (DYNAMIC if section.dynamic_sampling else 1)


def texts_of(folder: Path) -> Iterator[Text]:
    """The rows of a data set: curated ones, or rollouts, one a sample."""
    for path in sorted(folder.glob("*.jsonl.zst")):
        for row in read_lines(path):
            if "problem" in row:
                problem = Problem(**row["problem"])
                yield from (Text.of(problem, s["text"]) for s in row["samples"])
            else:
                yield Text.of_row(row)


def in_corpus(folder: Path, problems: Sequence[Problem]) -> list[int] | None:
    """Indices of the problems that a base model was pretrained on, by the list of hashes beside it; None without one.

    Raises:
        RunError: the list cannot be read.
    """
    file = folder / "corpus_keys.npy"
    if not file.is_file():
        return None
    try:
        corpus = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise RunError(f"{file}: no readable list of hashes\nCopy the base again, or delete that file.") from None
    keys = np.asarray([hash64(p.key) for p in problems], dtype=np.uint64)
    return [int(i) for i in np.flatnonzero(np.isin(keys, corpus))]


class Contamination:
    """What the training sets of a run share with its evaluation sets; written to `path` as it grows.

    Args:
        asked: the problems of every evaluation set, as the evaluations will ask them.
    """

    def __init__(self, path: Path, asked: Mapping[str, Sequence[Problem]], say: Callable[[str], None]):
        self.path, self.asked, self.say = path, asked, say
        self.held = Held.of(asked)
        self.sets: dict[str, tuple[int, Met] | None] = {}  # training set -> (texts, what it met); None: not known
        self.upstream: dict[str, frozenset[str]] = {}  # key of an artifact -> training sets that it comes from

    def base(self, model: Artifact, name: str = "corpus") -> None:
        """The corpus of a base model that the run starts from; the second name of the same one is passed over."""
        if model.key in self.upstream:
            return
        found = {task: in_corpus(model.path, problems) for task, problems in self.asked.items()}
        met = {task: dict.fromkeys(hits, "key") for task, hits in found.items() if hits}
        file = model.path / "corpus_keys.npy"
        self.sets[name] = (len(np.load(file)), met) if file.is_file() else None
        self.upstream[model.key] = frozenset({name})

    def rows(self, stage: str, data: Iterable[Artifact]) -> None:
        """The rows that a fine-tuning is about to learn from.

        Raises:
            RunError: an evaluation problem is among them.
        """
        self._see(stage, (text for artifact in data for text in texts_of(artifact.path)))

    def drawn(self, stage: str, task: Task, seed: int, n: int) -> None:
        """The first `n` train problems of a task, which a stage is about to ask.

        Raises:
            RunError: an evaluation problem is among them.
        """
        problems = {p.key: p for p in (task.problem(seed, "train", i) for i in range(n))}
        same = [(t, p) for t, ps in self.asked.items() for p in ps if p.key in problems]
        if same:
            raise RunError(_refusal(stage, same[0][0], len(same), same[0][1]))
        self._see(stage, map(Text.of, problems.values()))

    def _see(self, stage: str, texts: Iterable[Text]) -> None:
        n = count()
        met = meeting((text for text, _ in zip(texts, n, strict=False)), self.held)
        self.sets[stage] = (next(n), met)
        for task, found in met.items():
            same = [i for i, how in found.items() if how in ("key", "prompt")]
            if same:
                raise RunError(_refusal(stage, task, len(same), self.asked[task][same[0]]))
            what = (
                f"{len(found)} of {len(self.asked[task])} problems of {task} share words with what {stage} learns from"
            )
            self.say(f"warning: {what}; its score is marked")
        self.write()

    def made(self, name: str, artifact: Artifact, also: Iterable[Artifact] = ()) -> Artifact:
        """Note what an artifact comes from: its own training set, if it has one, and those of its inputs."""
        keys = [*artifact.inputs, *(a.key for a in also)]
        own = {name} & self.sets.keys()
        self.upstream[artifact.key] = frozenset(own).union(*(self.upstream.get(k, frozenset()) for k in keys))
        return artifact

    def beside(self, model: Artifact) -> dict[str, dict[str, Any]]:
        """By evaluation set what stands beside the model's score: `met` of `of` problems, and by training set (None where
        it is not known)."""
        names = [n for n in self.sets if n in self.upstream.get(model.key, ())]
        out = {}
        for task, problems in self.asked.items():
            by = {n: found[1].get(task, {}) if (found := self.sets[n]) else None for n in names}
            met = {i for m in by.values() if m for i in m}
            counts = {n: None if m is None else len(m) for n, m in by.items()}
            out[task] = {"met": len(met), "of": len(problems), "ngram": self.held.n, "sets": counts}
        return out

    def write(self) -> None:
        """contamination.json: sizes, and by training set and evaluation set how many problems were met and how."""
        training = {
            name: None
            if found is None
            else {"rows": found[0], "met": {t: dict(Counter(m.values())) for t, m in found[1].items()}}
            for name, found in self.sets.items()
        }
        sizes = {task: len(problems) for task, problems in self.asked.items()}
        about = {"ngram": self.held.n, "near": self.held.threshold, "evaluation": sizes, "training": training}
        write_json(self.path, about)


def _refusal(stage: str, task: str, n: int, problem: Problem) -> str:
    return (
        f"{stage} would learn from {n} evaluation problem(s) of {task}, first {problem.id}\n"
        "Make the problems disjoint, or curate anew with --rerun where evaluations were added: what is tested must not be trained on."
    )
