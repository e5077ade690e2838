"""Products of bf16 matrices in a CPU's tile registers (AMX), for kernels that do more than one product at a time.

One step multiplies 32 rows by 32 columns and adds up in fp32, four registers at once:

    C [32, 32] fp32   +=   A [32, depth] bf16   x   B [depth / 2, 32] pairs

B lies in pairs: the two bf16 values that follow one another in the depth are one 32-bit word. A matrix whose rows run
along the depth becomes pairs by transposing words (:func:`transpose_words`); one whose rows run across it by weaving
each two rows together (:func:`weave_rows`). Values below fp32's normal range are taken for 0.

Only on x86 with AMX-BF16 and a kernel of the system that grants it: ask :func:`has_tiles`.
"""

import ctypes
import functools
from typing import Any

import torch
from llvmlite import binding, ir

from padless.kernels.vectors import Code, Memory, Whole, to_bf16

EDGE = 32
"""Rows and columns of what one step computes."""
HALF_EDGE = 16
SKEW = 32
"""Elements that scratch rows are longer than needed: rows a power of two apart would share few places of a cache."""
_ROWS, _BYTES_OF_ROW = HALF_EDGE, 64
_WORDS = 16
_SYS_ARCH_PRCTL, _ASK_FOR_STATE, _TILE_DATA = 158, 0x1023, 18

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_POINTER = ir.PointerType()


@functools.cache
def has_tiles() -> bool:
    """Return whether this process may use tile registers for bf16; asks the system to grant them."""
    features = binding.get_host_cpu_features()
    if not (features.get("amx-bf16", False) and features.get("avx512bw", False)):
        return False
    try:
        return ctypes.CDLL(None, use_errno=True).syscall(_SYS_ARCH_PRCTL, _ASK_FOR_STATE, _TILE_DATA) == 0
    except (OSError, AttributeError):
        return False


def fits_tiles(dtype: torch.dtype, width: int) -> bool:
    """Return whether matrices of this kind, so wide, can be multiplied in tiles on this machine."""
    return dtype == torch.bfloat16 and width % EDGE == 0 and has_tiles()


def _configuration(module: ir.Module) -> Any:
    """Return the constant that makes all eight registers 16 rows of 64 bytes."""
    name = "tile_configuration"
    found = module.globals.get(name)
    if found is not None:
        return found
    content = bytearray(64)
    content[0] = 1  # palette
    for register in range(8):
        content[16 + 2 * register] = _BYTES_OF_ROW
        content[48 + register] = _ROWS
    constant: Any = ir.GlobalVariable(module, ir.ArrayType(_I8, 64), name)
    constant.linkage, constant.global_constant, constant.align = "internal", True, 64
    constant.initializer = ir.Constant(constant.value_type, content)
    return constant


def _call(code: Code, name: str, *arguments: Any) -> None:
    module = code.builder.module
    function = module.globals.get(f"llvm.x86.{name}")
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [each.type for each in arguments])
        function = ir.Function(module, kind, f"llvm.x86.{name}")
    code.builder.call(function, arguments)


def begin_tiles(code: Code) -> None:
    """Set the registers up; :func:`end_tiles` has to follow on the same thread.

    Raises:
        RuntimeError: the system grants this process none; using them would end it.
    """
    if not has_tiles():
        raise RuntimeError("a kernel in tile registers was called where has_tiles() is False; ask fits_tiles() first")
    _call(code, "ldtilecfg", _configuration(code.builder.module))


def end_tiles(code: Code) -> None:
    """Give the registers back, so that the system need not save them."""
    _call(code, "tilerelease")


def _register(number: int) -> ir.Constant:
    return ir.Constant(_I8, number)


