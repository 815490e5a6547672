"""Attention of rows that stand after each other without padding, forward and backward, on a CPU (`model.packed`).

A block of a row's queries, with the heads that share a key, meets all keys that it may see, by `vectors.multiply`; nothing
larger than that block's scores is held, and what the backward pass needs of them is computed again from their sums
(Dao et al. 2022). In float32 everything is; of bfloat16 the products take their factors in that precision, as flash kernels
do, and all sums, scores and gradients of keys and values are float32. N tokens, D head size.
"""

from __future__ import annotations

import numpy as np

from incentive.model.vectors import (
    W,
    as_pairs,
    compiled,
    exponentials,
    greatest,
    multiply,
    paired,
    scaled,
    softmax_back,
    turned,
)

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_BLOCK = 32  # queries of a head at a time


@compiled
def _columns(rows, n, d, out):
    """(n, D or more) -> (n / W, D, W), both of pairs or not: see `vectors.columns`. Behind the last of n all is as it was."""
    for t in range(n):
        to, at = out[t // W], t % W
        for i in range(d):
            to[i, at] = rows[t, i]


@compiled
def _by_two(rows, n, d, each, out):
    """Two rows of (n, d) after each other as one of pairs (n / 2, d), or where `each` is 1 as they are."""
    for r in range(0, n, 2):
        paired(rows[r], rows.shape[1], d, out, r // each * rows.shape[1])


@compiled
def _load(qkv, cos, sin, first, many, at_key, at_value, keys, values, row):
    """Keys, turned, and values of a span's tokens, into the rows from `row` on."""
    half = cos.shape[1]
    for t in range(many):
        n = first + t
        turned(qkv[n], at_key, half, cos[n], sin[n], _ONE, _ONE, keys[row + t], 0)
        scaled(qkv[n], at_value, 2 * half, _ONE, values[row + t], 0)


@compiled
def _seen(qkv, cos, sin, span, at_key, at_value, keys, values, by_key):
    """All that a span's last token sees: its prompt's keys and values and its own, and the keys by columns; how many."""
    first, many, begin, before = span
    _load(qkv, cos, sin, begin, before, at_key, at_value, keys, values, 0)
    _load(qkv, cos, sin, first, many, at_key, at_value, keys, values, before)
    _columns(as_pairs(keys), before + many, len(by_key[0]), by_key)
    return before + many


@compiled
def _asking(qkv, cos, sin, first, rows, group, head, scale, q):
    """Queries of the tokens from `first` on, turned and scaled: row r is that of a token's head `head` + r % group."""
    half = cos.shape[1]
    for r in range(rows):
        n, at = first + r // group, (head + r % group) * 2 * half
        turned(qkv[n], at, half, cos[n], sin[n], _ONE, scale, q[r], 0)


@compiled
def _room(spans, d, group):
    """The keys that the longest span sees and the size of a head, both in whole vectors, and the rows of a block."""
    most = 0
    for i in range(len(spans)):
        most = max(most, spans[i, 1] + spans[i, 3])
    return (most + W - 1) // W * W, (d + W - 1) // W * W, _BLOCK * group


@compiled
def _add(rows, first, many, out, at, kv):
    """Add `many` rows (..., d) from `first` on to those of a key head (..., kv_heads, d) from `at` on."""
    for t in range(many):
        for k in range(rows.shape[1]):
            out[at + t, kv, k] += rows[first + t, k]


@compiled
def forward(qkv, cos, sin, heads, kv_heads, norm, out, spans, kvs):
    """What each token of the spans draws from those before it.

    Args:
        qkv: (N, (heads + 2 kv_heads) D), not turned.
        cos, sin: (N, D/2).
        norm: (N, heads) float32, written: the logarithm of the sum of a query's exponentials.
        out: (N, heads D), written.
        spans: (n, 4) int64: where a row's own tokens begin and how many they are, and the same of the prompt before them.
        kvs: the key heads that this call is for, as (first, end).
    """
    half = cos.shape[1]
    d, group = 2 * half, heads // kv_heads
    scale = _ONE / np.sqrt(np.float32(d))
    most, wide, height = _room(spans, d, group)
    f, kind, pair = np.float32, qkv.dtype, as_pairs(qkv).dtype
    keys, values = np.zeros((most, wide), kind), np.zeros((most, wide), kind)
    each = as_pairs(keys).itemsize // keys.itemsize
    by_key, by_value = np.zeros((most // W, d // each, W), pair), np.zeros(most // each * wide, pair)
    scores, weights = np.zeros((height, most), f), np.zeros((height, most), kind)
    q, o, parts = np.zeros((height, wide), kind), np.zeros((height, wide), f), np.zeros(height, f)
    for i in range(len(spans)):
        first, many, begin, before = spans[i]
        for kv in range(kvs[0], kvs[1]):
            at_key, at_value = (heads + kv) * d, (heads + kv_heads + kv) * d
            full = _seen(qkv, cos, sin, (first, many, begin, before), at_key, at_value, keys, values, by_key)
            _by_two(values, full, wide, each, by_value)
            for t in range(0, many, _BLOCK):
                tokens = min(_BLOCK, many - t)
                seen, rows = (before + t + tokens + each - 1) // each * each, tokens * group
                _asking(qkv, cos, sin, first + t, rows, group, kv * group, scale, q)
                k, vectors = d // each, (seen + W - 1) // W
                multiply(q, wide // each, 1, rows, by_key, W, k * W, vectors, k, scores, most, 0)
                for r in range(rows):
                    row, some = scores[r], before + t + r // group + 1
                    top = greatest(row, some)
                    total = exponentials(row, some, top, _ONE, weights[r])
                    weights[r, some:seen] = 0
                    parts[r] = _ONE / total
                    norm[first + t + r // group, kv * group + r % group] = top + np.log(total)
                multiply(weights, most // each, 1, rows, by_value, wide, W, wide // W, seen // each, o, wide, 0)
                for r in range(rows):
                    scaled(o[r], 0, d, parts[r], out[first + t + r // group], (kv * group + r % group) * d)


@compiled
def backward(qkv, cos, sin, heads, kv_heads, norm, shared, g_out, g_qkv, spans, kvs):
    """The gradient of qkv, written, from that of what was drawn. Arrays as in `forward`.

    Args:
        shared: tokens before this number are prompts, whose keys' gradients are summed over the rows that see them; all
            of those rows are among the spans.
    """
    half = cos.shape[1]
    d, group = 2 * half, heads // kv_heads
    scale = _ONE / np.sqrt(np.float32(d))
    most, wide, height = _room(spans, d, group)
    low = high = 0
    for i in range(len(spans)):
        if spans[i, 0] < shared:
            low = spans[i, 0] if high == 0 else min(low, spans[i, 0])
            high = max(high, spans[i, 0] + spans[i, 1])
    f, kind, pair = np.float32, qkv.dtype, as_pairs(qkv).dtype
    of_keys, of_values = np.zeros((high - low, kv_heads, wide), f), np.zeros((high - low, kv_heads, wide), f)
    keys, values = np.zeros((most, wide), kind), np.zeros((most, wide), kind)
    g_keys, g_values = np.zeros((most, wide), f), np.zeros((most, wide), f)
    each = as_pairs(keys).itemsize // keys.itemsize
    by_key, by_value = np.zeros((most // W, d // each, W), pair), np.zeros((most // W, d // each, W), pair)
    weights, turns, g_q = np.zeros((height, most), f), np.zeros((height, most), f), np.zeros((height, wide), f)
    q, g, turns_by_row = np.zeros((height, wide), kind), np.zeros((height, wide), kind), np.zeros((height, most), kind)
    # the same by pairs of what is summed: keys, and of queries those of a key head and what comes of them
    key_pairs, q_pairs, g_pairs = np.zeros(most // each * wide, pair), np.zeros(height // each * wide, pair), np.zeros(height // each * wide, pair)  # fmt: skip
    weight_pairs, turn_pairs = np.zeros(height // each * most, pair), np.zeros(height // each * most, pair)
    for i in range(len(spans)):
        first, many, begin, before = spans[i]
        for kv in range(kvs[0], kvs[1]):
            at_key, at_value = (heads + kv) * d, (heads + kv_heads + kv) * d
            full = _seen(qkv, cos, sin, (first, many, begin, before), at_key, at_value, keys, values, by_key)
            _columns(as_pairs(values), full, d // each, by_value)
            _by_two(keys, full, wide, each, key_pairs)
            g_keys[:full] = _ZERO
            g_values[:full] = _ZERO
            for t in range(0, many, _BLOCK):
                tokens = min(_BLOCK, many - t)
                seen, rows = (before + t + tokens + each - 1) // each * each, tokens * group
                _asking(qkv, cos, sin, first + t, rows, group, kv * group, scale, q)
                for r in range(rows):
                    scaled(g_out[first + t + r // group], (kv * group + r % group) * d, d, _ONE, g[r], 0)
                vectors, k = (seen + W - 1) // W, d // each
                multiply(q, wide // each, 1, rows, by_key, W, k * W, vectors, k, weights, most, 0)
                multiply(g, wide // each, 1, rows, by_value, W, k * W, vectors, k, turns, most, 0)
                for r in range(rows):
                    row, some = weights[r], before + t + r // group + 1
                    exponentials(row, some, norm[first + t + r // group, kv * group + r % group], _ONE, row)
                    softmax_back(row, some, turns[r])
                    row[some:seen] = _ZERO
                    turns[r, some:seen] = _ZERO
                    scaled(turns[r], 0, seen, _ONE, turns_by_row[r], 0)
                if rows % each:
                    weights[rows, :seen] = _ZERO
                    turns[rows, :seen] = _ZERO
                    rows += 1
                for x, x_pairs in ((q, q_pairs), (g, g_pairs)):
                    _by_two(x, rows, wide, each, x_pairs)
                for x, x_pairs in ((weights, weight_pairs), (turns, turn_pairs)):
                    _by_two(x, rows, seen, each, x_pairs)
                multiply(turns_by_row, most // each, 1, rows, key_pairs, wide, W, wide // W, seen // each, g_q, wide, 0)
                multiply(turn_pairs, 1, most, seen, q_pairs, wide, W, wide // W, rows // each, g_keys, wide, 1)
                multiply(weight_pairs, 1, most, seen, g_pairs, wide, W, wide // W, rows // each, g_values, wide, 1)
                for r in range(tokens * group):
                    n, at = first + t + r // group, (kv * group + r % group) * d
                    turned(g_q[r], 0, half, cos[n], sin[n], -_ONE, scale, g_qkv[n], at)
            _add(g_keys, 0, before, of_keys, begin - low, kv)
            _add(g_values, 0, before, of_values, begin - low, kv)
            if first < shared:
                _add(g_keys, before, many, of_keys, first - low, kv)
                _add(g_values, before, many, of_values, first - low, kv)
                continue
            for t in range(many):
                n, row = first + t, before + t
                turned(g_keys[row], 0, half, cos[n], sin[n], -_ONE, _ONE, g_qkv[n], at_key)
                scaled(g_values[row], 0, d, _ONE, g_qkv[n], at_value)
    for n in range(low, high):
        for kv in range(kvs[0], kvs[1]):
            turned(of_keys[n - low, kv], 0, half, cos[n], sin[n], -_ONE, _ONE, g_qkv[n], (heads + kv) * d)
            scaled(of_values[n - low, kv], 0, d, _ONE, g_qkv[n], (heads + kv_heads + kv) * d)


def warm() -> None:
    """Compile everything now: see `kernels.warm`."""
    t, spans, norm = np.ones((2, 1), np.float32), np.array([[0, 1, 0, 0], [1, 1, 0, 1]]), np.ones((2, 1), np.float32)
    for kind in (np.float32, np.uint16):
        qkv, out = np.ones((2, 6), kind), np.ones((2, 2), kind)
        forward(qkv, t, t, 1, 1, norm, out.copy(), spans, (0, 1))
        backward(qkv, t, t, 1, 1, norm, 1, out, qkv.copy(), spans, (0, 1))
