"""Sixteen float32 at a time: an explicit SIMD type for numba kernels.

LLVM's loop vectoriser needs coaxing, and when it gives up it does so silently, at a fifth of the speed. Here a kernel
says what it means: ``Lanes`` is LLVM's ``<16 x float>``, which lowers to one AVX-512 register, two AVX2, or four
SSE/NEON, and ``Mask`` is ``<16 x i1>``. Arithmetic mixes lanes and scalars (a scalar is repeated in every lane):

    @inlined
    def f(out, x):                     # both 1-D float32 arrays
        a = load(x, 0)                 # x[0:16]
        b = fma(a, a, 1.0)             # a * a + 1 in every lane
        store(out, 0, select(b < 2.0, b, splat(0.0)))

Only usable inside compiled code. Indices are not checked.
"""

from __future__ import annotations

import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from pipeline_core.rendering.jit import inlined

WIDTH = 16
_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VECTOR = ir.VectorType(_F32, WIDTH)
_IVECTOR = ir.VectorType(_I32, WIDTH)
_BITS = ir.VectorType(ir.IntType(1), WIDTH)
_FLAGS = ("contract", "nsz")


class LanesType(types.Type):
    """Numba's name for sixteen float32 or sixteen booleans."""


lanes = LanesType("lanes")
mask = LanesType("mask")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR if kind is lanes else _BITS)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [ir.Constant(_F32, value)] * WIDTH)


def _repeat(builder, scalar):
    """A vector with ``scalar`` in every lane."""
    vector = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(
        vector, vector, ir.Constant(ir.VectorType(_I32, WIDTH), [ir.Constant(_I32, 0)] * WIDTH)
    )


def _as_lanes(context, builder, kind, value):
    """``value`` of numba type ``kind`` (lanes or any number) as a vector."""
    if kind is lanes:
        return value
    return _repeat(builder, context.cast(builder, value, kind, types.float32))


def _define(function, result, emit, kinds=(lanes,)):
    """Give a Python operator a meaning for lanes beside lanes, float32 or float64 constants."""
    pairs = [(lanes, lanes)] + [
        p for k in (types.float32, types.float64, types.int64) for p in ((lanes, k), (k, lanes))
    ]
    if kinds == (mask,):
        pairs = [(mask, mask)]

    @infer_global(function)
    class _Template(ConcreteTemplate):
        cases = [signature(result, *pair) for pair in pairs]

    for pair in pairs:

        @lower_builtin(function, *pair)
        def _lower(context, builder, sig, args):
            a, b = args
            if kinds != (mask,):
                a, b = (_as_lanes(context, builder, k, v) for k, v in zip(sig.args, args, strict=True))
            return emit(builder, a, b)


_define(operator.add, lanes, lambda b, x, y: b.fadd(x, y, flags=_FLAGS))
_define(operator.sub, lanes, lambda b, x, y: b.fsub(x, y, flags=_FLAGS))
_define(operator.mul, lanes, lambda b, x, y: b.fmul(x, y, flags=_FLAGS))
_define(operator.truediv, lanes, lambda b, x, y: b.fdiv(x, y, flags=_FLAGS))
for _op, _name in ((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">=")):
    _define(_op, mask, lambda b, x, y, name=_name: b.fcmp_ordered(name, x, y))
_define(operator.and_, mask, lambda b, x, y: b.and_(x, y), kinds=(mask,))
_define(operator.or_, mask, lambda b, x, y: b.or_(x, y), kinds=(mask,))


