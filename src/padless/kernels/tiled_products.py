"""The products of a linear layer in tile registers (AMX): forward, gradient of the input, gradient of the weight.

torch's own products of bf16 matrices reach about 60 % of what these do on the same core (``padless bench step`` prints
the ceiling that torch's reach). A weight is laid out once for each direction:

    x W^T    [C, E]    pairs along D, panels of 32 columns: [E / 32, D / 2, 32] pairs
    g W      [C, D]    pairs along E, panels of 32 columns: [D / 32, E / 2, 32] pairs

On a CPU with tile registers only; operands are bf16, sums fp32.

Legend: C rows, E outputs, D inputs of the layer, all of which but C multiples of 32.
"""

import torch
from torch import Tensor

from padless.kernels.checked import check_shapes
from padless.kernels.native import kernel, kernel_of_large_rows, num_threads
from padless.kernels.tile_matrices import PANEL, Matrix, each_step, lay_turned, lay_words, lay_woven, products
from padless.kernels.tiles import EDGE, SKEW, begin_tiles, end_tiles
from padless.kernels.vectors import Code, Memory, Whole

_BLOCK_ROWS = 64
_DEPTH = 256


@kernel
def _lay_words(code: Code, panel: Whole, x: Memory, out: Memory, width: Whole) -> None:
    source = Matrix(x, panel * EDGE * width, width)
    lay_words(code, source, Matrix(out, panel * EDGE * width, code.whole(PANEL)), code.whole(EDGE), width)


@kernel
def _lay_woven(code: Code, panel: Whole, x: Memory, out: Memory, rows: Whole, width: Whole) -> None:
    source, target = Matrix(x, panel * EDGE, width), Matrix(out, panel * EDGE * rows, code.whole(PANEL))
    lay_woven(code, source, target, rows, code.whole(EDGE))


def check_whole_tiles(letters: str, x: Tensor) -> None:
    """Hold a bf16 matrix to multiples of 32.

    Raises:
        ValueError: another size, dtype or layout.
    """
    sizes = check_shapes(f"{letters}:b", x)
    if any(size % EDGE for size in sizes.values()):
        raise ValueError(f"{tuple(x.shape)} is not in whole tiles of {EDGE}")


