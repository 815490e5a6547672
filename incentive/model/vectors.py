"""Small products, exponentials and passes over a row in vector registers: what numba's own loops leave in memory.

A library's call costs about as much as multiplying 32 rows by a matrix of 128 by 256, and each shape is compiled anew. Here
a tile of the result stays in registers while both factors pass by, one element of each row against vectors of columns, as
every fast library does it; what lies between products is one or two passes over a row. They are written in LLVM's language,
which numba hands to the compiler as it is, for the width of this processor's registers, and called from `model.kernels`.

Rows are float32, or bfloat16 in the bits of uint16, which are computed in float32 and rounded to the nearest, ties to even. A
product of bfloat16 takes pairs of numbers that are summed, in the bits of uint32, two products to an instruction where the
processor has it. A result's element is summed in one order whatever else is computed beside it: what a row yields does not
depend on its batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from torch import Tensor

_FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums may be reordered; NaN and infinity keep their meaning
_FILES = [Path(__file__).with_name(name) for name in ("vectors.py", "kernels.py", "attention.py", "passes.py")]
_STAMP = tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in _FILES)


def compiled(function: Callable[..., Any]) -> Any:
    """The function as numba compiles it when it is first called, kept on disk; it lets go of Python's lock.

    A function holds the code of those that it calls, and numba compiles anew where the function's own file has changed:
    here where any of the files has.
    """
    made: Any = njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")(function)
    made._cache._cache_file._source_stamp = _STAMP
    return made


_HAS = llvmlite.binding.get_host_cpu_features()
W = 16 if _HAS.get("avx512f") else 8 if _HAS.get("avx2") else 4  # numbers in a vector register
_DOT = bool(W == 16 and _HAS.get("avx512bf16"))  # whether an instruction multiplies pairs of bfloat16
_TALL = 4 if W == 8 else 8  # rows of a tile two vectors wide: AVX2 has 16 registers, the others 32
_I32, _I64, _FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR, _NUMBERS, _HALVES = (ir.VectorType(kind, W) for kind in (_FLOAT, _I32, ir.IntType(16)))

_LOG2E, _LN2_HIGH, _LN2_LOW = 1.44269504, 0.693359375, -2.12194440e-4
_LOW, _HIGH = -64.0, 88.0  # e^-64 is nothing beside 1, and its products stay normal numbers
_CEPHES = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
    1.0,
    1.0,
)
_GELU, _CUBE = -2 * 0.7978845608028654, 0.044715  # gelu by tanh is x / (1 + e^(_GELU (x + _CUBE x^3)))


class _Bfloat(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


class _Build:
    """LLVM's builder, with the words that are needed here. An array of the call is named by the number of its argument."""

    def __init__(self, context: Any, to: Any, signature: Any, args: Any):
        self.to, self.kinds = to, signature.args
        self.begin = [
            context.make_array(kind)(context, to, x).data if isinstance(kind, types.Array) else None
            for kind, x in zip(signature.args, args, strict=True)
        ]

    def at(self, array: int, *terms: Any) -> Any:
        """A pointer to the element whose number is the sum of the terms."""
        total, *more = terms
        for term in more:
            total = self.to.add(total, term)
        return self.to.gep(self.begin[array], [total])

    def all(self, x: Any) -> Any:
        """A vector of one number."""
        if isinstance(x, float):
            return ir.Constant(_VECTOR, [x] * W)
        if isinstance(x, int):
            return ir.Constant(_NUMBERS, [x] * W)
        kind = ir.VectorType(x.type, W)
        one = self.to.insert_element(ir.Constant(kind, ir.Undefined), x, ir.Constant(_I32, 0))
        return self.to.shuffle_vector(one, ir.Constant(kind, ir.Undefined), self.all(0))

    def call(self, name: str, kind: Any, *args: Any, flags: tuple[str, ...] = ()) -> Any:
        """One of LLVM's own functions."""
        function = cgutils.get_or_insert_function(self.to.module, ir.FunctionType(kind, [x.type for x in args]), name)
        return self.to.call(function, args, fastmath=flags)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return self.call(f"llvm.fma.v{W}f32", _VECTOR, x, y, z)

    def dot(self, x: Any, y: Any, z: Any) -> Any:
        """z and the products of both halves of pairs of bfloat16."""
        b = self.to
        if _DOT:
            x, y = (b.bitcast(pairs, ir.VectorType(_Bfloat(), 2 * W)) for pairs in (x, y))
            return self.call("llvm.x86.avx512bf16.dpbf16ps.512", _VECTOR, z, x, y)
        second = lambda pairs: b.bitcast(b.and_(pairs, self.all(-65536)), _VECTOR)  # noqa: E731
        return self.fma(second(x), second(y), self.fma(self._wide(x), self._wide(y), z))

    def mul(self, *factors: Any) -> Any:
        total, *more = factors
        for x in more:
            total = self.to.fmul(total, x)
        return total

    def sum(self, x: Any) -> Any:
        """Of a vector's numbers."""
        return self.call(f"llvm.vector.reduce.fadd.v{W}f32", _FLOAT, ir.Constant(_FLOAT, 0.0), x, flags=("reassoc",))

    def _half(self, array: int) -> bool:
        return self.kinds[array].dtype == types.uint16

    def pairs(self, array: int) -> bool:
        """Whether it holds pairs of bfloat16."""
        return self.kinds[array].dtype == types.uint32

    def load_pairs(self, array: int, *terms: Any) -> Any:
        x = self.to.load(self.to.bitcast(self.at(array, *terms), _NUMBERS.as_pointer()))
        x.align = 4
        return x

    def load(self, array: int, *terms: Any, there: Any = None) -> Any:
        """W numbers; zero of those that are not there."""
        half = self._half(array)
        kind, name, align = (_HALVES, "i16", 2) if half else (_VECTOR, "f32", 4)
        pointer = self.to.bitcast(self.at(array, *terms), kind.as_pointer())
        if there is None:
            x = self.to.load(pointer)
            x.align = align
        else:
            nothing = ir.Constant(kind, [0 if half else 0.0] * W)
            x = self.call(f"llvm.masked.load.v{W}{name}.p0", kind, pointer, ir.Constant(_I32, align), there, nothing)
        return self._wide(self.to.zext(x, _NUMBERS)) if half else x

    def _wide(self, x: Any) -> Any:
        return self.to.bitcast(self.to.shl(x, self.all(16)), _VECTOR)

    def _narrow(self, x: Any) -> Any:
        bits, b = self.to.bitcast(x, _NUMBERS), self.to
        odd = b.and_(b.lshr(bits, self.all(16)), self.all(1))
        return b.lshr(b.add(b.add(bits, self.all(0x7FFF)), odd), self.all(16))

    def rounded(self, x: Any, array: int) -> Any:
        """The numbers as they are when they have been stored there."""
        return self._wide(self._narrow(x)) if self._half(array) else x

    def store_pairs(self, first: Any, second: Any, array: int, *terms: Any, there: Any = None) -> None:
        """W pairs, rounded."""
        b = self.to
        pairs = b.or_(self._narrow(first), b.shl(self._narrow(second), self.all(16)))
        pointer = b.bitcast(self.at(array, *terms), _NUMBERS.as_pointer())
        if there is None:
            b.store(pairs, pointer).align = 4
        else:
            name = f"llvm.masked.store.v{W}i32.p0"
            self.call(name, ir.VoidType(), pairs, pointer, ir.Constant(_I32, 4), there)

    def store(self, x: Any, array: int, *terms: Any, there: Any = None) -> None:
        half = self._half(array)
        kind, name, align = (_HALVES, "i16", 2) if half else (_VECTOR, "f32", 4)
        x = self.to.trunc(self._narrow(x), _HALVES) if half else x
        pointer = self.to.bitcast(self.at(array, *terms), kind.as_pointer())
        if there is None:
            self.to.store(x, pointer).align = align
        else:
            function = f"llvm.masked.store.v{W}{name}.p0"
            self.call(function, ir.VoidType(), x, pointer, ir.Constant(_I32, align), there)

    def loop(self, n: Any, step: int, begin: Sequence[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Values that begin so and that the body changes, for i = 0, step, ... while i + step <= n."""
        b, before, zero, by = self.to, self.to.block, ir.Constant(_I64, 0), ir.Constant(_I64, step)
        go, end = b.append_basic_block("go"), b.append_basic_block("end")
        last = b.sub(n, by)
        b.cbranch(b.icmp_signed(">=", last, zero), go, end)
        b.position_at_end(go)
        i, held = b.phi(_I64), [b.phi(x.type) for x in begin]
        new = body(i, held)
        after = b.add(i, by)
        for phi, x, y in zip([i, *held], [zero, *begin], [after, *new], strict=True):
            phi.add_incoming(x, before)
            phi.add_incoming(y, b.block)
        inner = b.block
        b.cbranch(b.icmp_signed("<=", after, last), go, end)
        b.position_at_end(end)
        found = [b.phi(x.type) for x in begin]
        for phi, x, y in zip(found, begin, new, strict=True):
            phi.add_incoming(x, before)
            phi.add_incoming(y, inner)
        return found

    def each(self, n: Any, begin: Sequence[Any], body: Callable[[Any, list[Any], Any], list[Any]]) -> list[Any]:
        """As `loop`, a vector at a time, and then once with those of the last vector that are there, if there are any."""
        b = self.to
        held = self.loop(n, W, begin, lambda i, held: body(i, held, None))
        whole = b.and_(n, ir.Constant(_I64, -W))
        left = b.trunc(b.sub(n, whole), _I32)
        before, rest, end = b.block, b.append_basic_block("rest"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed(">", left, ir.Constant(_I32, 0)), rest, end)
        b.position_at_end(rest)
        new = body(whole, held, b.icmp_signed("<", ir.Constant(_NUMBERS, list(range(W))), self.all(left)))
        inner = b.block
        b.branch(end)
        b.position_at_end(end)
        found = [b.phi(x.type) for x in held]
        for phi, x, y in zip(found, held, new, strict=True):
            phi.add_incoming(x, before)
            phi.add_incoming(y, inner)
        return found

    def exp(self, x: Any) -> Any:
        """e^x, to 2 ulp: the polynomial of Cephes' expf."""
        b = self.to
        for bound, beyond in ((_LOW, "<"), (_HIGH, ">")):
            x = b.select(b.fcmp_ordered(beyond, x, self.all(bound)), self.all(bound), x)
        k = self.call(f"llvm.floor.v{W}f32", _VECTOR, self.fma(x, self.all(_LOG2E), self.all(0.5)))
        f = self.fma(k, self.all(-_LN2_LOW), self.fma(k, self.all(-_LN2_HIGH), x))
        p = self.all(_CEPHES[0])
        for c in _CEPHES[1:]:
            p = self.fma(p, f, self.all(c))
        power = b.shl(b.add(b.fptosi(k, _NUMBERS), self.all(127)), self.all(23))
        return b.fmul(p, b.bitcast(power, _VECTOR))

    def sigmoid(self, x: Any, gelu: bool) -> tuple[Any, Any]:
        """What a gate multiplies x by, 1 / (1 + e^-x) or gelu's of tanh; and the slope of its exponent."""
        b, one = self.to, self.all(1.0)
        if gelu:
            square = b.fmul(x, x)
            power = self.mul(self.all(_GELU), x, self.fma(square, self.all(_CUBE), one))
            slope = b.fmul(self.all(-_GELU), self.fma(square, self.all(3 * _CUBE), one))
        else:
            power, slope = b.fsub(self.all(-0.0), x), one
        return b.fdiv(one, b.fadd(one, self.exp(power))), slope


def _primitive(result: Any, emit: Callable[..., Any]) -> Any:
    """What `emit` writes, as a function for compiled code. Numbers of elements are int64, numbers float32."""

    def typed(_: Any, *kinds: Any) -> Any:
        def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found = emit(_Build(context, builder, signature, args), *args)
            return context.get_dummy_value() if found is None else found

        return result(*kinds), write

    setattr(typed, "__signature__", inspect.signature(emit))  # noqa: B010  numba counts the parameters, the first is not told
    return intrinsic(typed)


# products


def _tile(rows: int, wide: int) -> Any:
    """out[r, v W : v W + W] (+)= sum over i of a[r, i] b[i, v], for r < `rows`, v < `wide`; each b[i, v] a vector of W.

    Where b holds pairs, those of a are counted too: i and the distances within a are in pairs.
    """

    def emit(build: _Build, _a: Any, at_a: Any, row_a: Any, by_a: Any, _b: Any, at_b: Any, row_b: Any, side: Any, k: Any, _out: Any, at_out: Any, row_out: Any, add: Any) -> None:  # fmt: skip
        b = build.to
        number = lambda x: ir.Constant(_I64, x)  # noqa: E731
        places = [(at_out, b.mul(number(r), row_out), number(v * W)) for r in range(rows) for v in range(wide)]
        add = b.trunc(add, ir.IntType(1))
        begin = [b.select(add, build.load(9, *place), build.all(0.0)) for place in places]
        pairs = build.pairs(4)
        load, times = (build.load_pairs, build.dot) if pairs else (build.load, build.fma)
        if pairs:
            build.begin[0] = b.bitcast(build.begin[0], _I32.as_pointer())

        def more(i: Any, sums: list[Any]) -> list[Any]:
            row, at, found = b.mul(i, row_b), b.mul(i, by_a), []
            vectors = [load(4, at_b, row, b.mul(number(v), side)) for v in range(wide)]
            for r in range(rows):
                one = build.all(b.load(build.at(0, at_a, b.mul(number(r), row_a), at)))
                found += [times(one, vectors[v], sums[r * wide + v]) for v in range(wide)]
            return found

        for total, place in zip(build.loop(k, 1, begin, more), places, strict=True):
            build.store(total, 9, *place)

    return _primitive(types.void, emit)


_tall2, _tall1, _four2, _four1 = _tile(_TALL, 2), _tile(_TALL, 1), _tile(4, 2), _tile(4, 1)
_two2, _two1, _one2, _one1 = _tile(2, 2), _tile(2, 1), _tile(1, 2), _tile(1, 1)


@compiled
def multiply(a, next_a, by_a, rows, b, next_b, side, vectors, k, out, next_out, add):
    """out = a b, or += where `add` is 1: `rows` rows by k, times k by `vectors` vectors of W columns; arrays from their first.

    Args:
        next_a, by_a: how far a row of a is from the next, and an element from the next in its row.
        next_b, side: how far a row of a vector of columns is from the next, and a vector from that beside it.

    Where b holds pairs of bfloat16 (uint32), a holds bfloat16 or pairs, and k and the distances within both count pairs.
    """
    for v in range(0, vectors - 1, 2):
        r, p, q = 0, v * side, v * W
        while rows - r >= _TALL:
            _tall2(a, r * next_a, next_a, by_a, b, p, next_b, side, k, out, r * next_out + q, next_out, add)
            r += _TALL
        if rows - r >= 4:
            _four2(a, r * next_a, next_a, by_a, b, p, next_b, side, k, out, r * next_out + q, next_out, add)
            r += 4
        if rows - r >= 2:
            _two2(a, r * next_a, next_a, by_a, b, p, next_b, side, k, out, r * next_out + q, next_out, add)
            r += 2
        if rows > r:
            _one2(a, r * next_a, next_a, by_a, b, p, next_b, side, k, out, r * next_out + q, next_out, add)
    if vectors % 2:
        r, p, q = 0, (vectors - 1) * side, (vectors - 1) * W
        while rows - r >= _TALL:
            _tall1(a, r * next_a, next_a, by_a, b, p, next_b, side, k, out, r * next_out + q, next_out, add)
            r += _TALL
        if rows - r >= 4:
            _four1(a, r * next_a, next_a, by_a, b, p, next_b, side, k, out, r * next_out + q, next_out, add)
            r += 4
        if rows - r >= 2:
            _two1(a, r * next_a, next_a, by_a, b, p, next_b, side, k, out, r * next_out + q, next_out, add)
            r += 2
        if rows > r:
            _one1(a, r * next_a, next_a, by_a, b, p, next_b, side, k, out, r * next_out + q, next_out, add)


# passes over a row of n


def _exponentials(build: _Build, _x: Any, n: Any, shift: Any, scale: Any, _out: Any) -> Any:
    b, shift, scale, none = build.to, build.all(shift), build.all(scale), build.all(0.0)

    def one(i: Any, held: list[Any], there: Any) -> list[Any]:
        found = build.exp(b.fmul(b.fsub(build.load(0, i, there=there), shift), scale))
        build.store(found, 4, i, there=there)
        return [b.fadd(held[0], found if there is None else b.select(there, found, none))]

    return build.sum(*build.each(n, [none], one))


def _entropies(build: _Build, _x: Any, n: Any, shift: Any, scale: Any) -> Any:
    b, shift, scale, none = build.to, build.all(shift), build.all(scale), build.all(0.0)

    def one(i: Any, held: list[Any], there: Any) -> list[Any]:
        power = b.fmul(b.fsub(build.load(0, i, there=there), shift), scale)
        found = build.exp(power)
        found = found if there is None else b.select(there, found, none)
        return [b.fadd(held[0], found), build.fma(found, power, held[1])]

    return cgutils.pack_array(b, [build.sum(x) for x in build.each(n, [none, none], one)])


def _greatest(build: _Build, _x: Any, n: Any) -> Any:
    b, least = build.to, build.all(float("-inf"))

    def one(i: Any, held: list[Any], there: Any) -> list[Any]:
        x = build.load(0, i, there=there)
        x = x if there is None else b.select(there, x, least)
        return [b.select(b.fcmp_ordered(">", x, held[0]), x, held[0])]

    return build.call(f"llvm.vector.reduce.fmax.v{W}f32", _FLOAT, *build.each(n, [least], one), flags=("nnan",))


def _scaled(build: _Build, _x: Any, at: Any, n: Any, factor: Any, _out: Any, to: Any) -> None:
    factor = build.all(factor)

    def one(i: Any, _: list[Any], there: Any) -> list[Any]:
        build.store(build.to.fmul(build.load(0, at, i, there=there), factor), 4, to, i, there=there)
        return []

    build.each(n, [], one)


def _added(build: _Build, _x: Any, n: Any, _out: Any) -> None:
    def one(i: Any, _: list[Any], there: Any) -> list[Any]:
        total = build.to.fadd(build.load(0, i, there=there), build.load(2, i, there=there))
        build.store(total, 2, i, there=there)
        return []

    build.each(n, [], one)


def _weighted(build: _Build, _x: Any, _w: Any, n: Any, factor: Any, _out: Any) -> None:
    factor = build.all(factor)

    def one(i: Any, _: list[Any], there: Any) -> list[Any]:
        build.store(build.mul(build.load(0, i, there=there), factor, build.load(1, i, there=there)), 4, i, there=there)
        return []

    build.each(n, [], one)


def _paired(build: _Build, _x: Any, step: Any, n: Any, _out: Any, to: Any) -> None:
    def one(i: Any, _: list[Any], there: Any) -> list[Any]:
        first, second = build.load(0, i, there=there), build.load(0, step, i, there=there)
        if build.pairs(3):
            build.store_pairs(first, second, 3, to, i, there=there)
        else:
            build.store(first, 3, to, i, there=there)
            build.store(second, 3, to, step, i, there=there)
        return []

    build.each(n, [], one)


def _add_norm(build: _Build, _x: Any, _y: Any, _w: Any, n: Any, eps: Any, _total: Any, _out: Any) -> Any:
    b = build.to

    def add(i: Any, held: list[Any], there: Any) -> list[Any]:
        total = b.fadd(build.load(0, i, there=there), build.load(1, i, there=there))
        build.store(total, 5, i, there=there)
        total = build.rounded(total, 5)
        return [build.fma(total, total, held[0])]

    mean = b.fdiv(build.sum(*build.each(n, [build.all(0.0)], add)), b.sitofp(n, _FLOAT))
    scale = b.fdiv(ir.Constant(_FLOAT, 1.0), build.call("llvm.sqrt.f32", _FLOAT, b.fadd(mean, eps)))
    by = build.all(scale)

    def norm(i: Any, _: list[Any], there: Any) -> list[Any]:
        x = build.mul(build.load(5, i, there=there), by, build.load(2, i, there=there))
        build.store(x, 6, i, there=there)
        return []

    build.each(n, [], norm)
    return scale


def _add_norm_back(build: _Build, _t: Any, _w: Any, n: Any, scale: Any, _gt: Any, _go: Any, _gx: Any, _gw: Any) -> None:
    b, by = build.to, build.all(scale)

    def sums(i: Any, held: list[Any], there: Any) -> list[Any]:
        g, x = build.load(5, i, there=there), b.fmul(build.load(0, i, there=there), by)
        build.store(build.fma(g, x, build.load(7, i, there=there)), 7, i, there=there)
        return [build.fma(b.fmul(g, build.load(1, i, there=there)), x, held[0])]

    dot = b.fdiv(build.sum(*build.each(n, [build.all(0.0)], sums)), b.sitofp(n, _FLOAT))
    dot = build.all(b.fmul(b.fsub(ir.Constant(_FLOAT, -0.0), dot), scale))

    def turn(i: Any, _: list[Any], there: Any) -> list[Any]:
        g = b.fmul(build.load(5, i, there=there), build.load(1, i, there=there))
        g = build.fma(build.load(0, i, there=there), dot, g)
        build.store(build.fma(g, by, build.load(4, i, there=there)), 6, i, there=there)
        return []

    build.each(n, [], turn)


def _gate(gelu: bool) -> Any:
    def emit(build: _Build, _x: Any, n: Any, _out: Any) -> None:
        def one(i: Any, _: list[Any], there: Any) -> list[Any]:
            x, up = build.load(0, i, there=there), build.load(0, n, i, there=there)
            build.store(build.mul(x, up, build.sigmoid(x, gelu)[0]), 2, i, there=there)
            return []

        build.each(n, [], one)

    return _primitive(types.void, emit)


def _gate_back(gelu: bool) -> Any:
    def emit(build: _Build, _x: Any, n: Any, _g: Any, _gx: Any) -> None:
        b = build.to

        def one(i: Any, _: list[Any], there: Any) -> list[Any]:
            x, up, g = build.load(0, i, there=there), build.load(0, n, i, there=there), build.load(2, i, there=there)
            s, slope = build.sigmoid(x, gelu)
            turned = build.fma(build.mul(x, slope), b.fsub(build.all(1.0), s), build.all(1.0))
            build.store(build.mul(g, up, s, turned), 3, i, there=there)
            build.store(build.mul(g, x, s), 3, n, i, there=there)
            return []

        build.each(n, [], one)

    return _primitive(types.void, emit)


def _turned(
    build: _Build, _x: Any, at: Any, half: Any, _c: Any, _s: Any, sign: Any, factor: Any, _out: Any, to: Any
) -> None:
    b, sign, factor = build.to, build.all(sign), build.all(factor)

    def one(i: Any, _: list[Any], there: Any) -> list[Any]:
        low, high = build.load(0, at, i, there=there), build.load(0, at, half, i, there=there)
        c = b.fmul(build.load(3, i, there=there), factor)
        s = build.mul(build.load(4, i, there=there), factor, sign)
        build.store(b.fsub(b.fmul(low, c), b.fmul(high, s)), 7, to, i, there=there)
        build.store(build.fma(low, s, b.fmul(high, c)), 7, to, half, i, there=there)
        return []

    build.each(half, [], one)


def _softmax_back(build: _Build, _p: Any, n: Any, _g: Any) -> None:
    b = build.to

    def sums(i: Any, held: list[Any], there: Any) -> list[Any]:
        return [build.fma(build.load(0, i, there=there), build.load(2, i, there=there), held[0])]

    mean = build.all(build.sum(*build.each(n, [build.all(0.0)], sums)))

    def turn(i: Any, _: list[Any], there: Any) -> list[Any]:
        turned = b.fmul(build.load(0, i, there=there), b.fsub(build.load(2, i, there=there), mean))
        build.store(turned, 2, i, there=there)
        return []

    build.each(n, [], turn)


# (x, n, shift, scale, out): out[:n] = e^((x[:n] - shift) scale), and their sum. Below e^-64 it is that
exponentials = _primitive(types.float32, _exponentials)
# (x, n, shift, scale): the sum of e^p over p = (x[:n] - shift) scale, and of p e^p
entropies = _primitive(types.UniTuple(types.float32, 2), _entropies)
# (x, n): the greatest of x[:n]; n is 1 or more, and none is NaN
greatest = _primitive(types.float32, _greatest)
# (p, n, g): g[:n] = p (g - the sum of p g), a softmax's gradient
softmax_back = _primitive(types.void, _softmax_back)
# (x, at, n, factor, out, to): out[to:][:n] = x[at:][:n] factor
scaled = _primitive(types.void, _scaled)
# (x, n, out): out[:n] += x[:n]
added = _primitive(types.void, _added)
# (x, w, n, factor, out): out[:n] = x[:n] factor w[:n]
weighted = _primitive(types.void, _weighted)
# (x, step, n, out, to): rows x[:n] and x[step:][:n] as pairs out[to:][:n], or where out is float32 as they are, step apart
paired = _primitive(types.void, _paired)
# (x, y, w, n, eps, total, out): total = x + y, out = total / rms(total) w; gives 1 / rms
summed_norm = _primitive(types.float32, _add_norm)
# (total, w, n, 1 / rms, g_total, g_out, g_x, g_w): the gradient of both summands; that of w (float32) is added to
summed_norm_back = _primitive(types.void, _add_norm_back)
# (x, n, out): silu(x[:n]) x[n:], or gelu by tanh
gate_silu, gate_gelu = _gate(False), _gate(True)
# (x, n, g, g_x): its gradient
gate_silu_back, gate_gelu_back = _gate_back(False), _gate_back(True)
# (x, at, D/2, cos, sin, sign, factor, out, to): out[to:] = the rotary embedding of x[at:], one head, times factor; sign -1 turns
# back
turned = _primitive(types.void, _turned)


def as_pairs(x: Any) -> Any:
    """Rows of bfloat16 as pairs, rows of float32 as they are."""
    return x.view(np.uint32) if x.dtype == np.uint16 else x


@overload(as_pairs)
def _as_pairs(x):  # numba wants the names alone
    return (lambda x: x.view(np.uint32)) if x.dtype == types.uint16 else (lambda x: x)


def whole(n: int) -> int:
    """The numbers in the vectors that hold n."""
    return -(-n // W) * W


def columns(weights: Tensor) -> Tensor:
    """(..., N, K) -> (..., N / W, K, W), with zeros behind the last of N: as `multiply` reads the transposed, each vector of
    columns in one piece. Of bfloat16 (..., N / W, K / 2, W), pairs in the bits of int32."""
    if weights.dtype == torch.bfloat16:
        weights = weights.contiguous().view(torch.int32)
    n = weights.shape[-2]
    padded = torch.nn.functional.pad(weights, (0, 0, 0, whole(n) - n))
    return padded.unflatten(-2, (-1, W)).transpose(-1, -2).contiguous()