def _intrinsic_call(builder, name, result, arguments):
    kind = ir.FunctionType(result, [a.type for a in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments)


@intrinsic
def splat(typingctx, x):
    """``x`` in every lane."""

    def emit(context, builder, sig, args):
        return _as_lanes(context, builder, sig.args[0], args[0])

    return lanes(x), emit


@intrinsic
def fma(typingctx, a, b, c):
    """``a * b + c``, fused where the machine can."""

    def emit(context, builder, sig, args):
        vectors = [_as_lanes(context, builder, k, v) for k, v in zip(sig.args, args, strict=True)]
        return _intrinsic_call(builder, f"llvm.fmuladd.v{WIDTH}f32", _VECTOR, vectors)

    return lanes(a, b, c), emit


@intrinsic
def minimum(typingctx, a, b):
    """The smaller of each lane; ``b`` where either is NaN."""

    def emit(context, builder, sig, args):
        x, y = (_as_lanes(context, builder, k, v) for k, v in zip(sig.args, args, strict=True))
        return builder.select(builder.fcmp_ordered("<", x, y), x, y)

    return lanes(a, b), emit


@intrinsic
def maximum(typingctx, a, b):
    """The larger of each lane; ``b`` where either is NaN."""

    def emit(context, builder, sig, args):
        x, y = (_as_lanes(context, builder, k, v) for k, v in zip(sig.args, args, strict=True))
        return builder.select(builder.fcmp_ordered(">", x, y), x, y)

    return lanes(a, b), emit


@intrinsic
def absolute(typingctx, a):
    """The absolute value of each lane."""

    def emit(context, builder, sig, args):
        return _intrinsic_call(builder, f"llvm.fabs.v{WIDTH}f32", _VECTOR, list(args))

    return lanes(a), emit


@intrinsic
def root(typingctx, a):
    """The square root of each lane."""

    def emit(context, builder, sig, args):
        return _intrinsic_call(builder, f"llvm.sqrt.v{WIDTH}f32", _VECTOR, list(args))

    return lanes(a), emit


@intrinsic
def select(typingctx, m, a, b):
    """``a`` where ``m``, else ``b``."""

    def emit(context, builder, sig, args):
        x, y = (_as_lanes(context, builder, k, v) for k, v in zip(sig.args[1:], args[1:], strict=True))
        return builder.select(args[0], x, y)

    return lanes(m, a, b), emit


@intrinsic
def bits(typingctx, m):
    """Mask as an integer: bit k is lane k."""

    def emit(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(WIDTH)), ir.IntType(64))

    return types.int64(m), emit


@intrinsic
def lowest_bit(typingctx, n):
    """Index of the lowest set bit of a nonzero int64."""

    def emit(context, builder, sig, args):
        zero_is_poison = ir.Constant(ir.IntType(1), 1)
        return _intrinsic_call(builder, "llvm.cttz.i64", ir.IntType(64), [args[0], zero_is_poison])

    return types.int64(types.int64), emit


@intrinsic
def times_power(typingctx, p, shifted):
    """``p * 2^n`` where n is the integer in the low bits of ``shifted = n + 1.5 * 2^23``, by adding to p's exponent."""

    def emit(context, builder, sig, args):
        amount = ir.Constant(_IVECTOR, [ir.Constant(_I32, 23)] * WIDTH)
        exponent = builder.shl(builder.bitcast(args[1], _IVECTOR), amount)
        return builder.bitcast(builder.add(builder.bitcast(args[0], _IVECTOR), exponent), _VECTOR)

    return lanes(p, shifted), emit


def _element(context, builder, kind, array, index):
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def load(typingctx, array, index):
    """``array[index : index + 16]`` of a contiguous 1-D float32 array."""

    def emit(context, builder, sig, args):
        pointer = builder.bitcast(_element(context, builder, sig.args[0], *args), _VECTOR.as_pointer())
        return builder.load(pointer, align=4)

    return lanes(array, types.int64), emit


@intrinsic
def store(typingctx, array, index, value):
    """``array[index : index + 16] = value`` for a contiguous 1-D float32 array."""

    def emit(context, builder, sig, args):
        pointer = builder.bitcast(_element(context, builder, sig.args[0], *args[:2]), _VECTOR.as_pointer())
        builder.store(args[2], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), emit


@intrinsic
def peek(typingctx, array, index):
    """``array[index]`` of a contiguous array seen as 1-D, without the test for a negative index."""

    def emit(context, builder, sig, args):
        return builder.load(_element(context, builder, sig.args[0], *args))

    return array.dtype(array, types.int64), emit