def add_product(
    code: Code,
    a: tuple[Memory, Whole, Whole],
    b: tuple[Memory, Whole, Whole],
    c: tuple[Memory, Whole, Whole],
    depth: Whole,
    *,
    fresh: bool,
) -> None:
    """Write a step: 32 x 32 of C.

    Args:
        code: where.
        a: memory, offset of its first row, elements from row to row; bf16.
        b: the same in pairs, bf16: a row of pairs is ``2 x columns`` elements.
        c: the same, fp32.
        depth: a multiple of 32.
        fresh: set C, instead of adding to it.
    """
    quarters = [(down, right) for down in range(2) for right in range(2)]
    (a_memory, a_begin, a_step), (b_memory, b_begin, b_step), (c_memory, c_begin, c_step) = a, b, c
    strides = [
        code.builder.mul(step.value, ir.Constant(_I64, size)) for step, size in ((a_step, 2), (b_step, 2), (c_step, 4))
    ]
    c_places = [c_memory.address(c_begin + c_step * (_ROWS * down) + _WORDS * right) for down, right in quarters]
    for number, place in enumerate(c_places):
        if fresh:
            _call(code, "tilezero", _register(number))
        else:
            _call(code, "tileloadd64", _register(number), place, strides[2])

    def step(index: Whole) -> None:
        for down in range(2):
            place = a_memory.address(a_begin + a_step * (_ROWS * down) + index * EDGE)
            _call(code, "tileloadd64", _register(4 + down), place, strides[0])
        for right in range(2):
            place = b_memory.address(b_begin + b_step * (index * _ROWS) + 2 * _WORDS * right)
            _call(code, "tileloadd64", _register(6 + right), place, strides[1])
        for number, (down, right) in enumerate(quarters):
            _call(code, "tdpbf16ps", _register(number), _register(4 + down), _register(6 + right))

    code.each(code.whole(0), depth // EDGE, step)
    for number, place in enumerate(c_places):
        _call(code, "tilestored64", _register(number), place, strides[2])


def _transposed(code: Code, rows: list[Any]) -> list[Any]:
    """Return 16 vectors of 16 words with rows and columns exchanged, one bit of both indices after the other."""
    for bit in (1, 2, 4, 8):
        masks = [[], []]
        for lane in range(_WORDS):
            masks[0].append(lane if not lane & bit else _WORDS + lane - bit)
            masks[1].append(lane + bit if not lane & bit else _WORDS + lane)
        low, high = (ir.Constant(ir.VectorType(_I32, _WORDS), mask) for mask in masks)
        following = list(rows)
        for number in range(_WORDS):
            if not number & bit:
                pair = rows[number], rows[number + bit]
                following[number] = code.builder.shuffle_vector(*pair, low)
                following[number + bit] = code.builder.shuffle_vector(*pair, high)
        rows = following
    return rows


def _load_words(code: Code, memory: Memory, offset: Whole) -> Any:
    return code.builder.load(memory.address(offset), typ=ir.VectorType(_I32, _WORDS), align=4)


def _transposed_block(code: Code, source: Memory, begin: Whole, step: Whole) -> list[Any]:
    return _transposed(code, [_load_words(code, source, begin + step * row) for row in range(_WORDS)])


def transpose_words(
    code: Code, source: Memory, begin: Whole, step: Whole, target: Memory, place: Whole, target_step: Whole
) -> None:
    """Write 16 rows of 32 bf16 as pairs: 16 rows of pairs, 16 columns. Offsets and steps count bf16 elements."""
    for number, words in enumerate(_transposed_block(code, source, begin, step)):
        code.builder.store(words, target.address(place + target_step * number), align=4)


def transpose_halves(
    code: Code, source: Memory, begin: Whole, step: Whole, target: Memory, place: Whole, target_step: Whole
) -> None:
    """Write 16 rows of 32 bf16 as 32 rows of 16."""
    kind = ir.VectorType(_I16, _WORDS)
    sixteen = ir.Constant(ir.VectorType(_I32, _WORDS), [16] * _WORDS)
    for number, words in enumerate(_transposed_block(code, source, begin, step)):
        for half, value in enumerate((words, code.builder.lshr(words, sixteen))):
            address = target.address(place + target_step * (2 * number + half))
            code.builder.store(code.builder.trunc(value, kind), address, align=2)


def transpose_to_rows(
    code: Code, source: Memory, begin: Whole, step: Whole, target: Memory, place: Whole, target_step: Whole
) -> None:
    """Write 16 rows of 16 fp32 as 16 rows of 16 bf16, rows and columns exchanged."""
    blocks = [
        code.builder.bitcast(each, ir.VectorType(ir.FloatType(), _WORDS))
        for each in _transposed_block(code, source, begin, step)
    ]
    for number, row in enumerate(blocks):
        code.builder.store(to_bf16(code.builder, row), target.address(place + target_step * number), align=2)


def weave_rows(
    code: Code, source: Memory, begin: Whole, step: Whole, target: Memory, place: Whole, valid: Whole | None = None
) -> None:
    """Write 2 rows of 32 bf16 as one row of 32 pairs; rows from ``valid`` on are 0 instead."""
    kind = ir.VectorType(_I16, 32)
    nothing = ir.Constant(kind, [0] * 32)

    def load(row: int) -> Any:
        words = code.builder.load(source.address(begin + step * row), typ=kind, align=2)
        if valid is None:
            return words
        return code.builder.select(code.builder.icmp_signed(">", valid.value, ir.Constant(_I64, row)), words, nothing)

    store_woven(code, load(0), load(1), target, place)


def store_woven(code: Code, first: Any, second: Any, target: Memory, place: Whole) -> None:
    """Write two vectors of 32 bf16, as 16-bit words, as one row of 32 pairs."""
    order = [each for lane in range(32) for each in (lane, 32 + lane)]
    woven = code.builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, 64), order))
    code.builder.store(woven, target.address(place), align=2)
