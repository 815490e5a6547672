"""Rows without padding, and a prompt that several rows begin with computed once: what the learner computes on a CPU.

All tokens of a micro-batch stand after each other, N of them, so that neither the products nor what lies between them see
padding. Rows attend in parts of like length; there alone they are padded. The last of the N is a dummy that padding
points to and nothing reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LONGEST = 512  # tokens of a row; beyond it torch's flash kernel is better than plain products
NEAR, FEW = 0.8, 512  # rows so long as a share of the longest attend together, and at least so many tokens


@dataclass(frozen=True, slots=True)
class Part:
    """B rows that attend together: where their tokens stand among the N, padded on the right."""

    own: Tensor  # (B, T) those that ask
    seen: Tensor  # (B, S) those that are asked: the prompt, where it stands elsewhere, and then own
    bias: Tensor  # (B kv_heads or 1, group T, S) 0 or -inf, as `Attend` has its weights


@dataclass(frozen=True, slots=True)
class Pack:
    """A micro-batch, laid out: prompts that are shared first, then of each row what is its own."""

    ids: Tensor  # (N,)
    places: Tensor  # (N,) within the row
    at: Tensor  # (B, T) where each token of the padded rows stands
    parts: list[Part]
    back: Tensor  # (N,) where each stands among the own tokens of all parts after each other; the dummy behind them
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


@dataclass(frozen=True, slots=True)
class _Span:
    """Tokens that attend, in their order: where they begin and how many, and the same of a prompt that stands elsewhere."""

    first: int
    many: int
    prompt: int = 0
    before: int = 0


def _numbers(firsts: Sequence[int], many: Sequence[int], dummy: int) -> np.ndarray:
    """(B, T): first, first + 1, ..., so many of each, then the dummy's."""
    along = np.arange(max(many))[None]
    return np.where(along < np.array(many)[:, None], np.array(firsts)[:, None] + along, dummy)


