"""The losses of one update: `loss(outputs, batch) -> (sum, metrics)`, with B rows and T tokens.

`sum` is to be minimised. It is the sum over tokens of `weight` times the token's loss, and the weights (`algo.weights`)
make it a mean over the minibatch, so the sums of micro-batches add up, and so do their gradients. Each metric is a
detached sum over masked tokens: the learner adds them over micro-batches and divides by the masked tokens of all.

Where the mask is False every stream reads as zero on entry, so padding, be it NaN or infinite, reaches neither value
nor gradient. Where it is True a NaN stays one, for the learner to see.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CEILING = 20.0  # largest log-ratio that is exponentiated; e^20 is 5e8


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch, rows padded on the right: the streams of `records.Example` as tensors."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) bool, True where the loss looks; column 0 is False
    weight: Tensor | None = None  # (B, T) float32, as are all below; scoring needs none
    advantage: Tensor | None = None
    old_logp: Tensor | None = None
    ref_logp: Tensor | None = None
    sampler_logp: Tensor | None = None
    label: Tensor | None = None
    temperature: float = 1.0  # of the samples; the learner scores at it


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the learner's forward pass says of a batch."""

    logp: Tensor | None = None  # (B, T) float32, log pi(ids[b, t] | ids[b, :t]); column 0 is 0
    entropy: Tensor | None = None  # (B, T) float32, of the distribution that ids[b, t] was drawn from
    score: Tensor | None = None  # (B, T) float32, of a scalar head in place of both, after reading ids[b, :t + 1]


Metrics = dict[str, Tensor]
Loss = Callable[[Outputs, Batch], tuple[Tensor, Metrics]]


def _exp(x: Tensor, exp: Callable[[Tensor], Tensor] = torch.exp) -> Tensor:
    """e^x, and its tangent at 20 beyond: the same for every ratio that occurs, finite and with a slope for those that
    should not (an infinite ratio that the clip discards would still turn the gradient into 0 * inf). Ours."""
    return exp(x.clamp(max=CEILING)) + math.exp(CEILING) * (x - CEILING).clamp(min=0)


def k3(x: Tensor) -> Tensor:
    """Paper eq. 2, with x = log(pi_ref / pi): e^x - x - 1, never negative; estimates KL(pi, pi_ref) on samples of pi.

    By expm1, or float32 would lose every KL below about 1e-7 a token.
    """
    return _exp(x, torch.expm1) - x


def policy(
    outputs: Outputs,
    batch: Batch,
    *,
    epsilon: float,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    level: Literal["token", "sequence"] = "token",
) -> tuple[Tensor, Metrics]:
    """Paper eq. 1, negated: -min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) + beta k3, for each masked token.

    The paper prints rho for a whole output but speaks of tokens that lose their gradient. Our choice is a rho for each
    token (DeepSeekMath) or, at level "sequence", GSPO's: the geometric mean of the row's token ratios. Its value is the
    sequence's, its gradient the token's own (GSPO-token; with one advantage and one weight a row this is GSPO).
    The KL is per token at either level. At epsilon 10 the lower bound is -9, so only rho > 11 with A > 0 is clipped.

    `epsilon_high` None: as epsilon. `old_logp` None: on-policy, rho is 1 and has a gradient. No KL where beta is 0 or
    `ref_logp` None.

    Metrics: `ratio`; `clip_ratio`, the tokens that the clip leaves without policy gradient; `kl`; `entropy`; and how
    far the learner was from the engine when the rollout was made (by `old_logp`, so the updates since are not in it):
    `sampler_mismatch`, the absolute difference of log-probs, and `sampler_k3`.
    """
    mask, said = batch.mask, _given(outputs.logp, "logp")
    zero = torch.zeros((), dtype=said.dtype, device=mask.device)
    weight = torch.where(mask, _given(batch.weight, "weight"), zero)
    advantage = torch.where(mask, _given(batch.advantage, "advantage"), zero)
    logp = torch.where(mask, said, zero)
    old_logp = logp.detach() if batch.old_logp is None else torch.where(mask, batch.old_logp, zero)

    log_ratio = logp - old_logp
    if level == "sequence":
        mean = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        log_ratio = torch.where(mask, mean.detach() + logp - logp.detach(), zero)
    ratio = _exp(log_ratio)
    low, high = 1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high)
    loss = -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    clipped = ((ratio > high) & (advantage > 0)) | ((ratio < low) & (advantage < 0))

    streams = {"ratio": torch.where(mask, ratio, zero), "clip_ratio": clipped.to(zero.dtype)}
    if beta and batch.ref_logp is not None:
        kl = k3(torch.where(mask, batch.ref_logp, zero) - logp)
        loss = loss + beta * kl
        streams["kl"] = kl
    if outputs.entropy is not None:
        streams["entropy"] = torch.where(mask, outputs.entropy, zero)
    if batch.sampler_logp is not None:
        gap = old_logp - torch.where(mask, batch.sampler_logp, zero)
        streams |= {"sampler_mismatch": gap.abs(), "sampler_k3": k3(gap)}
    return (weight * loss).sum(), {name: stream.detach().sum() for name, stream in streams.items()}


