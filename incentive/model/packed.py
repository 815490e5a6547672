"""Rows without padding, and a prompt that several rows begin with computed once: what the learner computes on a CPU.

All tokens of a micro-batch stand after each other, N of them, so that neither the products nor what lies between them see
padding. The last of the N are dummies that nothing reads; padding points to the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from incentive.model.fused import array
from incentive.threads import pool, small

if TYPE_CHECKING:
    from incentive.model.lean import Lean
    from incentive.model.passes import Gradients, Weights

MATRICES = ("qkv", "o", "gate_up", "down")


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


def lay(model: Lean) -> Weights | None:
    """A small model's weights as they are now, for `Through`; None where it does not fit into whole vectors, or has biases or
    norms of heads, and takes the way of the large ones."""
    from incentive.model import passes
    from incentive.model.vectors import W, columns

    c, kind = model.config, model.dtype
    uneven = any(n % W for n in (c.hidden_size, c.intermediate_size, model.head_dim, c.vocab_size))
    if uneven or model.bias or model.qk_norm or not small(model):
        return None
    blocks = list(model.blocks)
    stack = lambda name: torch.stack([b[name].detach() for b in blocks])  # noqa: E731
    norm1, norm2 = torch.cat((stack("norm1"), model.final_norm.detach()[None])), stack("norm2")
    found = {"embed": array(model.embed.detach().to(kind))}
    found |= {name: (w + 1 if model.gemma else w).numpy() for name, w in (("norm1", norm1), ("norm2", norm2))}
    for name in (*MATRICES, "head"):
        matrix = (model.unembed.detach() if name == "head" else stack(name)).to(kind)
        for to, x in ((name, matrix), (f"{name}_back", matrix.mT)):
            laid = columns(x).numpy()
            found[to] = laid.view(np.uint32) if laid.dtype == np.int32 else laid
    return passes.Weights(scale=np.float32(c.hidden_size**0.5 if model.gemma else 1), **found)


def _own_gradients(model: Lean, reads: bool) -> Gradients:
    """Where a pass adds the gradients of the model's parameters: each parameter's `grad` is made a part of it.

    Args:
        reads: whether the head is used.
    """
    from incentive.model import passes

    blocks = list(model.blocks)
    of = {name: [b[name] for b in blocks] for name in ("norm1", "norm2", *MATRICES)}
    of["norm1"].append(model.final_norm)
    of |= {"embed": [model.embed]} | ({"head": [model.head]} if reads and model.head is not None else {})
    found = {}
    for name, parameters in of.items():
        if name not in model.summed:
            model.summed[name] = torch.zeros(len(parameters), *parameters[0].shape)
        found[name] = model.summed[name].numpy()
        for p, part in zip(parameters, model.summed[name], strict=True):
            if p.grad is None:
                part.zero_()
            elif p.grad.data_ptr() != part.data_ptr():
                part.copy_(p.grad)
            p.grad = part
    return passes.Gradients(**found | {"embed": found["embed"][0], "head": found.get("head", found["embed"])[0]})


def _forward(ctx: Any, model: Lean, weights: Weights, pack: Pack) -> np.ndarray:
    """Hidden states (N, H); what a backward pass needs besides their gradient is held where there is to be one."""
    from incentive.model import passes

    n, h, layers, heads = len(pack.ids), model.config.hidden_size, model.layers, (model.heads, model.kv_heads)
    learns = ctx.needs_input_grad[0]
    some, sums = (layers, 2 * layers + 1) if learns else (1, 2)
    kind, f, wide = weights.embed.dtype, np.float32, (model.heads + 2 * model.kv_heads) * model.head_dim
    kept = passes.Kept(
        np.empty((sums, n, h), kind), np.empty((sums, n), f), np.empty((some, n, wide), kind),
        np.zeros((some, n, model.heads * model.head_dim), kind), np.empty((some, n, model.heads), f),
        np.empty((some, n, 2 * model.config.intermediate_size), kind),
    )  # fmt: skip
    cos, sin = (x[:, 0].numpy() for x in model.rope(pack.places))
    given, hidden = (pack.ids.numpy(), cos, sin, *heads), np.empty((n, h), kind)
    spans = np.concatenate(pack.spans)
    passes.forward(*given, np.float32(model.eps), model.gemma, weights, spans, kept, hidden)
    ctx.model, ctx.held = model, (*given, model.gemma, weights, spans, pack.shared, kept) if learns else None
    return hidden


def _backward(ctx: Any, g_hidden: np.ndarray, grads: Gradients) -> None:
    from incentive.model import passes

    passes.backward(*ctx.held, g_hidden, grads)
    ctx.held = None


class Through(torch.autograd.Function):
    """Last hidden states (N, H) of a small model's pack. Gradients of its parameters are added to their `grad` at once, in
    float32; the first argument, any of them, only tells torch that there are some."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, model: Lean, weights: Weights, pack: Pack) -> Tensor:
        return torch.from_numpy(_forward(ctx, model, weights, pack)).view(model.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, ...]:
        _backward(ctx, array(g.contiguous()), _own_gradients(ctx.model, reads=False))
        return (None,) * 4


class Told(torch.autograd.Function):
    """What a small model says of ids (M,) after the tokens of a pack that stand at places (M,): log-probability and entropy
    (M,), float32. No entropy's gradient; else as `Through`."""

    @staticmethod
    def forward(
        ctx: Any,
        _: Tensor,
        model: Lean,
        weights: Weights,
        pack: Pack,
        places: Tensor,
        ids: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        from incentive.model import passes

        hidden = _forward(ctx, model, weights, pack)
        asked = hidden, places.numpy(), ids.numpy(), np.float32(1 / temperature), weights
        logp, norm, entropy = (torch.empty(len(ids)) for _ in range(3))
        passes.read(*asked, logp.numpy(), norm.numpy(), entropy.numpy())
        ctx.asked, ctx.norm = asked, norm
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[None, ...]:
        from incentive.model import passes

        grads, hidden = _own_gradients(ctx.model, reads=True), ctx.asked[0]
        g_hidden = np.zeros(hidden.shape, np.float32)
        passes.read_back(*ctx.asked, ctx.norm.numpy(), g.contiguous().numpy(), g_hidden, grads.head)
        _backward(ctx, g_hidden, grads)
        return (None,) * 7
