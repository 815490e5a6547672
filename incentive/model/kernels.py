"""What a model does between its matrix products, on a CPU: one pass over each row where torch needs a dozen.

At a million parameters a step of torch operations spends a third of its time in matrix products; batches of tiny ones,
as attention over a cache is, run at a twentieth of the machine's speed, and every elementwise operation is a call and a
pass through memory of its own. These loops are compiled by numba when they are first called (a few seconds, kept on
disk), run on one thread, and let go of Python's lock, so that workers run beside each other (`incentive.threads`).

B rows, H hidden size, D head size, T slots of the cache, V vocabulary. Arrays are contiguous float32; those of the
learner's part may also be bfloat16 in the bits of uint16, and are computed in float32.
"""

# ruff: noqa: ARG001  of two forms of an overload one uses what the other leaves
from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

_FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums may be reordered; NaN and infinity keep their meaning
_compile = njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")

_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOW, _HIGH = np.float32(-64.0), np.float32(88.0)  # e^-64 is nothing beside 1, and its products stay normal numbers
_C = tuple(np.float32(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1))  # fmt: skip
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1.0), np.float32(2.0)


def scratch(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for a row of n numbers, and for the exponents of their exponentials, as integers and as floats."""
    bits = np.empty(n, dtype=np.int32)
    return np.empty(n, dtype=np.float32), bits, bits.view(np.float32)


@_compile
def _exp(x, n, bits, powers):
    """x[:n] = e^x, to 2 ulp (the polynomial of Cephes' expf). Two plain loops, which the compiler turns into vectors."""
    for i in range(n):
        v = min(max(x[i], _LOW), _HIGH)
        k = np.floor(v * _LOG2E + _HALF)
        f = v - k * _LN2_HIGH - k * _LN2_LOW
        p = ((((_C[0] * f + _C[1]) * f + _C[2]) * f + _C[3]) * f + _C[4]) * f + _C[5]
        x[i] = p * f * f + f + _ONE
        bits[i] = (np.int32(k) + np.int32(127)) << np.int32(23)
    for i in range(n):
        x[i] *= powers[i]


@_compile
def norm(x, w, eps, out):
    """out = x / rms(x) * w: (B, H), (H,) -> (B, H)."""
    for b in range(x.shape[0]):
        total = np.float32(0.0)
        for i in range(x.shape[1]):
            total += x[b, i] * x[b, i]
        r = _ONE / np.sqrt(total / np.float32(x.shape[1]) + eps)
        for i in range(x.shape[1]):
            out[b, i] = x[b, i] * r * w[i]


@_compile
def add_norm(x, y, w, eps, out):
    """x += y, then out = x / rms(x) * w: (B, H) all but w (H,)."""
    for b in range(x.shape[0]):
        total = np.float32(0.0)
        for i in range(x.shape[1]):
            v = x[b, i] + y[b, i]
            x[b, i] = v
            total += v * v
        r = _ONE / np.sqrt(total / np.float32(x.shape[1]) + eps)
        for i in range(x.shape[1]):
            out[b, i] = x[b, i] * r * w[i]


@_compile
def gate(x, gelu, out, row, bits, powers):
    """out = silu(gate) * up, or gelu by tanh: (B, 2 I) -> (B, I)."""
    n = out.shape[1]
    for b in range(x.shape[0]):
        if gelu:  # 1 + tanh(z) = 2 / (1 + e^-2z)
            for i in range(n):
                g = x[b, i]
                row[i] = np.float32(-2 * 0.7978845608028654) * (g + np.float32(0.044715) * g * g * g)
        else:
            for i in range(n):
                row[i] = -x[b, i]
        _exp(row, n, bits, powers)
        for i in range(n):
            out[b, i] = x[b, i] * x[b, n + i] / (_ONE + row[i])


@_compile
def _head_norm(x, w, eps):
    """x = x / rms(x) * w in place: the norm of one head's query or key (Qwen3). (D,)"""
    total = np.float32(0.0)
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    r = _ONE / np.sqrt(total / np.float32(x.shape[0]) + eps)
    for i in range(x.shape[0]):
        x[i] = x[i] * r * w[i]


@_compile
def _turn(x, cos, sin):
    """Rotary embedding of one head in place, in the half-split layout: x (D,), cos and sin (D/2,)."""
    half = cos.shape[0]
    low, high = x[:half], x[half:]
    for i in range(half):
        a, b = low[i], high[i]
        low[i] = a * cos[i] - b * sin[i]
        high[i] = b * cos[i] + a * sin[i]


@_compile
def _scores(q, k, n, row):
    """row[:n] = k[:n] q: (D,), (T, D)."""
    for t in range(n):
        total = np.float32(0.0)
        for i in range(q.shape[0]):
            total += q[i] * k[t, i]
        row[t] = total


@_compile
def _softmax(row, n, scale, bits, powers):
    """row[:n] = e^(scale (row - max)); returns the sum."""
    top = row[0]
    for t in range(1, n):
        top = max(top, row[t])
    for t in range(n):
        row[t] = (row[t] - top) * scale
    _exp(row, n, bits, powers)
    total = np.float32(0.0)
    for t in range(n):
        total += row[t]
    return total


@_compile
def _mix(row, v, n, total, o):
    """o = row[:n] v[:n] / total: (T, D) -> (D,). Four values at a time: fewer passes over the sum."""
    for i in range(o.shape[0]):
        o[i] = np.float32(0.0)
    whole = n - n % 4
    for t in range(0, whole, 4):
        p0, p1, p2, p3 = row[t], row[t + 1], row[t + 2], row[t + 3]
        v0, v1, v2, v3 = v[t], v[t + 1], v[t + 2], v[t + 3]
        for i in range(o.shape[0]):
            o[i] += p0 * v0[i] + p1 * v1[i] + p2 * v2[i] + p3 * v3[i]
    for t in range(whole, n):
        p, v0 = row[t], v[t]
        for i in range(o.shape[0]):
            o[i] += p * v0[i]
    part = _ONE / total
    for i in range(o.shape[0]):
        o[i] *= part


@_compile
def attend(qkv, cos, sin, q_norm, k_norm, eps, lengths, keys, values, out, row, bits, powers):
    """Turn the new token's query and key, write its key and value, and attend over the row's cache.

    Args:
        qkv: (B, (heads + 2 kv_heads) D), turned in place.
        cos, sin: (T, D/2).
        q_norm, k_norm: (D,), or (0,) for none.
        lengths: (B,) int64, tokens that the row has in the cache; the new one goes to this place.
        keys, values: (slots, kv_heads, T, D), one layer's.
        out: (B, heads D).
    """
    kv_heads, d = values.shape[1], values.shape[3]
    heads = out.shape[1] // d
    group = heads // kv_heads
    scale = _ONE / np.sqrt(np.float32(d))
    for b in range(qkv.shape[0]):
        at, new = lengths[b], qkv[b]
        c, s = cos[at], sin[at]
        for h in range(heads + kv_heads):
            x = new[h * d : (h + 1) * d]
            if h < heads and q_norm.shape[0]:
                _head_norm(x, q_norm, eps)
            elif h >= heads and k_norm.shape[0]:
                _head_norm(x, k_norm, eps)
            _turn(x, c, s)
        for kv in range(kv_heads):
            k, v = keys[b, kv], values[b, kv]
            k[at] = new[(heads + kv) * d : (heads + kv + 1) * d]
            v[at] = new[(heads + kv_heads + kv) * d : (heads + kv_heads + kv + 1) * d]
            for h in range(kv * group, (kv + 1) * group):
                _scores(new[h * d : (h + 1) * d], k, at + 1, row)
                total = _softmax(row, at + 1, scale, bits, powers)
                _mix(row, v, at + 1, total, out[b, h * d : (h + 1) * d])


@_compile
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


@_compile
def draw(logits, u, temperature, top_p, ids, logp, row, bits, powers):
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
        top = x[0]
        for i in range(1, n):
            top = max(top, x[i])
        for i in range(n):
            row[i] = (x[i] - top) * inverse
        _exp(row, n, bits, powers)
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


def _read(x, row, bits):
    """A row in float32: itself, or widened into `row`, whose bits are `bits`."""


@overload(_read)
def _read_impl(x, row, bits):
    def plain(x, row, bits):
        return x

    def half(x, row, bits):
        for i in range(x.shape[0]):
            bits[i] = np.uint32(x[i]) << np.uint32(16)
        return row[: x.shape[0]]

    return half if x.dtype == types.uint16 else plain


def _write(x, row, bits):
    """x = the row in float32, rounded to the nearest, ties to even."""


@overload(_write)
def _write_impl(x, row, bits):
    def plain(x, row, bits):
        for i in range(x.shape[0]):
            x[i] = row[i]

    def half(x, row, bits):
        for i in range(x.shape[0]):
            x[i] = np.uint16(
                (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            )

    return half if x.dtype == types.uint16 else plain


def rows_of(n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for n rows in float32, and the same as bits."""
    rows = np.empty((n, width), dtype=np.float32)
    return rows, rows.view(np.uint32)


@_compile
def add_norm_forward(x, y, w, eps, total, out, scale, rows, bits):
    """total = x + y and out = total / rms(total) * w: (B, H), w (H,) float32; scale (B,) = 1 / rms, kept for backward."""
    h = w.shape[0]
    for b in range(x.shape[0]):
        p, q, o = _read(x[b], rows[0], bits[0]), _read(y[b], rows[1], bits[1]), rows[2]
        for i in range(h):
            o[i] = p[i] + q[i]
        _write(total[b], o, bits[2])
        t = _read(total[b], rows[0], bits[0])
        square = np.float32(0.0)
        for i in range(h):
            square += t[i] * t[i]
        r = _ONE / np.sqrt(square / np.float32(h) + eps)
        scale[b] = r
        for i in range(h):
            o[i] = t[i] * r * w[i]
        _write(out[b], o, bits[2])


@_compile
def add_norm_backward(total, w, scale, g_total, g_out, g_x, g_w, rows, bits):
    """Gradients: g_x (B, H) of both summands, and g_w (H,), which is added to."""
    h = w.shape[0]
    for b in range(total.shape[0]):
        t, g, gt = (
            _read(total[b], rows[0], bits[0]),
            _read(g_out[b], rows[1], bits[1]),
            _read(g_total[b], rows[2], bits[2]),
        )
        o, r, dot = rows[3], scale[b], np.float32(0.0)
        for i in range(h):
            n = t[i] * r
            g_w[i] += g[i] * n
            dot += g[i] * w[i] * n
        dot /= np.float32(h)
        for i in range(h):
            o[i] = (g[i] * w[i] - t[i] * r * dot) * r + gt[i]
        _write(g_x[b], o, bits[3])


@_compile
def gate_forward(x, gelu, out, rows, bits, exponents, powers):
    """out = silu(gate) * up, or gelu by tanh: (B, 2 I) -> (B, I)."""
    n = out.shape[1]
    for b in range(x.shape[0]):
        t, o = _read(x[b], rows[0], bits[0]), rows[1]
        if gelu:
            for i in range(n):
                o[i] = np.float32(-2 * 0.7978845608028654) * (t[i] + np.float32(0.044715) * t[i] * t[i] * t[i])
        else:
            for i in range(n):
                o[i] = -t[i]
        _exp(o, n, exponents, powers)
        for i in range(n):
            o[i] = t[i] * t[n + i] / (_ONE + o[i])
        _write(out[b], o, bits[1])


@_compile
def gate_backward(x, gelu, g, g_x, rows, bits, exponents, powers):
    """The gradient (B, 2 I) of gate and up."""
    n = g.shape[1]
    for b in range(x.shape[0]):
        t, u, s, o = _read(x[b], rows[0], bits[0]), _read(g[b], rows[1], bits[1]), rows[2], rows[3]
        if gelu:
            for i in range(n):
                s[i] = np.float32(-2 * 0.7978845608028654) * (t[i] + np.float32(0.044715) * t[i] * t[i] * t[i])
        else:
            for i in range(n):
                s[i] = -t[i]
        _exp(s, n, exponents, powers)
        for i in range(n):
            s[i] = _ONE / (_ONE + s[i])
        for i in range(n):
            slope = np.float32(1.0)
            if gelu:
                slope = np.float32(2 * 0.7978845608028654) * (_ONE + np.float32(3 * 0.044715) * t[i] * t[i])
            o[i] = u[i] * t[n + i] * s[i] * (_ONE + t[i] * slope * (_ONE - s[i]))
            o[n + i] = u[i] * t[i] * s[i]
        _write(g_x[b], o, bits[3])


@_compile
def turn(x, heads, cos, sin, sign, out, rows, bits):
    """The first `heads` heads of each row turned by its place, the rest copied: (B T, W) -> the same.

    Args:
        cos, sin: (T, D/2); row n stands at place n % T.
        sign: 1, or -1 to turn back.
    """
    half = cos.shape[1]
    for b in range(x.shape[0]):
        t, o, c, s = _read(x[b], rows[0], bits[0]), rows[1], cos[b % cos.shape[0]], sin[b % cos.shape[0]]
        for h in range(heads):
            low, high = t[2 * h * half : (2 * h + 1) * half], t[(2 * h + 1) * half : (2 * h + 2) * half]
            p, q = o[2 * h * half : (2 * h + 1) * half], o[(2 * h + 1) * half : (2 * h + 2) * half]
            for i in range(half):
                p[i] = low[i] * c[i] - sign * high[i] * s[i]
                q[i] = high[i] * c[i] + sign * low[i] * s[i]
        for i in range(2 * heads * half, x.shape[1]):
            o[i] = t[i]
        _write(out[b], o, bits[1])


@_compile
def token_logp(logits, ids, inverse, logp, norm, entropy, wanted, rows, bits, exponents, powers):
    """Of each row (V,) of logits, times `inverse`: log softmax at its id, the logarithm of the sum, and the entropy where
    it is wanted. logp, norm, entropy (N,) float32 are written."""
    v = logits.shape[1]
    for n in range(logits.shape[0]):
        x, e = _read(logits[n], rows[0], bits[0]), rows[1]
        top = x[0]
        for i in range(1, v):
            top = max(top, x[i])
        for i in range(v):
            e[i] = (x[i] - top) * inverse
        _exp(e, v, exponents, powers)
        total, mean = np.float32(0.0), np.float32(0.0)
        for i in range(v):
            total += e[i]
        if wanted:
            for i in range(v):
                mean += e[i] * (x[i] - top)
        size = np.log(total)
        norm[n] = top * inverse + size
        logp[n] = (x[ids[n]] - top) * inverse - size
        entropy[n] = size - mean * inverse / total if wanted else np.float32(0.0)


@_compile
def token_logp_backward(logits, ids, inverse, norm, g, rows, bits, exponents, powers):
    """The gradient of the logits, in place of them, from that of logp (N,)."""
    v = logits.shape[1]
    for n in range(logits.shape[0]):
        x, e, by = _read(logits[n], rows[0], bits[0]), rows[1], g[n] * inverse
        for i in range(v):
            e[i] = x[i] * inverse - norm[n]
        _exp(e, v, exponents, powers)
        for i in range(v):
            e[i] *= -by
        e[ids[n]] += by
        _write(logits[n], e, bits[1])


def warm() -> None:
    """Compile everything now, for every kind of array; kept on disk, so that a first run need not wait."""
    f, one = np.float32, np.float32(1.0)
    x, w, wide, none, t = np.ones((1, 4), f), np.ones(4, f), np.ones((1, 8), f), np.empty(0, f), np.ones((2, 1), f)
    room, cache = scratch(8), np.ones((1, 1, 2, 2), f)
    norm(x, w, one, x.copy())
    add_norm(x.copy(), x, w, one, x.copy())
    gate(wide, False, x.copy(), *room)
    attend(wide.copy(), t, t, none, none, one, np.zeros(1, np.int64), cache, cache.copy(), x.copy(), *room)
    draw(x, np.ones(1) / 2, one, 0.9, np.zeros(1, np.int64), w.copy(), *room)
    for kind in (np.float32, np.uint16):
        y, z, scale = np.ones((1, 4), kind), np.ones((1, 8), kind), np.ones(1, f)
        add_norm_forward(y, y, w, one, y.copy(), y.copy(), scale, *rows_of(3, 4))
        add_norm_backward(y, w, scale, y, y, y.copy(), w.copy(), *rows_of(4, 4))
        gate_forward(z, False, y.copy(), *rows_of(2, 8), *room[1:])
        gate_backward(z, False, y, z.copy(), *rows_of(4, 8), *room[1:])
        turn(z, 2, t, t, one, z.copy(), *rows_of(2, 8))
        told = (np.ones(1, f), np.ones(1, f), np.ones(1, f))
        token_logp(y.copy(), np.zeros(1, np.int64), one, *told, True, *rows_of(2, 4), *room[1:])
        token_logp_backward(y.copy(), np.zeros(1, np.int64), one, *told[:2], *rows_of(2, 4), *room[1:])


if __name__ == "__main__":
    from incentive.model import kernels  # as the package knows them: what is kept goes by that name

    kernels.warm()