def nll(outputs: Outputs, batch: Batch) -> tuple[Tensor, Metrics]:
    """-log pi of each masked token: all of them in pretraining, the assistant's in SFT. Metrics: `nll`, `entropy`."""
    logp = _given(outputs.logp, "logp")
    zero = torch.zeros((), dtype=logp.dtype, device=batch.mask.device)
    loss = -torch.where(batch.mask, logp, zero)
    streams = {"nll": loss}
    if outputs.entropy is not None:
        streams["entropy"] = torch.where(batch.mask, outputs.entropy, zero)
    total = (torch.where(batch.mask, _given(batch.weight, "weight"), zero) * loss).sum()
    return total, {name: stream.detach().sum() for name, stream in streams.items()}


def _at_ends(outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """The scalar head's number and the weight of each row (B,), where its one masked token is."""
    if not bool((batch.mask.sum(1) == 1).all()):
        raise ValueError("a reward model's loss looks at one token of each row")
    return _given(outputs.score, "score")[batch.mask], _given(batch.weight, "weight")[batch.mask]


def pairwise(outputs: Outputs, batch: Batch) -> tuple[Tensor, Metrics]:
    """-log sigmoid(chosen - rejected) (Bradley and Terry; Ouyang et al. 2022, eq. 1), rows 2i chosen and 2i + 1 rejected.

    A pair's weight is that of its two rows together. Metrics, counted for both rows: `accuracy`, whether the chosen one
    scores higher (a half where they are equal); `margin`, by how much.

    Raises:
        ValueError: an odd number of rows, or a row with another number of masked tokens than one.
    """
    score, weight = _at_ends(outputs, batch)
    if len(score) % 2:
        raise ValueError(f"{len(score)} rows are no pairs")
    gap = score[0::2] - score[1::2]
    right = (torch.sign(gap) + 1) / 2
    total = (-(weight[0::2] + weight[1::2]) * F.logsigmoid(gap)).sum()
    return total, {"accuracy": 2 * right.detach().sum(), "margin": 2 * gap.detach().sum()}


def pointwise(outputs: Outputs, batch: Batch) -> tuple[Tensor, Metrics]:
    """Binary cross-entropy of sigmoid(score) with the row's label, 1 or 0. Metrics: `accuracy`, at a score of 0."""
    score, weight = _at_ends(outputs, batch)
    label = _given(batch.label, "label")[batch.mask]
    loss = F.binary_cross_entropy_with_logits(score, label, reduction="none")
    right = ((score > 0) == (label > 0.5)).to(score.dtype)
    return (weight * loss).sum(), {"accuracy": right.detach().sum()}


def _given(stream: Tensor | None, name: str) -> Tensor:
    if stream is None:
        raise ValueError(f"the loss needs a batch with {name!r}")
    return stream
