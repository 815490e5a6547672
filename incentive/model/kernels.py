"""What a model does between its matrix products, on a CPU: one pass over each row where torch needs a dozen; and the whole
decoding step of a small model.

At a million parameters a step of torch operations spends a third of its time in matrix products; batches of tiny ones,
as attention over a cache is, run at a twentieth of the machine's speed, and every elementwise operation is a call and a
pass through memory of its own. These loops are compiled by numba when they are first called (some seconds, kept on
disk), run on the thread that calls, and let go of Python's lock (`incentive.threads`).

B rows, H hidden size, D head size, T slots of the cache, V vocabulary. Arrays are contiguous float32; those of the
learner's part may also be bfloat16 in the bits of uint16, and are computed in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from incentive.model.vectors import (
    W,
    added,
    compiled,
    entropies,
    exponentials,
    gate_gelu,
    gate_gelu_back,
    gate_silu,
    gate_silu_back,
    greatest,
    multiply,
    scaled,
    summed_norm,
    summed_norm_back,
    turned,
)

_LOW, _ZERO, _ONE = np.float32(-64.0), np.float32(0.0), np.float32(1.0)  # e^-64 is nothing beside 1
_AHEAD = 8  # rows whose keys are written before the first of them is read: a number just written is waited for


@compiled
def norm(x, w, eps, out):
    """out = x / rms(x) * w: (B, H), (H,) -> (B, H)."""
    for b in range(x.shape[0]):
        total = np.float32(0.0)
        for i in range(x.shape[1]):
            total += x[b, i] * x[b, i]
        r = _ONE / np.sqrt(total / np.float32(x.shape[1]) + eps)
        for i in range(x.shape[1]):
            out[b, i] = x[b, i] * r * w[i]


@compiled
def add_norm(x, y, w, eps, total, out, scale):
    """total = x + y and out = total / rms(total) w: (B, H), w (H,) float32; scale (B,) = 1 / rms."""
    for b in range(x.shape[0]):
        scale[b] = summed_norm(x[b], y[b], w, x.shape[1], eps, total[b], out[b])


@compiled
def gate(x, gelu, out):
    """out = silu(gate) * up, or gelu by tanh: (B, 2 I) -> (B, I)."""
    n = out.shape[1]
    for b in range(x.shape[0]):
        if gelu:
            gate_gelu(x[b], n, out[b])
        else:
            gate_silu(x[b], n, out[b])


@compiled
def _head_norm(x, w, eps):
    """x = x / rms(x) * w in place: the norm of one head's query or key (Qwen3). (D,)"""
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    r = _ONE / np.sqrt(total / np.float32(x.shape[0]) + eps)
    for i in range(x.shape[0]):
        x[i] = x[i] * r * w[i]


