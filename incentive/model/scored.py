"""A scalar head on a policy: one number a row, read at its last token. What reward models are made of.

Saved as Hugging Face's sequence classification with one label, so that transformers (and what builds on it) opens it and
scores alike. transformers finds the last token of a row as the last that is not PAD; so a row ends with EOS where the
tokenizer keeps the two apart, and where they are one token it ends with its text.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSES

from incentive import chat
from incentive.calibration import sigmoid
from incentive.model.checkpoint import SCORE, CheckpointError, Policy, open_checkpoint, save_model
from incentive.model.lean import Lean, supports
from incentive.model.plain import Plain
from incentive.records import Example


@dataclass(frozen=True, slots=True)
class Reading:
    """How a reward model wants to be asked, and what its scores are worth. It stands in the checkpoint's config.json as
    `incentive_reward`."""

    kind: Literal["pairwise", "pointwise"]
    scores: Literal["summary", "response"]
    template: str
    centre: float = 0.0  # pairwise: the median score of held-out answers
    scale: float = 1.0  # pairwise: the mean difference between the two answers of a held-out pair

    def text(self, tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict[str, str]], response: str) -> str:
        """What the model reads: the prompt in its template, then the summary or the whole response."""
        answer = chat.summary(response) if self.scores == "summary" else response
        return chat.render(self.template, prompt, tokenizer) + answer

    def worth(self, scores: list[float]) -> list[float]:
        """Scores as rewards: the probability of safe, or of pairs (score - centre) / scale.

        Pairs settle a score up to a constant of each prompt. A linear scale lets an advantage cancel it; a sigmoid would
        flatten the differences wherever the constant is large.
        """
        if self.kind == "pointwise":
            return sigmoid(scores).tolist()
        return [(s - self.centre) / self.scale for s in scores]


class Scored(nn.Module):
    """The decoder of a policy with `score.weight` (1, H) in place of its output matrix."""

    def __init__(self, trunk: Policy, config: Any):
        super().__init__()
        self.config = config
        if isinstance(trunk, Lean):
            trunk.head = None
        else:
            trunk.model.score = nn.Identity()
        self.trunk = trunk
        self.head = nn.Parameter(torch.zeros(1, config.get_text_config().hidden_size))

    def forward(self, ids: Tensor) -> Tensor:
        """Right-padded ids (B, T) -> last hidden states (B, T, H)."""
        return self.trunk(ids)

    def read(self, hidden: Tensor) -> Tensor:
        """Hidden states (N, H) -> scores (N,), the product in float32."""
        return hidden.float() @ self.head[0]

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.trunk.named_weights()
        yield SCORE, self.head.detach()

    @property
    def reading(self) -> Reading | None:
        """How to ask it; None where it was not made by the stage `reward_model`."""
        found = getattr(self.config, "incentive_reward", None)
        return Reading(**found) if found else None


def load_scored(
    model: str | Path, dtype: str = "float32", device: str = "cpu", seed: int | None = None
) -> tuple[Scored, PreTrainedTokenizerBase]:
    """A reward model and its tokenizer; weights in float32, forward in `dtype`.

    Args:
        seed: makes one out of a language model: its head is drawn small (standard deviation 1/H), so that it starts
            from scores near 0. None: only a reward model will do.

    Raises:
        CheckpointError: the folder is not a usable checkpoint, or holds no head and there is no seed.
    """
    found = open_checkpoint(model, dtype, device)
    config = copy.deepcopy(found.config)
    if (name := CLASSES.get(config.model_type)) is None:
        raise CheckpointError(f"{found.folder}: transformers has no sequence classification for {config.model_type!r}")
    head = found.weights.get(SCORE)
    if head is None and seed is None:
        raise CheckpointError(
            f"{found.folder}: no {SCORE}, so this is no reward model; train one with stage reward_model"
        )
    config.architectures, config.num_labels = [name], 1
    config.get_text_config().pad_token_id = found.tokenizer.pad_token_id
    try:
        trunk: Policy
        if supports(config) is None:
            trunk = Lean(config, found.dtype)
            trunk.head = None
            trunk.load_named(found.weights)
        else:
            loaded = AutoModelForSequenceClassification.from_pretrained(
                str(found.folder), config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
            if not isinstance(getattr(loaded, "score", None), nn.Linear):
                raise ValueError(f"{name} reads no score at the last token, so it cannot be a reward model")
            trunk = Plain(loaded, found.dtype)
        scored = Scored(trunk, config)
        if head is None:
            assert seed is not None
            width = scored.head.shape[1]
            head = torch.randn(1, width, generator=torch.Generator().manual_seed(seed % 2**63)) / width
        if head.shape != scored.head.shape:
            raise ValueError(f"{SCORE} has shape {tuple(head.shape)}; a reward model has one label")
    except (ValueError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{found.folder}: {str(error).splitlines()[0]}") from None
    with torch.no_grad():
        scored.head.copy_(head)
    return scored.to(device), found.tokenizer


def save_scored(
    folder: Path,
    scored: Scored,
    tokenizer: PreTrainedTokenizerBase,
    reading: Reading,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a Hugging Face checkpoint for sequence classification.

    `problem_type` tells transformers' pipeline what to do with the number: leave it (a pair's score is regression) or
    take its sigmoid, the probability of safe (one label of several that may hold).
    """
    config = scored.config
    config.problem_type = "regression" if reading.kind == "pairwise" else "multi_label_classification"
    label = "helpful" if reading.kind == "pairwise" else "safe"
    config.id2label, config.label2id = {0: label}, {label: 0}
    config.incentive_reward = asdict(reading)
    save_model(folder, scored, tokenizer, dtype)


def rows_of(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Example]:
    """Texts as rows whose mask is True at the last token alone, where the head reads."""
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    out = []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else ():
        while ids and ids[-1] == pad:
            ids = ids[:-1]
        row = np.asarray(ids if eos == pad else [*ids, eos], dtype=np.int64)
        out.append(Example(ids=row, mask=np.arange(len(row)) == len(row) - 1))
    return out