def in_words(x_RK: Tensor) -> Tensor:
    """Lay out a matrix for products along its rows: [R / 32, K / 2, 32] pairs."""
    check_whole_tiles("RK", x_RK)
    out = torch.empty_like(x_RK)
    _lay_words(x_RK.shape[0] // EDGE, x_RK, out, x_RK.shape[1])
    return out


def woven(x_KC: Tensor) -> Tensor:
    """Lay out a matrix for products along its columns: [C / 32, K / 2, 32] pairs."""
    check_whole_tiles("KC", x_KC)
    out = torch.empty_like(x_KC)
    _lay_woven(x_KC.shape[1] // EDGE, x_KC, out, *x_KC.shape)
    return out


def _strip(
    code: Code, block: Whole, memories: tuple[Memory, Memory, Memory], sizes: tuple[Whole, Whole, Whole]
) -> tuple[Matrix, Whole, Whole]:
    """Write 32 rows of a product; return where they are, their number of rows that count, and the first of these."""
    (x, panels, high), (rows, depth, columns) = memories, sizes
    first = block * EDGE
    left, result = (
        Matrix(x, first * depth, depth),
        Matrix(high, code.thread * ((columns + SKEW) * EDGE), columns + SKEW),
    )
    begin_tiles(code)
    products(
        code,
        code.whole(EDGE),
        columns,
        depth,
        lambda row, at: (left.at(row), (panels, at * depth, code.whole(PANEL)), result.at(row, at)),
        fresh=True,
    )
    end_tiles(code)
    return result, (rows - first).at_most(EDGE), first


@kernel_of_large_rows
def _multiply(
    code: Code,
    block: Whole,
    x: Memory,
    panels: Memory,
    high: Memory,
    out: Memory,
    rows: Whole,
    depth: Whole,
    columns: Whole,
) -> None:
    result, valid, first = _strip(code, block, (x, panels, high), (rows, depth, columns))

    def put(row: Whole) -> None:
        source, target = result.offset(row), (first + row) * columns
        code.columns(columns, lambda at: out.store(target, at, high.load(source, at)))

    code.each(code.whole(0), valid, put)


@kernel_of_large_rows
def _multiply_add(
    code: Code,
    block: Whole,
    x: Memory,
    panels: Memory,
    high: Memory,
    other: Memory,
    out: Memory,
    rows: Whole,
    depth: Whole,
    columns: Whole,
) -> None:
    result, valid, first = _strip(code, block, (x, panels, high), (rows, depth, columns))

    def put(row: Whole) -> None:
        source, target = result.offset(row), (first + row) * columns
        code.columns(columns, lambda at: out.store(target, at, other.load(target, at) + high.load(source, at)))

    code.each(code.whole(0), valid, put)


@kernel_of_large_rows
def _add_outer(
    code: Code,
    block: Whole,
    grad: Memory,
    panels: Memory,
    low: Memory,
    total: Memory,
    rows: Whole,
    outputs: Whole,
    inputs: Whole,
) -> None:
    first = block * _BLOCK_ROWS
    count = (outputs - first).at_most(_BLOCK_ROWS)
    turned = Matrix(low, code.thread * ((rows + SKEW) * _BLOCK_ROWS), rows + SKEW)
    lay_turned(code, Matrix(grad, first, outputs), turned, rows, count)
    result = Matrix(total, first * inputs, inputs)
    begin_tiles(code)

    def part(begin: Whole) -> None:
        products(
            code,
            count,
            inputs,
            (rows - begin).at_most(_DEPTH),
            lambda row, column: (
                turned.at(row, begin),
                (panels, column * rows + begin * EDGE, code.whole(PANEL)),
                result.at(row, column),
            ),
            fresh=False,
        )

    each_step(code, rows, _DEPTH, part)
    end_tiles(code)


def multiply(x_CK: Tensor, panels: Tensor, out_CN: Tensor, added_CN: Tensor | None = None) -> Tensor:
    """Put a product with what :func:`in_words` or :func:`woven` laid out into ``out_CN``, and return it.

    Args:
        x_CK: bf16, contiguous.
        panels: N x K bf16.
        out_CN: fp32 or bf16, contiguous.
        added_CN: added before it is rounded; likewise.
    """
    sizes = check_shapes("CK:b CN", x_CK, out_CN)
    if added_CN is not None:
        check_shapes("CN CN", added_CN, out_CN)
    rows, depth, columns = (sizes[letter] for letter in "CKN")
    if panels.numel() != columns * depth:
        raise ValueError(f"panels of {panels.numel()} values are not {columns} x {depth}")
    blocks = -(-rows // EDGE)
    threads = num_threads(blocks, 1)
    high = torch.empty(threads * (columns + SKEW) * EDGE, dtype=torch.float32)
    memories, sizes = (to_whole_tiles(x_CK), panels, high), (rows, depth, columns)
    if added_CN is None:
        _multiply(blocks, *memories, out_CN, *sizes, threads=threads)
    else:
        _multiply_add(blocks, *memories, added_CN, out_CN, *sizes, threads=threads)
    return out_CN


def add_outer(total_ED: Tensor, grad_CE: Tensor, x_CD: Tensor) -> None:
    """Add grad^T x to an fp32 sum. Both are bf16 and contiguous."""
    check_shapes("ED:f CE:b CD:b", total_ED, grad_CE, x_CD)
    grad_CE, x_CD = to_whole_tiles(grad_CE), to_whole_tiles(x_CD)
    rows, outputs = grad_CE.shape
    blocks = -(-outputs // _BLOCK_ROWS)
    threads = num_threads(blocks, 1)
    low = grad_CE.new_empty(threads * (rows + SKEW) * _BLOCK_ROWS)
    _add_outer(blocks, grad_CE, woven(x_CD), low, total_ED, rows, outputs, x_CD.shape[1], threads=threads)


def to_whole_tiles(rows: Tensor, value: float = 0.0) -> Tensor:
    """Return rows up to a multiple of 32, filled up with the value."""
    spare = -rows.shape[0] % EDGE
    if spare == 0:
        return rows.contiguous()
    return torch.cat([rows, rows.new_full((spare, *rows.shape[1:]), value)])