@compiled
def _extend(new, at, keys, values):
    """Write a row's new key and value to place `at` of its cache. Arrays as in `attend`."""
    kv_heads, d = keys.shape[0], keys.shape[2]
    begin = len(new) - 2 * kv_heads * d
    for kv in range(kv_heads):
        own, to = keys[kv, at // W], values[kv, at]
        for i in range(d):
            own[i, at % W] = new[begin + kv * d + i]
        for i in range(d):
            to[i] = new[begin + (kv_heads + kv) * d + i]


@compiled
def attend(qkv, cos, sin, q_norm, k_norm, eps, lengths, keys, values, out, rows, mixed, totals):
    """Turn the new token's query and key, write its key and value, and attend over the row's cache.

    Args:
        qkv: (B, (heads + 2 kv_heads) D), turned in place; rows may be longer.
        cos, sin: (T, D/2).
        q_norm, k_norm: (D,), or (0,) for none.
        lengths: (B,) int64, tokens that the row has in the cache; the new one goes to this place.
        keys: (slots, kv_heads, T/W, D, W), one layer's: `vectors.columns` of its tokens.
        values: (slots, kv_heads, T, D rounded up to W).
        out: (B, heads D).
        rows, mixed, totals: room of (heads/kv_heads, T), (heads/kv_heads, D rounded up to W) and (heads/kv_heads,).
    """
    kv_heads, d, wide = keys.shape[1], keys.shape[3], values.shape[3]
    heads = out.shape[1] // d
    group = heads // kv_heads
    scale = _ONE / np.sqrt(np.float32(d))
    for begin in range(0, out.shape[0], _AHEAD):
        end = min(begin + _AHEAD, out.shape[0])
        for b in range(begin, end):
            at, new = lengths[b], qkv[b, : (heads + 2 * kv_heads) * d]
            if q_norm.shape[0]:
                for h in range(heads + kv_heads):
                    _head_norm(new[h * d : (h + 1) * d], q_norm if h < heads else k_norm, eps)
            for h in range(heads + kv_heads):
                turned(new, h * d, d // 2, cos[at], sin[at], _ONE, _ONE, new, h * d)
            _extend(new, at, keys[b], values[b])
        for b in range(begin, end):
            at, new = lengths[b], qkv[b]
            blocks = at // W + 1
            for kv in range(kv_heads):
                k, v = keys[b, kv], values[b, kv]
                multiply(new[kv * group * d :], d, 1, group, k, W, d * W, blocks, d, rows, rows.shape[1], 0)
                for g in range(group):
                    row = rows[g]
                    totals[g] = exponentials(row, at + 1, greatest(row, at + 1), scale, row)
                multiply(rows, rows.shape[1], 1, group, v, wide, W, wide // W, at + 1, mixed, wide, 0)
                for g in range(group):
                    part, to = _ONE / totals[g], out[b, (kv * group + g) * d : (kv * group + g + 1) * d]
                    for i in range(d):
                        to[i] = mixed[g, i] * part


class Weights(NamedTuple):
    """A model's, in float32: matrices as `vectors.columns` has them, one after the other of all layers (L, ...)."""

    embed: np.ndarray  # (V, H)
    scale: np.float32  # of embedded tokens
    norm1: np.ndarray  # (L, H)
    norm2: np.ndarray
    final_norm: np.ndarray  # (H,)
    q_norm: np.ndarray  # (L, D), or (L, 0)
    k_norm: np.ndarray
    qkv: np.ndarray
    qkv_bias: np.ndarray  # (L, N), or (L, 0)
    o: np.ndarray
    o_bias: np.ndarray
    gate_up: np.ndarray
    down: np.ndarray
    head: np.ndarray


class Room(NamedTuple):
    """Where a step writes what lies between: B rows or more, each width a number of whole vectors."""

    x: np.ndarray  # (B, H)
    normed: np.ndarray
    qkv: np.ndarray
    mixed: np.ndarray  # (B, heads D)
    both: np.ndarray  # (B, 2 I)
    acted: np.ndarray  # (B, I)
    out: np.ndarray  # (B, H)
    logits: np.ndarray  # (B, V)
    scale: np.ndarray  # (B,)


@compiled
def times(a, weights, out, n):
    """The first n rows of `a` times a matrix, as `vectors.columns` has it."""
    k = weights.shape[1]
    multiply(a, k, 1, n, weights, W, k * W, weights.shape[0], k, out, out.shape[1], 0)


@compiled
def _add_bias(x, bias, n):
    for b in range(n):
        for i in range(bias.shape[0]):
            x[b, i] += bias[i]


@compiled
def step(ids, lengths, w, room, eps, gelu, cos, sin, keys, values, rows, mixed, totals):
    """The next token's logits of each row after `ids` (B,), into `room`: a small model's whole step without a call between.

    Args:
        lengths, cos, sin, keys, values, rows, mixed, totals: as `attend` has them; keys and values of all layers (L, ...).
    """
    n, h = len(ids), w.embed.shape[1]
    x, normed, out = room.x[:n], room.normed[:n], room.out[:n]
    for b in range(n):
        for i in range(h):
            x[b, i] = w.embed[ids[b], i] * w.scale
    norm(x, w.norm1[0], eps, normed)
    for layer in range(w.norm1.shape[0]):
        after = w.norm1[layer + 1] if layer + 1 < w.norm1.shape[0] else w.final_norm
        times(normed, w.qkv[layer], room.qkv, n)
        _add_bias(room.qkv, w.qkv_bias[layer], n)
        attend(
            room.qkv, cos, sin, w.q_norm[layer], w.k_norm[layer], eps, lengths, keys[layer], values[layer],
            room.mixed[:n], rows, mixed, totals,
        )  # fmt: skip
        times(room.mixed, w.o[layer], out, n)
        _add_bias(out, w.o_bias[layer], n)
        add_norm(x, out, w.norm2[layer], eps, x, normed, room.scale)
        times(normed, w.gate_up[layer], room.both, n)
        gate(room.both[:n], gelu, room.acted[:n])
        times(room.acted, w.down[layer], out, n)
        add_norm(x, out, after, eps, x, normed, room.scale)
    times(normed, w.head, room.logits, n)


@compiled
def move(keys, values, to, frm, used):
    """Rows `frm` of a cache take the places of the rows `to`, up to `used` tokens. Arrays of all layers, as in `attend`."""
    blocks = (used + W - 1) // W
    for layer in range(keys.shape[0]):
        for i in range(len(to)):
            for kv in range(keys.shape[2]):
                keys[layer, to[i], kv, :blocks] = keys[layer, frm[i], kv, :blocks]
                values[layer, to[i], kv, :used] = values[layer, frm[i], kv, :used]


@compiled
def counter(seeds, t, out):
    """SplitMix64 of (seed, number of a token), (B,) uint64, into `out`: see `engine.base.uniform`."""
    for b in range(len(seeds)):
        z = seeds[b] + (t[b] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[b] = z ^ (z >> np.uint64(31))


@compiled
def write(ids, logp, drawn, stop_ids, limit, count, last, out_ids, out_logp, out_mask, stopped, done):
    """Enter what was drawn into each row, and see which rows end: how many.

    Args:
        ids, logp: (B,) int64 and float32.
        drawn: (B,) bool, whether the token is the policy's.
        limit, count, last: (B,) int64, of a row the most tokens, those written, and the last one.
        out_ids, out_logp, out_mask: (B, T), what a row has written.
        stopped, done: (B,) bool, written: by a stop token; in any way.
    """
    many = 0
    for b in range(len(ids)):
        out_ids[b, count[b]] = last[b] = ids[b]
        out_logp[b, count[b]], out_mask[b, count[b]] = logp[b], drawn[b]
        count[b] += 1
        stopped[b] = False
        for stop in stop_ids:
            if drawn[b] and ids[b] == stop:
                stopped[b] = True
        done[b] = stopped[b] or count[b] >= limit[b]
        many += done[b]
    return many


@compiled
def _nucleus(row, total, top_p):
    """Leave in row the fewest tokens whose mass reaches top_p (the one that crosses it stays in); returns their mass.

    The likeliest are found one by one while there are few, as when a model is sure; else by sorting.
    """
    n, mass, few = row.shape[0], np.float64(0.0), 24
    kept = np.zeros(n, dtype=np.uint8)
    for _ in range(few):
        at, most = 0, np.float32(-1.0)
        for i in range(n):
            if row[i] > most and kept[i] == 0:
                at, most = i, row[i]
        kept[at] = 1
        mass += np.float64(most)
        if mass >= top_p * total:
            break
    if mass < top_p * total:
        mass = np.float64(0.0)
        for at in np.argsort(-row):
            kept[at] = 1
            mass += np.float64(row[at])
            if mass >= top_p * total:
                break
    for i in range(n):
        if kept[i] == 0:
            row[i] = np.float32(0.0)
    return mass


@compiled
def draw(logits, u, temperature, top_p, ids, logp, row):
    """Draw one token a row by inverting the cumulative distribution in vocabulary order.

    Args:
        logits: (B, V).
        u: (B,) float64, uniform in (0, 1).
        temperature: above 0.
        ids, logp: (B,) int64 and float32, written; logp is that of the whole distribution.
    """
    n = logits.shape[1]
    inverse = _ONE / temperature
    for b in range(logits.shape[0]):
        x = logits[b]
        top = greatest(x, n)
        exponentials(x, n, top, inverse, row)
        total = np.float64(0.0)
        for i in range(n):
            if (x[i] - top) * inverse <= _LOW:
                row[i] = np.float32(0.0)
            total += np.float64(row[i])
        left = _nucleus(row[:n], total, top_p) if top_p < 1.0 else total
        want, mass, last = u[b] * left, np.float64(0.0), 0
        for i in range(n):
            mass += np.float64(row[i])
            if row[i] > np.float32(0.0):
                last = i
                if mass > want:
                    break
        ids[b] = last  # rounding may pass over the end: then it is the last token that has some mass
        logp[b] = np.float32(np.float64((x[last] - top) * inverse) - np.log(total))


# the learner's: forward and backward, in the precision of its activations


@compiled
def add_norm_backward(total, w, scale, g_total, g_out, g_x, g_w):
    """Gradients: g_x (B, H) of both summands, and g_w (H,), which is added to."""
    for b in range(total.shape[0]):
        summed_norm_back(total[b], w, len(w), scale[b], g_total[b], g_out[b], g_x[b], g_w)


@compiled
def gate_backward(x, gelu, g, g_x):
    """The gradient (B, 2 I) of gate and up."""
    n = g.shape[1]
    for b in range(x.shape[0]):
        if gelu:
            gate_gelu_back(x[b], n, g[b], g_x[b])
        else:
            gate_silu_back(x[b], n, g[b], g_x[b])


@compiled
def turn(x, heads, cos, sin, sign, out):
    """The first `heads` heads of each row turned by its place, the rest copied: (B T, W) -> the same.

    Args:
        cos, sin: (T, D/2); row n stands at place n % T.
        sign: 1, or -1 to turn back.
    """
    half, end = cos.shape[1], 2 * heads * cos.shape[1]
    for b in range(x.shape[0]):
        c, s = cos[b % cos.shape[0]], sin[b % cos.shape[0]]
        for h in range(heads):
            turned(x[b], 2 * h * half, half, c, s, sign, _ONE, out[b], 2 * h * half)
        scaled(x[b], end, x.shape[1] - end, _ONE, out[b], end)


@compiled
def add(x, out):
    """out += x: (B, H)."""
    for b in range(x.shape[0]):
        added(x[b], x.shape[1], out[b])


@compiled
def token_logp(logits, ids, inverse, logp, norm, entropy):
    """Of each row (V,) of logits, times `inverse`: log softmax at its id, the logarithm of the sum, and the entropy.
    logp, norm, entropy (N,) float32 are written."""
    v, row = logits.shape[1], np.empty(1, np.float32)
    for n in range(logits.shape[0]):
        x = logits[n]
        top = greatest(x, v)
        total, mean = entropies(x, v, top, inverse)
        size = np.log(total)
        scaled(x, ids[n], 1, _ONE, row, 0)
        norm[n] = top * inverse + size
        logp[n] = (row[0] - top) * inverse - size
        entropy[n] = size - mean / total


@compiled
def token_logp_backward(logits, ids, inverse, norm, g):
    """The gradient of the logits, in place of them, from that of logp (N,)."""
    v, row = logits.shape[1], np.empty(logits.shape[1], np.float32)
    for n in range(logits.shape[0]):
        exponentials(logits[n], v, norm[n] / inverse, inverse, row)
        row[ids[n]] -= _ONE
        scaled(row, 0, v, -g[n] * inverse, logits[n], 0)


def warm() -> None:
    """Compile everything now, for every kind of array; kept on disk, so that a first run need not wait."""
    f, one = np.float32, np.float32(1.0)
    x, w, wide, none, t = np.ones((1, 4), f), np.ones(4, f), np.ones((1, 8), f), np.empty(0, f), np.ones((2, 1), f)
    norm(x, w, one, x.copy())
    keys, values, at = np.ones((1, 1, 1, 1, 2, W), f), np.ones((1, 1, 1, W, W), f), np.zeros(1, np.int64)
    room = np.empty((2, W), f), np.empty((2, W), f), np.empty(2, f)
    attend(wide.copy(), t, t, none, none, one, at, keys[0], values[0], x.copy(), *room)
    matrix = lambda k: np.ones((1, 1, k, W), f)  # noqa: E731
    weights = Weights(
        x, one, x, x, w, none[None], none[None], matrix(4), none[None], matrix(4), none[None], matrix(4), matrix(4), matrix(4)[0]
    )  # fmt: skip
    rows = lambda n: np.empty((1, n), f)  # noqa: E731
    between = Room(rows(4), rows(4), rows(W), rows(4), rows(W), rows(4), rows(W), rows(W), np.empty(1, f))
    step(at, at, weights, between, one, False, t, t, keys, values, *room)
    draw(x, np.ones(1) / 2, one, 0.9, np.zeros(1, np.int64), w.copy(), w.copy())
    move(keys, values, at, at, 1)
    counter(at.view(np.uint64), at.view(np.uint64), np.zeros(1, np.uint64))
    flags, some = np.zeros(1, np.bool_), np.ones(1, np.int64)
    write(
        at,
        w[:1],
        flags,
        at,
        some,
        at.copy(),
        at.copy(),
        at[None].copy(),
        w[None].copy(),
        flags[None].copy(),
        flags.copy(),
        flags.copy(),
    )
    for kind in (np.float32, np.uint16):
        y, z, scale = np.ones((1, 4), kind), np.ones((1, 8), kind), np.ones(1, f)
        add_norm(y, y, w, one, y.copy(), y.copy(), scale)
        add_norm_backward(y, w, scale, y, y, y.copy(), w.copy())
        gate(z, False, y.copy())
        gate_backward(z, False, y, z.copy())
        turn(z, 2, t, t, one, z.copy())
        token_logp(y.copy(), np.zeros(1, np.int64), one, np.ones(1, f), np.ones(1, f), np.ones(1, f))
        token_logp_backward(y.copy(), np.zeros(1, np.int64), one, np.ones(1, f), np.ones(1, f))
        add(y, x.copy())
    from incentive.model import attention, passes  # which are made of these

    attention.warm()
    passes.warm()


if __name__ == "__main__":
    from incentive.model import kernels  # as the package knows them: what is kept goes by that name

    kernels.warm()
