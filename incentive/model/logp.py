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


def _room(h: Tensor, w: Tensor, rows: int) -> Tensor:
    """For a chunk's logits, one after the other: pieces that large, asked for again and again, leave holes in the heap."""
    return h.new_empty(rows, w.shape[0])


class _TokenLogp(torch.autograd.Function):
    """log softmax(h W^T / temperature)[ids], with the logits recomputed chunk by chunk in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, w: Tensor, ids: Tensor, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.fused = fused.usable(h)
        rows = max(1, CHUNK // ((h.element_size() if ctx.fused else 4) * w.shape[0]))
        logp, norm, ent = (torch.zeros(len(ids), dtype=torch.float32, device=h.device) for _ in range(3))
        room = _room(h, w, min(rows, len(ids)) if ctx.fused else 0)
        for at in range(0, len(ids), rows):
            part = slice(at, at + rows)
            told = (logp[part], norm[part], ent[part])
            if ctx.fused:
                logits = torch.mm(h[part], w.T, out=room[: len(ids) - at])
                fused.token_logp(logits, ids[part], temperature, *told)
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
        gh, exact = torch.empty_like(h), w.dtype == torch.float32
        gw = torch.zeros(w.shape, dtype=torch.float32, device=w.device)  # chunks are summed in float32
        part_of_w = gw if exact else torch.empty_like(w)
        room = _room(h, w, min(ctx.rows, len(ids)) if ctx.fused else 0)
        for at in range(0, len(ids), ctx.rows):
            part = slice(at, at + ctx.rows)
            if ctx.fused:
                logits = torch.mm(h[part], w.T, out=room[: len(ids) - at])
                d = fused.token_logp_backward(logits, ids[part], ctx.temperature, norm[part], g[part])
            else:
                d = _turned(h[part], w, ids[part], ctx.temperature, norm[part], g[part])
            gh[part] = d @ w
            if exact:
                gw.addmm_(d.T, h[part])
            elif ctx.fused:
                fused.add(torch.mm(d.T, h[part], out=part_of_w), gw)
            else:
                gw += torch.mm(d.T, h[part], out=part_of_w)
        return gh, gw if exact else part_of_w.copy_(gw), None, None, None


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
