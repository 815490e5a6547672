"""Normalisers as data: how much each token of an update counts, so that the loss of any micro-batch is a plain sum.

Each function takes the WHOLE minibatch of one update, before it is split, and returns it with the `weight` streams
filled: the same for every masked token of a row, zero elsewhere. So no result depends on micro-batch size or on the
number of ranks. N is the number of examples of the minibatch, those without a masked token included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from incentive.records import Example

Weigh = Callable[[Sequence[Example], int], list[Example]]


def _lengths(examples: Sequence[Example]) -> np.ndarray:
    """Masked tokens of each example, |o_i|: (N,) float64."""
    return np.array([example.mask.sum() for example in examples], dtype=np.float64)


def _fill(examples: Sequence[Example], shares_N: np.ndarray) -> list[Example]:
    """The examples with `weight[t]` = their share where the mask is True, 0 elsewhere: (T,) float32 each."""
    pairs = zip(examples, shares_N, strict=True)
    return [replace(e, weight=np.where(e.mask, share, 0).astype(np.float32)) for e, share in pairs]


def grpo(examples: Sequence[Example], _max_tokens: int = 0) -> list[Example]:
    """1 / (N |o_i|): the mean over samples of each sample's mean over tokens.

    The paper's eq. 1 has 1/G over outputs and leaves tokens open; the mean over a sample's tokens, as in DeepSeekMath,
    is our choice.
    """
    return _fill(examples, 1 / (len(examples) * np.maximum(_lengths(examples), 1)))


def token_mean(examples: Sequence[Example], _max_tokens: int = 0) -> list[Example]:
    """1 / (all masked tokens): every token counts the same. DAPO's normaliser, and that of pretraining and SFT."""
    lengths_N = _lengths(examples)
    return _fill(examples, np.full(len(examples), 1 / max(lengths_N.sum(), 1)))


def dr_grpo(examples: Sequence[Example], max_tokens: int) -> list[Example]:
    """1 / (N max_tokens): a constant, so that a longer answer is not weighed down. `max_tokens` is the sampler's cap.

    Raises:
        ValueError: `max_tokens` is not positive.
    """
    if max_tokens <= 0:
        raise ValueError(f"dr_grpo needs the longest answer's length, not max_tokens={max_tokens}")
    return _fill(examples, np.full(len(examples), 1 / (len(examples) * max_tokens)))


WEIGHTS: dict[str, Weigh] = {"grpo": grpo, "token_mean": token_mean, "dr_grpo": dr_grpo}