@intrinsic
def prefetch(typingctx, array, index):
    """Ask for the cache line of ``array[index]`` of a contiguous 1-D array; any index is harmless."""

    def emit(context, builder, sig, args):
        pointer = builder.bitcast(_element(context, builder, sig.args[0], *args), ir.IntType(8).as_pointer())
        read, keep, data = (ir.Constant(_I32, n) for n in (0, 3, 1))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [pointer, read, keep, data]
        )
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


@intrinsic
def gather_sums(typingctx, low, high):
    """Lane k of the result is the sum of the lanes of ``low[k]``, lane 8 + k that of ``high[k]``, two tuples of lanes.

    A tree: level by level, two vectors become one that holds the half-summed lanes of both. Lanes without a vector
    hold anything.
    """

    def emit(context, builder, sig, args):
        low, high = (cgutils.unpack_tuple(builder, a, len(k)) for a, k in zip(args, sig.args, strict=True))
        row = [pair[k] if k < len(pair) else None for k in (0, 4, 2, 6, 1, 5, 3, 7) for pair in (low, high)]
        half = WIDTH // 2
        while half:
            row = [_merge(builder, half, a, b) for a, b in zip(row[::2], row[1::2], strict=True)]
            half //= 2
        return row[0]

    return lanes(low, high), emit


def _shuffle(builder, x, y, picks):
    picks = list(picks)
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(picks)), picks))


def _merge(builder, half, a, b):
    """Of every ``2 half`` lanes, sums of those of ``a`` that are ``half`` apart, then of those of ``b`` (or None)."""
    if a is None or b is None:
        only = b if a is None else a
        if only is None:
            return None
        return builder.fadd(only, _shuffle(builder, only, only, [k ^ half for k in range(WIDTH)]), flags=_FLAGS)
    kept = _shuffle(builder, a, b, [k + WIDTH if k & half else k for k in range(WIDTH)])
    moved = _shuffle(builder, a, b, [k ^ half if not k & half else (k ^ half) + WIDTH for k in range(WIDTH)])
    return builder.fadd(kept, moved, flags=_FLAGS)


@intrinsic
def interleave(typingctx, array, index, stride, parts):
    """Write a 4 x 4 block of pixels into a picture: pixel k, whose channels are lane k of ``parts`` (1, 3 or 4 lanes),
    goes to ``array[index + k // 4 * stride + k % 4 * channels]``."""

    def emit(context, builder, sig, args):
        channels = len(sig.args[3])
        vectors = cgutils.unpack_tuple(builder, args[3], channels)
        vectors += vectors[:1] * (channels == 3)
        for row in range(4):
            pixels = [_shuffle(builder, v, v, range(4 * row, 4 * row + 4)) for v in vectors]
            while len(pixels) > 1:
                half, size = len(pixels) // 2, pixels[0].type.count
                group = size // 4
                picks = [k * group + g + side * size for k in range(4) for side in (0, 1) for g in range(group)]
                pixels = [_shuffle(builder, pixels[2 * i], pixels[2 * i + 1], picks) for i in range(half)]
            if channels == 3:
                pixels = [_shuffle(builder, pixels[0], pixels[0], [k * 4 + c for k in range(4) for c in range(3)])]
            at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, row)))
            pointer = builder.bitcast(_element(context, builder, sig.args[0], args[0], at), pixels[0].type.as_pointer())
            builder.store(pixels[0], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, parts), emit


def _deinterleave(channels: int):
    @intrinsic
    def read(typingctx, array, index, stride):
        def emit(context, builder, sig, args):
            rows = []
            for row in range(4):
                at = builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, row)))
                kind = ir.VectorType(_F32, 4 * channels).as_pointer()
                pointer = builder.bitcast(_element(context, builder, sig.args[0], args[0], at), kind)
                rows.append(builder.load(pointer, align=4))
            out = []
            for c in range(channels):
                picks = [channels * k + c for k in range(8)]
                top, bottom = _shuffle(builder, *rows[:2], picks), _shuffle(builder, *rows[2:], picks)
                out.append(_shuffle(builder, top, bottom, range(WIDTH)))
            return context.make_tuple(builder, sig.return_type, out)

        return types.UniTuple(lanes, channels)(array, types.int64, types.int64), emit

    return read


