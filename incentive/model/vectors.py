"""Small products and exponentials in vector registers, for compiled loops: what numba's own loops leave in memory.

A library's call costs about as much as multiplying 32 rows by a matrix of 128 by 256, and each shape is compiled anew. Here
a tile of the result stays in registers while both factors pass by, one element of each row against vectors of columns, as
every fast library does it; exponentials are computed a vector at a time. It is written in LLVM's language, which numba
hands to the compiler as it is, for the width of this processor's registers.

A result's element is summed in one order whatever else is multiplied beside it: what a row yields does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor


def _lanes() -> int:
    """Numbers in a vector register of this processor."""
    has = llvmlite.binding.get_host_cpu_features()
    return 16 if has.get("avx512f") else 8 if has.get("avx2") else 4


W = _lanes()
_TALL = 4 if W == 8 else 8  # rows of a tile two vectors wide: AVX2 has 16 registers, the others 32
_I1, _I32, _I64, _FLOAT = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR, _NUMBERS, _MASK = (ir.VectorType(kind, W) for kind in (_FLOAT, _I32, _I1))

_LOG2E, _LN2_HIGH, _LN2_LOW = 1.44269504, 0.693359375, -2.12194440e-4
_LOW, _HIGH = -64.0, 88.0  # e^-64 is nothing beside 1, and its products stay normal numbers
_CEPHES = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0)


class _Build:
    """LLVM's builder, with the few words that are needed here."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any):
        self.context, self.to, self.signature, self.args = context, builder, signature, args

    def begin(self, array: int, at: Any) -> Any:
        """A pointer to an element of the array that is this argument."""
        made = self.context.make_array(self.signature.args[array])(self.context, self.to, self.args[array])
        return self.to.gep(made.data, [at])

    def at(self, pointer: Any, *terms: Any) -> Any:
        total, *more = terms
        for term in more:
            total = self.to.add(total, term)
        return self.to.gep(pointer, [total])

    def times(self, n: int, x: Any) -> Any:
        return self.to.mul(ir.Constant(_I64, n), x)

    def all(self, x: Any) -> Any:
        """A vector of one number."""
        if isinstance(x, float):
            return ir.Constant(_VECTOR, [x] * W)
        one = self.to.insert_element(ir.Constant(_VECTOR, ir.Undefined), x, ir.Constant(_I32, 0))
        return self.to.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_NUMBERS, [0] * W))

    def call(self, name: str, kind: Any, *args: Any, flags: tuple[str, ...] = ()) -> Any:
        """One of LLVM's own functions."""
        function = cgutils.get_or_insert_function(self.to.module, ir.FunctionType(kind, [x.type for x in args]), name)
        return self.to.call(function, args, fastmath=flags)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return self.call(f"llvm.fma.v{W}f32", _VECTOR, x, y, z)

    def load(self, pointer: Any) -> Any:
        found = self.to.load(self.to.bitcast(pointer, _VECTOR.as_pointer()))
        found.align = 4
        return found

    def store(self, x: Any, pointer: Any) -> None:
        self.to.store(x, self.to.bitcast(pointer, _VECTOR.as_pointer())).align = 4

    def loop(self, n: Any, step: int, begin: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Values that begin so and that the body changes, for i = 0, step, ... while i + step <= n."""
        build, before = self.to, self.to.block
        go, end = build.append_basic_block("go"), build.append_basic_block("end")
        last = build.sub(n, ir.Constant(_I64, step))
        build.cbranch(build.icmp_signed(">=", last, ir.Constant(_I64, 0)), go, end)
        build.position_at_end(go)
        i, held = build.phi(_I64), [build.phi(x.type) for x in begin]
        new = body(i, held)
        after = build.add(i, ir.Constant(_I64, step))
        for phi, x, y in zip([i, *held], [ir.Constant(_I64, 0), *begin], [after, *new], strict=True):
            phi.add_incoming(x, before)
            phi.add_incoming(y, build.block)
        inner = build.block
        build.cbranch(build.icmp_signed("<=", after, last), go, end)
        build.position_at_end(end)
        found = [build.phi(x.type) for x in begin]
        for phi, x, y in zip(found, begin, new, strict=True):
            phi.add_incoming(x, before)
            phi.add_incoming(y, inner)
        return found

    def exp(self, x: Any) -> Any:
        """e^x, to 2 ulp: the polynomial of Cephes' expf."""
        build = self.to
        for bound, beyond in ((_LOW, "<"), (_HIGH, ">")):
            x = build.select(build.fcmp_ordered(beyond, x, self.all(bound)), self.all(bound), x)
        k = self.call(f"llvm.floor.v{W}f32", _VECTOR, self.fma(x, self.all(_LOG2E), self.all(0.5)))
        f = self.fma(k, self.all(-_LN2_LOW), self.fma(k, self.all(-_LN2_HIGH), x))
        p = self.all(_CEPHES[0])
        for c in _CEPHES[1:]:
            p = self.fma(p, f, self.all(c))
        power = build.add(build.fptosi(k, _NUMBERS), ir.Constant(_NUMBERS, [127] * W))
        return build.fmul(p, build.bitcast(build.shl(power, ir.Constant(_NUMBERS, [23] * W)), _VECTOR))


def _tile(rows: int, wide: int) -> Any:
    """out[r, v W : v W + W] = sum over i of a[r, i] b[i, v], for r < `rows`, v < `wide`; each b[i, v] a vector of W."""

    @intrinsic
    def tile(_: Any, a: Any, at_a: Any, next_a: Any, b: Any, at_b: Any, next_b: Any, side: Any, k: Any, out: Any, at_out: Any, next_out: Any) -> Any:  # fmt: skip
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            build = _Build(context, builder, signature, args)
            _, first_a, row_a, _, first_b, row_b, side_b, n, _, first_out, row_out = args
            from_a, from_b, to = build.begin(0, first_a), build.begin(3, first_b), build.begin(8, first_out)

            def add(i: Any, sums: list[Any]) -> list[Any]:
                begun, found = builder.mul(i, row_b), []
                b = [build.load(build.at(from_b, begun, build.times(v, side_b))) for v in range(wide)]
                for r in range(rows):
                    one = build.all(builder.load(build.at(from_a, build.times(r, row_a), i)))
                    found += [build.fma(one, b[v], sums[r * wide + v]) for v in range(wide)]
                return found

            for n, total in enumerate(build.loop(n, 1, [build.all(0.0)] * (rows * wide), add)):
                r, v = divmod(n, wide)
                build.store(total, build.at(to, build.times(r, row_out), ir.Constant(_I64, v * W)))
            return context.get_dummy_value()

        return types.void(a, at_a, next_a, b, at_b, next_b, side, k, out, at_out, next_out), emit

    return tile


_tall2, _tall1, _four2, _four1 = _tile(_TALL, 2), _tile(_TALL, 1), _tile(4, 2), _tile(4, 1)
_two2, _two1, _one2, _one1 = _tile(2, 2), _tile(2, 1), _tile(1, 2), _tile(1, 1)
_compile = njit(cache=True, nogil=True, error_model="numpy")


@_compile
def multiply(a, next_a, rows, b, next_b, side, vectors, k, out, next_out):
    """out = a b: `rows` rows by k, times k by `vectors` vectors of W columns; float32, each array from its beginning.

    Args:
        next_a, next_out: how far a row is from the next.
        next_b, side: how far a row of a vector of columns is from the next, and a vector from that beside it.
    """
    for v in range(0, vectors - 1, 2):
        r = 0
        while rows - r >= _TALL:
            _tall2(a, r * next_a, next_a, b, v * side, next_b, side, k, out, r * next_out + v * W, next_out)
            r += _TALL
        if rows - r >= 4:
            _four2(a, r * next_a, next_a, b, v * side, next_b, side, k, out, r * next_out + v * W, next_out)
            r += 4
        if rows - r >= 2:
            _two2(a, r * next_a, next_a, b, v * side, next_b, side, k, out, r * next_out + v * W, next_out)
            r += 2
        if rows > r:
            _one2(a, r * next_a, next_a, b, v * side, next_b, side, k, out, r * next_out + v * W, next_out)
    if vectors % 2:
        v, r = vectors - 1, 0
        while rows - r >= _TALL:
            _tall1(a, r * next_a, next_a, b, v * side, next_b, side, k, out, r * next_out + v * W, next_out)
            r += _TALL
        if rows - r >= 4:
            _four1(a, r * next_a, next_a, b, v * side, next_b, side, k, out, r * next_out + v * W, next_out)
            r += 4
        if rows - r >= 2:
            _two1(a, r * next_a, next_a, b, v * side, next_b, side, k, out, r * next_out + v * W, next_out)
            r += 2
        if rows > r:
            _one1(a, r * next_a, next_a, b, v * side, next_b, side, k, out, r * next_out + v * W, next_out)


def _last(build: _Build, n: Any) -> tuple[Any, Any]:
    """Where the last vector of n numbers begins, and which of it are there."""
    whole = build.to.and_(n, ir.Constant(_I64, -W))
    left = build.to.trunc(build.to.sub(n, whole), _I32)
    one = build.to.insert_element(ir.Constant(_NUMBERS, ir.Undefined), left, ir.Constant(_I32, 0))
    many = build.to.shuffle_vector(one, ir.Constant(_NUMBERS, ir.Undefined), ir.Constant(_NUMBERS, [0] * W))
    return whole, build.to.icmp_signed("<", ir.Constant(_NUMBERS, list(range(W))), many)


def _masked(build: _Build, pointer: Any, there: Any, otherwise: Any) -> Any:
    pointer, align = build.to.bitcast(pointer, _VECTOR.as_pointer()), ir.Constant(_I32, 4)
    return build.call(f"llvm.masked.load.v{W}f32.p0", _VECTOR, pointer, align, there, otherwise)


@intrinsic
def exponentials(_: Any, x: Any, n: Any, shift: Any, scale: Any, out: Any) -> Any:
    """out[:n] = e^((x[:n] - shift) scale), and their sum. Below e^-64 it is that."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        build, n = _Build(context, builder, signature, args), args[1]
        zero = ir.Constant(_I64, 0)
        from_x, to, shift, scale = build.begin(0, zero), build.begin(4, zero), build.all(args[2]), build.all(args[3])
        exp = lambda x: build.exp(builder.fmul(builder.fsub(x, shift), scale))  # noqa: E731

        def one(i: Any, held: list[Any]) -> list[Any]:
            found = exp(build.load(build.at(from_x, i)))
            build.store(found, build.at(to, i))
            return [builder.fadd(held[0], found)]

        (total,) = build.loop(n, W, [build.all(0.0)], one)
        at, there = _last(build, n)
        found = exp(_masked(build, build.at(from_x, at), there, build.all(0.0)))
        pointer = builder.bitcast(build.at(to, at), _VECTOR.as_pointer())
        align, nothing = ir.Constant(_I32, 4), ir.VoidType()
        build.call(f"llvm.masked.store.v{W}f32.p0", nothing, found, pointer, align, there)
        total = builder.fadd(total, builder.select(there, found, build.all(0.0)))
        name = f"llvm.vector.reduce.fadd.v{W}f32"
        return build.call(name, _FLOAT, ir.Constant(_FLOAT, 0.0), total, flags=("reassoc",))

    return types.float32(x, n, shift, scale, out), emit


@intrinsic
def greatest(_: Any, x: Any, n: Any) -> Any:
    """The greatest of x[:n]; n is 1 or more, and none is NaN."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        build, n = _Build(context, builder, signature, args), args[1]
        from_x, least = build.begin(0, ir.Constant(_I64, 0)), build.all(float("-inf"))

        def more(x: Any, y: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", x, y), x, y)

        (found,) = build.loop(n, W, [least], lambda i, held: [more(build.load(build.at(from_x, i)), held[0])])
        at, there = _last(build, n)
        found = more(_masked(build, build.at(from_x, at), there, least), found)
        return build.call(f"llvm.vector.reduce.fmax.v{W}f32", _FLOAT, found, flags=("nnan",))

    return types.float32(x, n), emit


def whole(n: int) -> int:
    """The numbers in the vectors that hold n."""
    return -(-n // W) * W


def columns(weights: Tensor) -> Tensor:
    """(..., N, K) -> (..., N / W, K, W), with zeros behind the last of N: as `multiply` reads the transposed, each vector of
    columns in one piece."""
    n, k = weights.shape[-2:]
    padded = torch.nn.functional.pad(weights, (0, 0, 0, whole(n) - n))
    return padded.unflatten(-2, (-1, W)).transpose(-1, -2).contiguous()
