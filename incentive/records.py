"""The records that flow from one room to the next. Small, frozen, no torch.

    task -> Problem -> engine -> Sample -> reward -> Score -> Group -> Example -> learner

Suffixes used everywhere: P problems, G samples of one problem, B rows, T tokens, V vocabulary. A field that describes
tokens is a stream: `stream[t]` describes `ids[t]`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

SCHEMA = 1  # version of everything that a run directory holds

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def hash64(*parts: object) -> int:
    """A 64-bit hash of the parts' text, the same on every machine and Python (SHA-256, first eight bytes)."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def split_of(key: str) -> Split:
    """The split that a problem's content belongs to: a hash of its key, so that splits cannot share content.

    90% train, 5% val, 5% test. The base corpus and RL draw from train, val tunes, test is for final evaluations only.
    """
    bucket = hash64("split", key) % 100
    return "train" if bucket < 90 else "val" if bucket < 95 else "test"


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its checkable answer. `key` is its canonical content, the same for every wording."""

    id: str
    key: str
    prompt: str | list[dict[str, str]]
    answer: Any
    tags: dict[str, Any] = field(default_factory=dict)


class Tool(Protocol):
    """What answers within a sample: where the policy has written `stop`, what `answer` says is appended, and it goes on.

    `answer` gets the whole text of the sample up to there. It must be quick and never raise: it runs between two tokens.
    """

    stop: str

    def answer(self, text: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked for: `n` samples of one prompt. Sample i draws from the stream of `seeds[i]` alone."""

    problem_id: str
    prompt_ids: np.ndarray  # (Tp,) int64
    seeds: tuple[int, ...]  # (n,)
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    tool: Tool | None = None  # max_tokens counts what it says, too


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of the policy, written once, by an engine."""

    id: str
    problem_id: str
    prompt_ids: np.ndarray  # (Tp,) int64
    ids: np.ndarray  # (T,) int64, the stop token included, all turns
    mask: np.ndarray  # (T,) bool, True where the policy wrote
    sampler_logp: np.ndarray  # (T,) float32, at the sampling temperature, before top-p and top-k; 0 where not masked
    temperature: float
    stop: Literal["stop", "length"]
    versions: tuple[int, int]  # weights in use at the first and the last token
    seed: int
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """A sample's reward. `total` is None where it could not be graded; `parts` keeps every reward by its name."""

    total: float | None
    parts: dict[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The samples of one problem with their scores: the unit of logging and of the advantage."""

    problem: Problem
    samples: list[Sample]  # (G,)
    scores: list[Score]  # (G,)


@dataclass(frozen=True, slots=True)
class Example:
    """One row of an update. `ids` is prompt + answer; every other stream has the same length.

    `weight` is the token's share in the loss after the normaliser of the whole minibatch, made by `algo.weights`.
    """

    ids: np.ndarray  # (T,) int64
    mask: np.ndarray  # (T,) bool, True where the loss looks
    advantage: np.ndarray | None = None  # (T,) float32
    sampler_logp: np.ndarray | None = None  # (T,) float32
    old_logp: np.ndarray | None = None  # (T,) float32, the learner's own, when the rollout was made
    ref_logp: np.ndarray | None = None  # (T,) float32
    temperature: float = 1.0
    weight: np.ndarray | None = None  # (T,) float32
    label: np.ndarray | None = None  # (T,) float32, what a scalar head should say where the mask is True
    rows: int = 1  # so many consecutive rows stay in one micro-batch, this one among them: 2 where pairs are compared


def to_json(record: Any) -> Any:
    """A record as plain JSON data; floats keep their float32 value in the shortest digits."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, np.ndarray):
        if record.dtype == np.bool_:
            return record.astype(int).tolist()
        if record.dtype == np.float32:
            return [float(str(x)) for x in record]
        return record.tolist()
    if isinstance(record, dict):
        return {k: to_json(v) for k, v in record.items()}
    if isinstance(record, list | tuple):
        return [to_json(v) for v in record]
    return record


_DTYPES = {"prompt_ids": np.int64, "ids": np.int64, "mask": np.bool_, "sampler_logp": np.float32}


def sample_from_json(data: dict[str, Any]) -> Sample:
    arrays: dict[str, np.ndarray] = {k: np.asarray(data[k], dtype=t) for k, t in _DTYPES.items()}
    return Sample(**{**data, **arrays, "versions": tuple(data["versions"])})


def group_from_json(data: dict[str, Any]) -> Group:
    """The inverse of `to_json` for a group."""
    return Group(
        problem=Problem(**data["problem"]),
        samples=[sample_from_json(s) for s in data["samples"]],
        scores=[Score(**s) for s in data["scores"]],
    )
