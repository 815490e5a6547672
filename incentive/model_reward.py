"""A reward model as one more reward: `(problem, samples) -> values`.

A safety model is worth the probability of safe, from 0 to 1. A helpful one is worth its score in units of the difference
between the two answers of a held-out pair: being as much better as the better one of a pair usually is earns 1, as a
right answer or the right form does. The paper tells neither scale nor weight; this is ours.

An answer that cannot be read (an empty summary; longer than transformers' own model reads) is worth 0 to a safety model
and 1 less than the worst other one to a helpful one, or leaving the thinking open would be a way to be scored on nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from incentive import chat
from incentive.keys import folder_key
from incentive.learner import score
from incentive.model.checkpoint import CheckpointError, resolve
from incentive.model.plain import Plain
from incentive.model.scored import Scored, load_scored, rows_of
from incentive.preferences import Prompt
from incentive.records import Example, Problem, Sample
from incentive.rewards import Reward
from incentive.threads import lanes


class ModelReward:
    """The reward of one checkpoint, or the mean reward of several.

        rewards = {"helpful": ModelReward(helpful.path), "safe": ModelReward(safety.path), "format": format_}

    Models of one kind, or their mean means little. The samples of a problem are scored together, each different text once, so that equal texts get equal rewards. The
    same samples give the same bits on the same machine and thread count.

    Args:
        folders: checkpoints of the stage `reward_model`.
        tokens: of the micro-batches that are scored at once. Memory only.

    Raises:
        CheckpointError: a folder is no reward model, or not one of that stage's.
    """

    def __init__(
        self,
        *folders: Path,
        dtype: Literal["auto", "float32", "bfloat16"] = "float32",
        device: str = "cpu",
        tokens: int = 16384,
    ):
        if not folders:
            raise ValueError("give at least one reward model")
        self.device, self.tokens = device, tokens
        self.version = " ".join(folder_key(resolve(folder)) for folder in folders)  # counts in the key of a stage
        self.models = []
        for folder in folders:
            model, tokenizer = load_scored(folder, dtype, device)
            if (reading := model.reading) is None:
                raise CheckpointError(
                    f"{folder}: config.json does not say how to ask this model; add "
                    '"incentive_reward": {"kind": "pairwise", "scores": "response", "template": "chat"}'
                )
            self.models.append((model.requires_grad_(False), tokenizer, reading, lanes(model)))

    def __call__(self, problem: Problem, samples: list[Sample]) -> list[float | None]:
        return [*self.of([(problem.prompt, s.text) for s in samples])]

    def of(self, turns: Sequence[tuple[Prompt, str]]) -> list[float]:
        """The reward of each (prompt, response); to a helpful model they are one group."""
        values = [self._values(number, turns) for number in range(len(self.models))]
        return [sum(column) / len(column) for column in zip(*values, strict=True)]

    def _values(self, number: int, turns: Sequence[tuple[Prompt, str]]) -> list[float]:
        model, tokenizer, reading, n = self.models[number]
        empty = [reading.scores == "summary" and not chat.summary(text) for _, text in turns]
        texts = [reading.text(tokenizer, prompt, text) for prompt, text in turns]
        asked = list(dict.fromkeys(text for text, is_empty in zip(texts, empty, strict=True) if not is_empty))
        rows = {
            text: row for text, row in zip(asked, rows_of(tokenizer, asked), strict=True) if self._readable(model, row)
        }
        said = score(model, list(rows.values()), self.tokens, self.device, n) if rows else []
        value = dict(zip(rows, reading.worth([float(x[-1]) for x in said]), strict=True))
        worst = 0.0 if reading.kind == "pointwise" else min(value.values(), default=0.0) - 1
        return [worst if is_empty else value.get(text, worst) for text, is_empty in zip(texts, empty, strict=True)]

    def _readable(self, model: Scored, row: Example) -> bool:
        """transformers' own models may fail beyond their context, which an answer can cause."""
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return room is None or len(row.ids) <= room or not isinstance(model.trunk, Plain)


def later(folder: Path, device: str = "cpu") -> Reward:
    """`ModelReward(folder)`, loaded when it is first asked: a start that finds its last stage done loads no model."""
    model = cache(ModelReward)
    return lambda problem, samples: model(folder, device=device)(problem, samples)