deinterleave1, deinterleave3, deinterleave4 = (_deinterleave(channels) for channels in (1, 3, 4))
"""The channels, each as lanes, of a 4 x 4 block of pixels of a picture: the reverse of :func:`interleave`. Arguments:
array, index, stride."""


MAGIC = 12582912.0
"""1.5 * 2^23: added to a small float, it leaves the nearest integer in the low bits."""
EXP2 = (
    1.327647177951304e-3,
    9.675541332648363e-3,
    5.550713274153895e-2,
    2.4022119723884297e-1,
    6.931469670643622e-1,
    1.0000000716546722,
)
"""Minimax polynomial of 2^f on [-1/2, 1/2], highest power first: relative error 7.5e-8 before rounding."""


_SIXTEENTHS = (1.0000000068790165, 0.6931878313738595, 0.2402194624073827)
"""Minimax polynomial of 2^f on [-1/32, 1/32], lowest power first: relative error 4.3e-7 before rounding."""


def _sixteenths_table() -> list[int]:
    """Bits of 2^(k/16) / 255 less k in the four highest bits of the mantissa, which come with the sum's exponent."""
    values = (np.exp2(np.arange(WIDTH) / WIDTH) / 255).astype(np.float32).view(np.int32)
    return [int(value) - (k << 19) for k, value in enumerate(values)]


@intrinsic
def exp2_by_255(typingctx, t):
    """2^t / 255 for 0 <= t <= 126, relative error below 6e-7; other lanes hold anything.

    Where a register holds sixteen numbers (AVX-512), sixteenths of t are looked up in one and a parabola does the rest;
    elsewhere the polynomial of :func:`exp2`.
    """

    def emit(context, builder, sig, args):
        (t,) = args

        def add(x, y):
            return builder.fadd(x, y, flags=_FLAGS)

        def sub(x, y):
            return builder.fsub(x, y, flags=_FLAGS)

        def polynomial(f, coefficients):
            p = _constant(coefficients[0])
            for c in coefficients[1:]:
                p = _intrinsic_call(builder, f"llvm.fmuladd.v{WIDTH}f32", _VECTOR, [p, f, _constant(c)])
            return p

        def shift(x, amount):
            return builder.shl(builder.bitcast(x, _IVECTOR), ir.Constant(_IVECTOR, [ir.Constant(_I32, amount)] * WIDTH))

        if "+avx512f" in getattr(context.codegen(), "_tm_features", ""):
            magic = _constant(MAGIC / WIDTH)
            shifted = add(t, magic)
            p = polynomial(sub(t, sub(shifted, magic)), _SIXTEENTHS[::-1])
            table = ir.Constant(_IVECTOR, [ir.Constant(_I32, bits) for bits in _sixteenths_table()])
            pick = builder.bitcast(shifted, _IVECTOR)  # of an index, the instruction reads the lowest four bits
            found = _intrinsic_call(builder, "llvm.x86.avx512.permvar.si.512", _IVECTOR, [table, pick])
            power = builder.bitcast(builder.add(found, shift(shifted, 19)), _VECTOR)
            return builder.fmul(power, p, flags=_FLAGS)
        magic = _constant(MAGIC)
        shifted = add(t, magic)
        p = polynomial(sub(t, sub(shifted, magic)), [c / 255 for c in EXP2])
        return builder.bitcast(builder.add(builder.bitcast(p, _IVECTOR), shift(shifted, 23)), _VECTOR)

    return lanes(t), emit


@inlined
def exp2(t):
    """2^t for -126 <= t <= 126, relative error below 2.2e-7; other lanes hold anything."""
    shifted = t + MAGIC
    f = t - (shifted - MAGIC)
    p = fma(fma(fma(fma(fma(f, EXP2[0], EXP2[1]), f, EXP2[2]), f, EXP2[3]), f, EXP2[4]), f, EXP2[5])
    return times_power(p, shifted)