def pack(rows: Sequence[np.ndarray], prompts: Sequence[int], dtype: torch.dtype, heads: int, kv: int) -> Pack:
    """Lay rows out, for a forward pass in `dtype` with so many heads of queries, and of keys.

    Args:
        rows: ids of each row (T,).
        prompts: how many of them are its prompt.
    """
    groups = alike(rows, prompts)
    ids: list[np.ndarray] = []
    places: list[np.ndarray] = []
    spans: list[_Span] = []
    n = 0

    def stand(tokens: np.ndarray, place: int, prompt: int = 0) -> int:
        """Where the tokens stand, of which the first has this place in its row."""
        nonlocal n
        ids.append(tokens)
        places.append(np.arange(place, place + len(tokens)))
        spans.append(_Span(n, len(tokens), prompt, place))
        n += len(tokens)
        return n - len(tokens)

    begun = {}  # group -> where its prompt stands
    for g, group in enumerate(groups):
        if len(group) > 1 and (p := prompts[group[0]]):
            begun[g] = stand(rows[group[0]][:p], 0)
    shared = n
    at = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for g, group in enumerate(groups):
        for i in group:
            p = prompts[i] if g in begun else 0
            first = stand(rows[i][p:], p, begun.get(g, 0))
            at[i, :p] = np.arange(p) + begun.get(g, 0)
            at[i, p : len(rows[i])] = np.arange(len(rows[i]) - p) + first
    for i, row in enumerate(rows):
        at[i, len(row) :] = n
    dummy = np.zeros(1, dtype=np.int64)
    parts: list[Part] = []
    back, done = np.zeros(n + 1, dtype=np.int64), 0
    for elsewhere in (False, True):  # the prompt
        waiting = sorted((s for s in spans if (s.before > 0) == elsewhere), key=lambda s: -s.many)
        while waiting:
            longest = waiting[0].many
            cut = (k for k, s in enumerate(waiting) if s.many < NEAR * longest and k * longest >= FEW)
            near = next(cut, len(waiting))
            mine, waiting = waiting[:near], waiting[near:]
            own = _numbers([s.first for s in mine], [s.many for s in mine], n)
            before = _numbers([s.prompt for s in mine], [s.before for s in mine], n)
            (b, t), p = own.shape, before.shape[1]
            bias = torch.full((t, p + t), float("-inf"), dtype=dtype).triu(1 + p).repeat(1, heads // kv, 1)
            padded = torch.from_numpy(before == n)
            if bool(padded.any()):
                bias = bias.repeat(b * kv, 1, 1)
                bias[:, :, :p].masked_fill_(padded.repeat_interleave(kv, 0)[:, None], float("-inf"))
            back[own[own < n]] = done + np.flatnonzero(own < n)
            done += own.size
            parts.append(Part(torch.from_numpy(own), torch.from_numpy(np.concatenate((before, own), 1)), bias))
    back[n] = done
    flat, stood = (torch.from_numpy(np.concatenate((*x, dummy))) for x in (ids, places))
    return Pack(flat, stood, torch.from_numpy(at), parts, torch.from_numpy(back), shared)


def _asking(x: Tensor, part: Part, kv: int) -> Tensor:
    """(N, heads, D) -> (B kv_heads, group T, D): the heads that share a key are rows of one product."""
    (b, t), (_, heads, d) = part.own.shape, x.shape
    return (
        x.index_select(0, part.own.flatten())
        .view(b, t, kv, heads // kv, d)
        .permute(0, 2, 3, 1, 4)
        .reshape(b * kv, heads // kv * t, d)
    )


def _asked(x: Tensor, part: Part) -> Tensor:
    """(N, kv_heads, D) -> (B kv_heads, S, D)."""
    b, s = part.seen.shape
    return x.index_select(0, part.seen.flatten()).view(b, s, *x.shape[1:]).transpose(1, 2).reshape(-1, s, x.shape[2])


def _answered(x: Tensor, part: Part, kv: int) -> Tensor:
    """(B kv_heads, group T, D) -> (B T, heads, D), back from `_asking`."""
    (b, t), d = part.own.shape, x.shape[2]
    return x.view(b, kv, -1, t, d).permute(0, 3, 1, 2, 4).reshape(b * t, -1, d)


def _back(parts: list[Tensor], pack: Pack) -> Tensor:
    """What all parts say of their own tokens, as the N stand; 0 of the dummy."""
    return torch.cat((*parts, torch.zeros_like(parts[0][:1]))).index_select(0, pack.back)


class Attend(torch.autograd.Function):
    """q (N, heads, D), k and v (N, kv_heads, D) -> (N, heads, D): rows attend to their prompt and to what they said before.

    Plain products: in bfloat16, on a CPU and for short rows several times faster than the flash kernel, whose backward
    pass is slow there. Gradients of a shared prompt are summed in float32.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, pack: Pack) -> Tensor:
        kv, out, kept = k.shape[1], [], []
        for part in pack.parts:
            asking, asked = _asking(q, part, kv), _asked(k, part)
            bias = part.bias.expand(len(asked), *part.bias.shape[1:])
            scores = torch.baddbmm(bias, asking, asked.transpose(1, 2), alpha=q.shape[2] ** -0.5)
            weights = torch.softmax(scores, -1, dtype=torch.float32).to(
                q.dtype
            )  # in bfloat16 it takes three times as long
            out.append(_answered(torch.bmm(weights, _asked(v, part)), part, kv))
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.pack = pack
        return _back(out, pack)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        kv, d, pack = k.shape[1], q.shape[2], ctx.pack
        sums = [torch.zeros(pack.shared + 1, kv, d) for _ in range(2)]  # of prompts; the last is the padding's
        own: list[list[Tensor]] = [[], [], []]
        for part, weights in zip(pack.parts, kept, strict=True):
            (b, t), s = part.own.shape, part.seen.shape[1]
            said = _asking(g, part, kv)
            turned = torch.bmm(said, _asked(v, part).transpose(1, 2))
            turned = torch._softmax_backward_data(turned, weights, -1, weights.dtype)
            own[0].append(_answered(torch.bmm(turned, _asked(k, part)).mul_(d**-0.5), part, kv))
            of_k = torch.bmm(turned.transpose(1, 2), _asking(q, part, kv)).mul_(d**-0.5)
            for mine, total, x in zip(own[1:], sums, (of_k, torch.bmm(weights.transpose(1, 2), said)), strict=True):
                x = x.view(b, kv, s, d).transpose(1, 2)
                mine.append(x[:, s - t :].reshape(b * t, kv, d))
                if s > t:
                    places = part.seen[:, : s - t].clamp(max=pack.shared).flatten()
                    total.index_add_(0, places, x[:, : s - t].reshape(-1, kv, d).float())
        of_q, of_k, of_v = (_back(x, pack) for x in own)
        for whole, total in zip((of_k, of_v), sums, strict=True):
            whole[: pack.shared] += total[: pack.shared].to(whole.dtype)
        return of_q, of_k, of_v, None
