"""A small model's forward and backward pass on a CPU, each one compiled call on one thread: what the learner does with packed rows
(`model.packed`).

Between two attentions every row is on its own, and a few rows at a time go through all that lies there, so that what they
leave is still in the cache when it is read. Kept for the backward pass are the sums, queries, keys and values, what attention
drew, and the gate's two halves; norms and the gate's product are computed again. The gradient of the sums is float32, and so
are those of the weights.

N tokens, L layers, H hidden size, D head size, I inner size, V vocabulary. Matrices are as `vectors.columns` has them. Where
activations are bfloat16 (the bits of uint16), matrices hold pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from incentive.memory import BLOCK
from incentive.model import attention
from incentive.model.kernels import gate, gate_backward, times, token_logp, token_logp_backward
from incentive.model.vectors import (
    W,
    added,
    compiled,
    multiply,
    paired,
    scaled,
    summed_norm,
    summed_norm_back,
    weighted,
)

_ONE = np.float32(1.0)

attend, attend_back = attention.forward, attention.backward


class Weights(NamedTuple):
    """A model's. `back` is for the gradient of a product's input."""

    embed: np.ndarray  # (V, H), in the precision of activations
    scale: np.float32  # of embedded tokens
    norm1: np.ndarray  # (L + 1, H) float32, the last is the final norm
    norm2: np.ndarray  # (L, H)
    qkv: np.ndarray  # (L, ...)
    o: np.ndarray
    gate_up: np.ndarray
    down: np.ndarray
    head: np.ndarray
    qkv_back: np.ndarray
    o_back: np.ndarray
    gate_up_back: np.ndarray
    down_back: np.ndarray
    head_back: np.ndarray


class Gradients(NamedTuple):
    """Of the weights, float32; a pass adds to them."""

    embed: np.ndarray  # (V, H)
    norm1: np.ndarray  # (L + 1, H)
    norm2: np.ndarray  # (L, H)
    qkv: np.ndarray  # (L, (heads + 2 kv_heads) D, H)
    o: np.ndarray  # (L, H, heads D)
    gate_up: np.ndarray  # (L, 2 I, H)
    down: np.ndarray  # (L, H, I)
    head: np.ndarray  # (V, H), `embed` where they are one


class Kept(NamedTuple):
    """What a forward pass leaves. Where there is no backward pass one layer and two sums do for all."""

    sums: np.ndarray  # (2 L + 1, N, H): tokens, then after each attention and each feed-forward part
    scales: np.ndarray  # (2 L + 1, N) float32, 1 / rms
    qkv: np.ndarray  # (L, N, (heads + 2 kv_heads) D)
    mixed: np.ndarray  # (L, N, heads D), zero for tokens that no span has
    norms: np.ndarray  # (L, N, heads) float32: see `attention.forward`
    both: np.ndarray  # (L, N, 2 I)


@compiled
def _norm(kept, i, y, weight, eps, j, begin, end, out, at):
    """Sum j = sum i + y of the tokens from `begin` to `end`, and its norm into the rows of `out` from `at` on."""
    before, sums, scales = kept.sums[i % len(kept.sums)], kept.sums[j % len(kept.sums)], kept.scales[j % len(kept.sums)]
    for t in range(begin, end):
        r = t - begin
        scales[t] = summed_norm(before[t], y[r], weight, len(weight), eps, sums[t], out[at + r])


@compiled
def forward(ids, cos, sin, heads, kv_heads, eps, gelu, w, spans, kept, hidden):
    """Last hidden states (N, H), normed, into `hidden`.

    Args:
        ids: (N,) int64.
        cos, sin: (N, D/2) float32.
        spans: see `attention.forward`.
    """
    n, h, layers, many = len(ids), w.embed.shape[1], len(w.norm2), len(kept.qkv)
    normed, out = np.empty((BLOCK, h), w.embed.dtype), np.zeros((BLOCK, h), np.float32)
    acted = np.empty((BLOCK, kept.both.shape[2] // 2), w.embed.dtype)
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        for t in range(begin, end):
            scaled(w.embed[ids[t]], 0, h, w.scale, kept.sums[0, t], 0)
        _norm(kept, 0, out, w.norm1[0], eps, 0, begin, end, normed, 0)
        times(normed, w.qkv[0], kept.qkv[0, begin:end], end - begin)
    for layer in range(layers):
        this, i = layer % many, 2 * layer
        attend(kept.qkv[this], cos, sin, heads, kv_heads, kept.norms[this], kept.mixed[this], spans, (0, kv_heads))
        for begin in range(0, n, BLOCK):
            end = min(begin + BLOCK, n)
            rows, both = end - begin, kept.both[this, begin:end]
            times(kept.mixed[this, begin:end], w.o[layer], out, rows)
            _norm(kept, i, out, w.norm2[layer], eps, i + 1, begin, end, normed, 0)
            times(normed, w.gate_up[layer], both, rows)
            gate(both, gelu, acted[:rows])
            times(acted, w.down[layer], out, rows)
            if layer + 1 < layers:
                _norm(kept, i + 1, out, w.norm1[layer + 1], eps, i + 2, begin, end, normed, 0)
                times(normed, w.qkv[layer + 1], kept.qkv[(layer + 1) % many, begin:end], rows)
            else:
                _norm(kept, i + 1, out, w.norm1[layers], eps, i + 2, begin, end, hidden, begin)


@compiled
def _times_back(x, g, back, rows, g_x, g_w, x_pairs, g_pairs):
    """From the gradient g (rows, N) of x (rows, K) times a matrix: that of x, written, and of the matrix (N, K), added."""
    n, k, each = g.shape[1], x.shape[1], x_pairs.itemsize // x.itemsize
    times(g, back, g_x, rows)
    for r in range(0, rows, 2):
        paired(x[r], k, k, x_pairs, r * k // each)
        paired(g[r], n, n, g_pairs, r * n // each)
    multiply(g_pairs, 1, n, n, x_pairs, k, W, k // W, rows // each, g_w, k, 1)


@compiled
def _norm_back(kept, i, weight, g_normed, begin, end, g, g_w):
    """Add to the gradient g (N, H) of sum i what comes through its norm; g_normed is of the rows from `begin` on."""
    for t in range(begin, end):
        summed_norm_back(kept.sums[i, t], weight, len(weight), kept.scales[i, t], g[t], g_normed[t - begin], g[t], g_w)


@compiled
def _normed(kept, i, weight, begin, end, out):
    """The norm of sum i, once more."""
    sums, scales = kept.sums[i], kept.scales[i]
    for t in range(begin, end):
        weighted(sums[t], weight, len(weight), scales[t], out[t - begin])


@compiled
def backward(ids, cos, sin, heads, kv_heads, gelu, w, spans, shared, kept, g_hidden, grads):
    """Gradients of the weights, added to `grads`, from that of the last hidden states (N, H), of any precision.

    Args:
        ids, cos, sin, spans: as in `forward`; N is even.
        shared: see `attention.backward`.
        kept: of all layers.
    """
    n, h, layers, inner = len(ids), w.embed.shape[1], len(w.norm2), kept.both.shape[2] // 2
    kind, pair, f = w.embed.dtype, w.qkv.dtype, np.float32
    g, g_qkv, g_mixed = np.zeros((n, h), f), np.zeros(kept.qkv.shape[1:], kind), np.empty(kept.mixed.shape[1:], kind)
    normed, acted, g_out = np.empty((BLOCK, h), kind), np.empty((BLOCK, inner), kind), np.empty((BLOCK, h), kind)
    g_acted, g_both = np.empty((BLOCK, inner), kind), np.empty((BLOCK, 2 * inner), kind)
    g_normed = np.empty((BLOCK, h), f)
    widest = BLOCK * max(2 * inner, kept.qkv.shape[2], h)
    a, b = np.empty(widest, pair), np.empty(widest, pair)
    for layer in range(layers, -1, -1):
        i = 2 * layer  # the sum before this layer
        if layer < layers:
            told = kept.norms[layer], shared, g_mixed, g_qkv, spans, (0, kv_heads)
            attend_back(kept.qkv[layer], cos, sin, heads, kv_heads, *told)
        for begin in range(0, n, BLOCK):
            end = min(begin + BLOCK, n)
            rows = end - begin
            if layer < layers:
                _normed(kept, i, w.norm1[layer], begin, end, normed)
                _times_back(normed, g_qkv[begin:end], w.qkv_back[layer], rows, g_normed, grads.qkv[layer], a, b)
                _norm_back(kept, i, w.norm1[layer], g_normed, begin, end, g, grads.norm1[layer])
            else:
                _norm_back(kept, i, w.norm1[layer], g_hidden[begin:end], begin, end, g, grads.norm1[layer])
            if layer == 0:
                continue
            last, both = layer - 1, kept.both[layer - 1, begin:end]
            for r in range(rows):
                scaled(g[begin + r], 0, h, _ONE, g_out[r], 0)
            gate(both, gelu, acted[:rows])
            _times_back(acted, g_out, w.down_back[last], rows, g_acted, grads.down[last], a, b)
            gate_backward(both, gelu, g_acted[:rows], g_both[:rows])
            _normed(kept, i - 1, w.norm2[last], begin, end, normed)
            _times_back(normed, g_both, w.gate_up_back[last], rows, g_normed, grads.gate_up[last], a, b)
            _norm_back(kept, i - 1, w.norm2[last], g_normed, begin, end, g, grads.norm2[last])
            for r in range(rows):
                scaled(g[begin + r], 0, h, _ONE, g_out[r], 0)
            mixed = kept.mixed[last, begin:end]
            _times_back(mixed, g_out, w.o_back[last], rows, g_mixed[begin:end], grads.o[last], a, b)
    for t in range(n):
        row = grads.embed[ids[t]]
        for k in range(h):
            row[k] += g[t, k] * w.scale


@compiled
def _read(hidden, places, begin, rows, head, x, logits):
    """The states (rows, H) at the places from `begin` on, and their logits (rows, V)."""
    for r in range(rows):
        scaled(hidden[places[begin + r]], 0, x.shape[1], _ONE, x[r], 0)
    times(x, head, logits, rows)


@compiled
def read(hidden, places, ids, inverse, w, logp, norm, entropy):
    """What the states at some places say of an id each: see `kernels.token_logp`; logp, norm, entropy (M,) are written.

    Args:
        hidden: (N, H).
        places, ids: (M,) int64; a place may come several times.
    """
    x = np.empty((BLOCK, hidden.shape[1]), hidden.dtype)
    logits = np.empty((BLOCK, len(w.embed)), np.float32)
    for begin in range(0, len(ids), BLOCK):
        end = min(begin + BLOCK, len(ids))
        rows = end - begin
        _read(hidden, places, begin, rows, w.head, x, logits)
        token_logp(logits[:rows], ids[begin:end], inverse, logp[begin:end], norm[begin:end], entropy[begin:end])


@compiled
def read_back(hidden, places, ids, inverse, w, norm, g_logp, g_hidden, g_w):
    """Gradients of the states (N, H) float32 and of the head (V, H), added, from that of the log-probabilities (M,)."""
    h, v, kind = hidden.shape[1], len(w.embed), hidden.dtype
    x, g_x, g = np.zeros((BLOCK, h), kind), np.empty((BLOCK, h), np.float32), np.zeros((BLOCK, v), kind)
    logits, pair = np.empty((BLOCK, v), np.float32), w.head.dtype
    a, b = np.empty(BLOCK * h, pair), np.empty(BLOCK * v, pair)
    for begin in range(0, len(ids), BLOCK):
        end = min(begin + BLOCK, len(ids))
        rows = end - begin
        _read(hidden, places, begin, rows, w.head, x, logits)
        token_logp_backward(logits[:rows], ids[begin:end], inverse, norm[begin:end], g_logp[begin:end])
        for r in range(rows):
            scaled(logits[r], 0, v, _ONE, g[r], 0)
        if rows % 2:  # two rows make one of pairs
            g[rows] = 0
        _times_back(x, g, w.head_back, rows + rows % 2, g_x, g_w, a, b)
        for r in range(rows):
            added(g_x[r], h, g_hidden[places[begin + r]])


def warm() -> None:
    """Compile everything now: see `kernels.warm`."""
    f, one, ids, spans = np.float32, np.float32(1.0), np.zeros(2, np.int64), np.array([[0, 2, 0, 0]])
    turn, n, d = np.ones((2, W // 2), f), 2, W
    for kind, pair in ((np.float32, np.float32), (np.uint16, np.uint32)):
        each = 2 if kind == np.uint16 else 1
        laid = lambda rows, k: np.zeros((1, rows // W, k // each, W), pair)  # noqa: B023, E731
        square, norms = laid(d, d), np.ones((2, d), f)
        weights = Weights(
            np.ones((d, d), kind), one, norms, norms[1:], laid(3 * d, d), square, laid(2 * d, d), square, square[0],
            laid(d, 3 * d), square, laid(d, 2 * d), square, square[0],
        )  # fmt: skip
        grads = Gradients(
            np.zeros((d, d), f), norms.copy(), norms[1:].copy(), np.zeros((1, 3 * d, d), f), np.zeros((1, d, d), f),
            np.zeros((1, 2 * d, d), f), np.zeros((1, d, d), f), np.zeros((d, d), f),
        )  # fmt: skip
        kept = Kept(
            np.zeros((3, n, d), kind), np.zeros((3, n), f), np.zeros((1, n, 3 * d), kind), np.zeros((1, n, d), kind),
            np.zeros((1, n, 1), f), np.zeros((1, n, 2 * d), kind),
        )  # fmt: skip
        hidden, given, told = np.zeros((n, d), kind), (ids, turn, turn, 1, 1), [np.zeros(n, f) for _ in range(3)]
        forward(*given, one, False, weights, spans, kept, hidden)
        read(hidden, ids, ids, one, weights, *told)
        g_hidden = np.zeros((n, d), f)
        read_back(hidden, ids, ids, one, weights, told[1], told[0], g_hidden, grads.head)
        for g in (g_hidden, hidden):
            backward(*given, False, weights, spans, 0, kept, g, grads)
