"""Rows without padding, and a prompt that several rows begin with computed once: what the learner computes on a CPU.

All tokens of a micro-batch stand after each other, N of them, so that neither the products nor what lies between them see
padding. The last of the N are dummies that nothing reads; padding points to the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incentive.model.fused import array
from incentive.threads import pool


def rounded(n: int, bits: int) -> int:
    """The next number from n on whose binary digits behind the first `bits` are zero, and that is a multiple of 8.

    oneDNN compiles a product for its shape, which takes about as long as a small product, and keeps the last shapes.
    """
    step = max(8, 1 << max(0, (n - 1).bit_length() - bits))
    return -(-n // step) * step


@dataclass(frozen=True, slots=True)
class Pack:
    """A micro-batch, laid out: prompts that are shared first, then of each row what is its own, then dummies."""

    ids: Tensor  # (N,)
    places: Tensor  # (N,) within the row
    at: Tensor  # (B, T) where each token of the padded rows stands, the first dummy behind their ends
    dummy: int  # where it stands
    spans: list[np.ndarray]  # (n, 4) each, a prompt and the rows that begin with it: see `attention.forward`
    shared: int  # tokens of the prompts that are shared


def alike(rows: Sequence[np.ndarray], prompts: Sequence[int]) -> list[list[int]]:
    """The rows by their prompt: numbers of those that share it, in the order in which they come.

    Args:
        rows: ids of each row (T,).
        prompts: how many of them are its prompt.
    """
    found: dict[bytes, list[int]] = {}
    for i, (ids, n) in enumerate(zip(rows, prompts, strict=True)):
        found.setdefault(ids[:n].tobytes(), []).append(i)
    return list(found.values())


def pack(rows: Sequence[np.ndarray], prompts: Sequence[int]) -> Pack:
    """Lay rows out.

    Args:
        rows: ids of each row (T,).
        prompts: how many of them are its prompt.
    """
    groups = alike(rows, prompts)
    ids: list[np.ndarray] = []
    places: list[np.ndarray] = []
    n = 0

    def stand(tokens: np.ndarray, place: int) -> int:
        """Where the tokens stand, of which the first has this place in its row."""
        nonlocal n
        ids.append(tokens)
        places.append(np.arange(place, place + len(tokens)))
        n += len(tokens)
        return n - len(tokens)

    # tokens that a group's rows have in common; the first token of all texts is not worth it
    shares = [prompts[group[0]] if len(group) > 1 < prompts[group[0]] else 0 for group in groups]
    begun = [stand(rows[group[0]][:p], 0) if p else 0 for group, p in zip(groups, shares, strict=True)]
    shared = n
    at = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    spans = []
    for group, p, begin in zip(groups, shares, begun, strict=True):
        mine = [(begin, p, 0, 0)] if p else []
        for i in group:
            first = stand(rows[i][p:], p)
            mine.append((first, len(rows[i]) - p, begin, p))
            at[i, :p] = np.arange(begin, begin + p)
            at[i, p : len(rows[i])] = np.arange(first, n)
        spans.append(np.array(mine, dtype=np.int64))
    for i, row in enumerate(rows):
        at[i, len(row) :] = n
    at_end = np.zeros(rounded(n + 1, 4) - n, dtype=np.int64)
    turn = torch.from_numpy
    return Pack(
        turn(np.concatenate((*ids, at_end))), turn(np.concatenate((*places, at_end))), turn(at), n, spans, shared
    )


def _by_threads(spans: Sequence[np.ndarray], kv_heads: int, call: Callable[..., None]) -> None:
    """All spans with all key heads, on as many threads as torch has: rows that share a prompt together, head by head."""
    threads = torch.get_num_threads()
    if threads == 1:
        call(np.concatenate(spans), (0, kv_heads))
    else:
        parts = [(mine, (kv, kv + 1)) for mine in spans for kv in range(kv_heads)]
        list(pool(threads).map(lambda part: call(*part), parts))


class Attend(torch.autograd.Function):
    """qkv (N, (heads + 2 kv_heads) D) of a pack, not turned, cos and sin (N, D/2) -> (N, heads D): rows attend to their prompt
    and to what they said before. Gradients of a shared prompt are summed in float32."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, pack: Pack, heads: int, kv_heads: int) -> Tensor:
        from incentive.model import attention

        out = qkv.new_zeros(len(qkv), heads * 2 * cos.shape[1])
        norm = np.zeros((len(qkv), heads), dtype=np.float32)
        given = array(qkv), cos.numpy(), sin.numpy(), heads, kv_heads, norm
        _by_threads(pack.spans, kv_heads, partial(attention.forward, *given, array(out)))
        ctx.save_for_backward(qkv)
        ctx.pack, ctx.given = pack, given
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        from incentive.model import attention

        (qkv,) = ctx.saved_tensors
        g_qkv, said = torch.zeros_like(qkv), array(g.contiguous())
        told = ctx.pack.shared, said, array(g_qkv)
        _by_threads(ctx.pack.spans, ctx.given[4], partial(attention.backward, *ctx.given, *told))
        return g_qkv, None, None, None, None, None
