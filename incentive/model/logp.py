"""Log-probabilities in chunks: no (tokens, vocabulary) tensor beyond a byte budget, forward or backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from incentive.memory import CHUNK
from incentive.model import fused


def _logits(h: Tensor, w: Tensor, temperature: float) -> Tensor:
    out = (h @ w.T).float()
    return out if temperature == 1.0 else out.div_(temperature)


def _read(
    h: Tensor, w: Tensor, ids: Tensor, temperature: float, out: tuple[Tensor, Tensor, Tensor], entropy: bool
) -> None:
    """Log-probability, logarithm of the sum, and entropy where it is wanted, into `out`."""
    logp, norm, ent = out
    logits = _logits(h, w, temperature)
    norm[:] = lse = torch.logsumexp(logits, dim=-1)
    logp[:] = logits.gather(1, ids[:, None])[:, 0] - lse
    if entropy:
        ent[:] = lse - (torch.exp(logits - lse[:, None]) * logits).sum(-1)


def _turned(h: Tensor, w: Tensor, ids: Tensor, temperature: float, norm: Tensor, g: Tensor) -> Tensor:
    """The gradient of the logits."""
    d = torch.exp(_logits(h, w, temperature).sub_(norm[:, None])).neg_()
    d.scatter_add_(1, ids[:, None], torch.ones_like(ids[:, None], dtype=d.dtype))
    return d.mul_(g[:, None] / temperature).to(h.dtype)


class _TokenLogp(torch.autograd.Function):
    """log softmax(h W^T / temperature)[ids], with the logits recomputed chunk by chunk in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, w: Tensor, ids: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.fused = fused.usable(h)
        rows = max(1, CHUNK // ((h.element_size() if ctx.fused else 4) * w.shape[0]))
        logp, norm, ent = (torch.zeros(len(ids), dtype=torch.float32, device=h.device) for _ in range(3))
        for at in range(0, len(ids), rows):
            part = slice(at, at + rows)
            told = (logp[part], norm[part], ent[part])
            if ctx.fused:
                fused.token_logp(h[part] @ w.T, ids[part], temperature, *told)
            else:
                _read(h[part], w, ids[part], temperature, told, entropy)
        if not entropy:
            ent.zero_()
        ctx.save_for_backward(h, w, ids, norm)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.mark_non_differentiable(ent)
        return logp, ent

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        h, w, ids, norm = ctx.saved_tensors
        gh, part_of_w = torch.empty_like(h), torch.empty_like(w)
        gw = torch.zeros(w.shape, dtype=torch.float32, device=w.device) if len(ids) > ctx.rows else None
        for at in range(0, len(ids), ctx.rows):
            part = slice(at, at + ctx.rows)
            if ctx.fused:
                d = fused.token_logp_backward(h[part] @ w.T, ids[part], ctx.temperature, norm[part], g[part])
            else:
                d = _turned(h[part], w, ids[part], ctx.temperature, norm[part], g[part])
            gh[part] = d @ w
            torch.mm(d.T, h[part], out=part_of_w)
            if gw is not None and ctx.fused:
                fused.add(part_of_w, gw)
            elif gw is not None:
                gw += part_of_w
        return gh, part_of_w if gw is None else part_of_w.copy_(gw), None, None, None


def token_logp(
    h: Tensor, w: Tensor, ids: Tensor, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of each id under the softmax of h W^T / temperature, and its entropy.

    Args:
        h: (N, H) hidden states that predict the ids, in the compute dtype.
        w: (V, H) unembedding in the same dtype.
        ids: (N,) int64.

    Returns:
        logp (N,) float32, differentiable in h and w; entropy (N,) float32, not differentiable, zeros unless asked for.
    """
    return _TokenLogp.apply(h, w, ids, temperature, entropy)
