"""Rows without padding, and a prompt that several rows begin with computed once: what the learner computes on a CPU.

All tokens of a micro-batch stand after each other, N of them, so that neither the products nor what lies between them see
padding. Rows attend in parts of like length; there alone they are padded. The last of the N are dummies that nothing reads;
padding points to the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LONGEST = 512  # tokens of a row; beyond it torch's flash kernel is better than plain products
TOGETHER = 512  # tokens that attend together, or one row


def rounded(n: int, bits: int) -> int:
    """The next number from n on whose binary digits behind the first `bits` are zero, and that is a multiple of 8.

    oneDNN compiles a product for its shape, which takes about as long as a small product, and keeps the last shapes.
    """
    step = max(8, 1 << max(0, (n - 1).bit_length() - bits))
    return -(-n // step) * step


@dataclass(frozen=True, slots=True)
class Part:
    """B rows of T tokens that attend together, to S: their prompt, where it stands elsewhere, and what they said before."""

    asking: tuple[int, int]  # B kv_heads, group T: the heads that share a key are rows of one product
    asked: tuple[int, int]  # B kv_heads, S
    bias: Tensor  # (B kv_heads or 1, group T, S) 0 or -inf, as `Attend` has its weights


@dataclass(frozen=True, slots=True)
class Pack:
    """A micro-batch, laid out: prompts that are shared first, then of each row what is its own, then dummies.

    Heads of tokens are gathered for all parts at once, A of those that ask and S of those that are asked.
    """

    ids: Tensor  # (N,)
    places: Tensor  # (N,) within the row
    at: Tensor  # (B, T) where each token of the padded rows stands, the first dummy behind their ends
    dummy: int  # where it stands
    parts: list[Part]
    ask: Tensor  # (A,) among N heads
    see: Tensor  # (S,) among N kv_heads
    said: Tensor  # (N heads,) where each stands among A; A of a dummy
    own: Tensor  # (N kv_heads,) where each stands among S in its own row; S of a dummy
    before: Tensor  # where among S prompts stand that stand elsewhere too
    whose: Tensor  # and where that is, among shared kv_heads
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


def _numbers(firsts: Sequence[int], many: Sequence[int], width: int, dummy: int) -> np.ndarray:
    """(B, width): first, first + 1, ..., so many of each, then the dummy's."""
    along = np.arange(width)[None]
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
    whole = rounded(n + 1, 4)
    parts: list[Part] = []
    asks: list[np.ndarray] = []
    sees: list[np.ndarray] = []
    mine: list[np.ndarray] = []  # whether each of `sees` is in its own row
    for elsewhere in (False, True):  # the prompt
        waiting = sorted((s for s in spans if (s.before > 0) == elsewhere), key=lambda s: -s.many)
        while waiting:
            t = rounded(waiting[0].many, 3)
            b = max(1, TOGETHER // t)
            rows_of, waiting = waiting[:b], waiting[b:]
            p = rounded(max(s.before for s in rows_of), 3) if elsewhere else 0
            rows_of += [_Span(n, 0)] * (b - len(rows_of))
            own = _numbers([s.first for s in rows_of], [s.many for s in rows_of], t, n)
            before = _numbers([s.prompt for s in rows_of], [s.before for s in rows_of], p, n)
            bias = torch.full((t, p + t), float("-inf"), dtype=dtype).triu(1 + p).repeat(1, heads // kv, 1)
            if p:
                bias = bias.repeat(b * kv, 1, 1)
                padded = torch.from_numpy(before == n).repeat_interleave(kv, 0)
                bias[:, :, :p].masked_fill_(padded[:, None], float("-inf"))
            parts.append(Part((b * kv, heads // kv * t), (b * kv, p + t), bias))
            seen = np.concatenate((before, own), 1)[:, None] * kv + np.arange(kv)[:, None]  # (B, kv_heads, S)
            asks.append((own[:, None] * heads + np.arange(heads)[:, None]).ravel())  # (B, heads, T)
            sees.append(seen.ravel())
            mine.append(np.broadcast_to(np.arange(p + t) >= p, seen.shape).ravel())
    ask, see, is_own = np.concatenate(asks), np.concatenate(sees), np.concatenate(mine)
    others = np.flatnonzero(~is_own & (see < n * kv))
    at_end = np.zeros(whole - n, dtype=np.int64)
    turn = torch.from_numpy
    return Pack(
        ids=turn(np.concatenate((*ids, at_end))), places=turn(np.concatenate((*places, at_end))), at=turn(at), dummy=n,
        parts=parts, ask=turn(ask), see=turn(see),
        said=turn(_stands(ask, np.arange(len(ask)), n * heads, whole * heads)),
        own=turn(_stands(see, np.flatnonzero(is_own), n * kv, whole * kv)),
        before=turn(others), whose=turn(see[others]), shared=shared,
    )  # fmt: skip


def _stands(which: np.ndarray, places: np.ndarray, real: int, n: int) -> np.ndarray:
    """(n,): at which of the places in `which` each of the numbers below `real` stands; of the others its end."""
    out = np.full(n, len(which))
    out[which[places]] = places
    out[real:] = len(which)
    return out


def _gathered(x: Tensor, which: Tensor) -> Tensor:
    """(N, heads, D) -> (which, D)."""
    return x.reshape(-1, x.shape[2]).index_select(0, which)


def _back(x: Tensor, which: Tensor, heads: int) -> Tensor:
    """(A, D) -> (N, heads, D)."""
    return x.index_select(0, which).view(-1, heads, x.shape[1])


def _room(n: int, like: Tensor) -> Tensor:
    """(n + 1, D), of which the last row is 0 and the others are not set."""
    out = like.new_empty(n + 1, like.shape[2])
    out[n] = 0
    return out


class Attend(torch.autograd.Function):
    """q (N, heads, D), k and v (N, kv_heads, D) -> (N, heads, D): rows attend to their prompt and to what they said before.

    Plain products: in bfloat16, on a CPU and for short rows several times faster than the flash kernel, whose backward
    pass is slow there. Gradients of a shared prompt are summed in float32.
    """

    @staticmethod
    def _each(pack: Pack, asking: list[Tensor], asked: list[Tensor]) -> Iterator[list[Tensor]]:
        """Of each part, the tensors as it has them: (B kv_heads, group T, D), and then (B kv_heads, S, D)."""
        a = s = 0
        for part in pack.parts:
            (b, t), (_, n) = part.asking, part.asked
            yield [
                *(x[a : a + b * t].view(b, t, -1) for x in asking),
                *(x[s : s + b * n].view(b, n, -1) for x in asked),
            ]
            a, s = a + b * t, s + b * n

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, pack: Pack) -> Tensor:
        kept, out = [], _room(len(pack.ask), q)
        tensors = [_gathered(q, pack.ask), out], [_gathered(x, pack.see) for x in (k, v)]
        for part, (asking, answer, keys, values) in zip(pack.parts, Attend._each(pack, *tensors), strict=True):
            bias = part.bias.expand(len(keys), *part.bias.shape[1:])
            scores = torch.baddbmm(bias, asking, keys.transpose(1, 2), alpha=q.shape[2] ** -0.5)
            weights = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype)  # in bfloat16 three times as slow
            torch.bmm(weights, values, out=answer)
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.pack = pack
        return _back(out, pack.said, q.shape[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        pack, kv = ctx.pack, k.shape[1]
        of_q, of_k, of_v = _room(len(pack.ask), q), _room(len(pack.see), k), _room(len(pack.see), v)
        asking = [*(_gathered(x, pack.ask) for x in (g, q)), of_q]
        asked = [*(_gathered(x, pack.see) for x in (k, v)), of_k, of_v]
        for weights, mine in zip(kept, Attend._each(pack, asking, asked), strict=True):
            said, asks, to_q, keys, values, to_k, to_v = mine
            turned = torch.bmm(said, values.transpose(1, 2))
            turned = torch._softmax_backward_data(turned, weights, -1, weights.dtype)
            torch.bmm(turned, keys, out=to_q)
            torch.bmm(turned.transpose(1, 2), asks, out=to_k)
            torch.bmm(weights.transpose(1, 2), said, out=to_v)
        for x in (of_q, of_k):
            x.mul_(q.shape[2] ** -0.5)
        grads = [_back(x, pack.own, kv) for x in (of_k, of_v)]
        for whole, x in zip(grads, (of_k, of_v), strict=True):
            total = torch.zeros(pack.shared * kv, x.shape[1])
            total.index_add_(0, pack.whose, x.index_select(0, pack.before).float())
            whole[: pack.shared] += total.view(pack.shared, kv, x.shape[1]).to(whole.dtype)
        return _back(of_q, pack.said, q.shape[1]), grads[0], grads[1], None
