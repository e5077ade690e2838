"""What a layer does to rows beside its matrix products, each in one pass: norm, GeGLU, rotation, sums.

On a CPU only. Tensors are fp32 or bf16 in any mixture unless said otherwise, and contiguous; arithmetic is fp32.

Legend: C rows, D model width, I GeGLU width, N heads, H head width, P = H / 2 pairs of features, R padded rows, 3 =
query, key, value.
"""

import torch
from torch import Tensor

from padless.kernels.checked import check_shapes
from padless.kernels.native import kernel, num_threads
from padless.kernels.vector_math import normal_below, normal_density
from padless.kernels.vectors import Code, Columns, Memory, Vector, Whole


@kernel
def _normalise(
    code: Code,
    row: Whole,
    x: Memory,
    weight: Memory,
    out: Memory,
    mean: Memory,
    rstd: Memory,
    width: Whole,
    eps: Vector,
) -> None:
    begin, size = row * width, width.to_real()
    (total,) = code.columns(width, lambda at, total: (total + x.load(begin, at),), 0.0)
    middle = total.sum() / size

    def add_square(at: Columns, total: Vector) -> tuple[Vector]:
        away = x.load(begin, at) - middle
        return (total + away * away,)

    (squares,) = code.columns(width, add_square, 0.0)
    scale = 1.0 / (squares.sum() / size + eps).sqrt()
    mean.put_one(row, middle)
    rstd.put_one(row, scale)

    def put(at: Columns) -> None:
        out.store(begin, at, (x.load(begin, at) - middle) * scale * weight.load(code.whole(0), at))

    code.columns(width, put)


def normalise(x_CD: Tensor, weight_D: Tensor, eps: float, mean_C: Tensor, rstd_C: Tensor, out_CD: Tensor) -> None:
    """Put the normed rows into ``out_CD``, and each row's mean and 1 / deviation (both fp32) beside it."""
    check_shapes("CD D C:f C:f CD", x_CD, weight_D, mean_C, rstd_C, out_CD)
    _normalise(x_CD.shape[0], x_CD, weight_D, out_CD, mean_C, rstd_C, x_CD.shape[1], eps)


@kernel
def _normalise_backward(
    code: Code,
    row: Whole,
    grad: Memory,
    x: Memory,
    weight: Memory,
    mean: Memory,
    rstd: Memory,
    residual: Memory,
    out: Memory,
    normed: Memory,
    grad_weight: Memory,
    width: Whole,
) -> None:
    begin, size, nothing = row * width, width.to_real(), code.whole(0)
    middle, scale = mean.one(row), rstd.one(row)
    own_sums = code.thread * width

    def add_up(at: Columns, plain: Vector, along: Vector) -> tuple[Vector, Vector]:
        upper, unit = grad.load(begin, at), (x.load(begin, at) - middle) * scale
        weighted = upper * weight.load(nothing, at)
        grad_weight.store(own_sums, at, grad_weight.load(own_sums, at) + upper * unit)
        return plain + weighted, along + weighted * unit

    plain, along = (each.sum() / size for each in code.columns(width, add_up, 0.0, 0.0))

    def put(at: Columns) -> None:
        unit, factor = (x.load(begin, at) - middle) * scale, weight.load(nothing, at)
        inner = grad.load(begin, at) * factor - plain - unit * along
        out.store(begin, at, residual.load(begin, at) + inner * scale)
        normed.store(begin, at, unit * factor)

    code.columns(width, put)


def normalise_backward(
    grad_CD: Tensor,
    x_CD: Tensor,
    weight_D: Tensor,
    mean_C: Tensor,
    rstd_C: Tensor,
    residual_CD: Tensor,
    out_CD: Tensor,
    normed_CD: Tensor,
) -> Tensor:
    """Put the gradient of x plus ``residual_CD`` into ``out_CD`` and the normed rows into ``normed_CD``.

    Returns:
        The gradient of the weight, fp32.
    """
    tensors = grad_CD, x_CD, weight_D, mean_C, rstd_C, residual_CD, out_CD, normed_CD
    check_shapes("CD CD D C:f C:f CD CD CD", *tensors)
    num_rows, width = x_CD.shape
    threads = num_threads(num_rows)
    grad_tD = torch.zeros((threads, width), dtype=torch.float32)
    _normalise_backward(num_rows, *tensors, grad_tD, width, threads=threads)
    return grad_tD.sum(0)


@kernel
def _geglu(code: Code, row: Whole, both: Memory, out: Memory, inner: Whole) -> None:
    def put(at: Columns) -> None:
        x = both.load(row * inner * 2, at)
        out.store(row * inner, at, x * normal_below(x) * both.load(row * inner * 2 + inner, at))

    code.columns(inner, put)


def geglu(both_C2I: Tensor, out_CI: Tensor) -> None:
    """Put gelu(input) x gate into ``out_CI``: input and gate are the halves of ``both_C2I``; gelu is the exact one."""
    _check_halves(both_C2I, out_CI)
    _geglu(out_CI.shape[0], both_C2I, out_CI, out_CI.shape[1])


@kernel
def _geglu_backward(
    code: Code, row: Whole, grad: Memory, both: Memory, grad_both: Memory, out: Memory, inner: Whole
) -> None:
    first, second = row * inner * 2, row * inner * 2 + inner

    def put(at: Columns) -> None:
        x, gate, upper = both.load(first, at), both.load(second, at), grad.load(row * inner, at)
        below = normal_below(x)
        active = x * below
        out.store(row * inner, at, active * gate)
        grad_both.store(first, at, upper * gate * (below + x * normal_density(x)))
        grad_both.store(second, at, upper * active)

    code.columns(inner, put)


def geglu_backward(grad_CI: Tensor, both_C2I: Tensor, grad_C2I: Tensor, out_CI: Tensor) -> None:
    """Put the gradient of ``both_C2I`` into ``grad_C2I``, and what :func:`geglu` gave into ``out_CI``."""
    for both in (both_C2I, grad_C2I):
        _check_halves(both, out_CI, grad_CI)
    _geglu_backward(out_CI.shape[0], grad_CI, both_C2I, grad_C2I, out_CI, out_CI.shape[1])


@kernel
def _rotate(
    code: Code,
    row: Whole,
    x: Memory,
    cos: Memory,
    sin: Memory,
    out: Memory,
    heads: Whole,
    pairs: Whole,
    row_step: Whole,
    head_step: Whole,
    out_begin: Whole,
    out_row_step: Whole,
    out_head_step: Whole,
    direction: Vector,
    query_scale: Vector,
) -> None:
    """Rows are ``row_step`` apart, heads (queries', then keys', then values') ``head_step``, in and out."""
    angles = row * pairs

    def turn(head: Whole, scale: Vector | None) -> None:
        source, target = row * row_step + head * head_step, out_begin + row * out_row_step + head * out_head_step

        def put(at: Columns) -> None:
            one, other = x.load(source, at), x.load(source + pairs, at)
            if scale is not None:
                one, other = one * scale, other * scale
            across, along = sin.load(angles, at) * direction, cos.load(angles, at)
            out.store(target, at, one * along - other * across)
            out.store(target + pairs, at, other * along + one * across)

        code.columns(pairs, put)

    def copy(head: Whole) -> None:
        source, target = row * row_step + head * head_step, out_begin + row * out_row_step + head * out_head_step
        code.columns(pairs * 2, lambda at: out.store(target, at, x.load(source, at)))

    code.each(code.whole(0), heads, lambda head: turn(head, query_scale))
    code.each(heads, heads * 2, lambda head: turn(head, None))
    code.each(heads * 2, heads * 3, copy)


def rotate(qkv_C3NH: Tensor, cos_CP: Tensor, sin_CP: Tensor, query_scale: float, out_3NRH: Tensor, first: int) -> None:
    """Put rotated queries times ``query_scale``, rotated keys, and values into rows ``first`` on of ``out_3NRH``.

    Feature h and feature h + P are a pair.

    Args:
        qkv_C3NH: contiguous.
        cos_CP: fp32, of each row's angles.
        sin_CP: fp32.
        query_scale: of queries.
        out_3NRH: contiguous.
        first: row of ``out_3NRH`` that gets row 0.
    """
    _check_room(check_shapes("C3NH CP:f CP:f 3NRH", qkv_C3NH, cos_CP, sin_CP, out_3NRH), first)
    num_rows, _, heads, width = qkv_C3NH.shape
    steps = (3 * heads * width, width, first * width, width, out_3NRH.shape[2] * width)
    _rotate(num_rows, qkv_C3NH, cos_CP, sin_CP, out_3NRH, heads, width // 2, *steps, 1.0, query_scale)


def rotate_back(
    grad_3NRH: Tensor, first: int, cos_CP: Tensor, sin_CP: Tensor, query_scale: float, out_C3NH: Tensor
) -> None:
    """Put the gradient of what :func:`rotate` was given into ``out_C3NH``."""
    _check_room(check_shapes("3NRH CP:f CP:f C3NH", grad_3NRH, cos_CP, sin_CP, out_C3NH), first)
    num_rows, _, heads, width = out_C3NH.shape
    steps = (width, grad_3NRH.shape[2] * width, 0, 3 * heads * width, width)
    source = grad_3NRH[:, :, first:]  # its first element is where reading begins
    _rotate(num_rows, source, cos_CP, sin_CP, out_C3NH, heads, width // 2, *steps, -1.0, query_scale)


@kernel
def _add(
    code: Code,
    row: Whole,
    x: Memory,
    y: Memory,
    out: Memory,
    width: Whole,
    x_step: Whole,
    y_step: Whole,
    out_step: Whole,
) -> None:
    def put(at: Columns) -> None:
        out.store(row * out_step, at, x.load(row * x_step, at) + y.load(row * y_step, at))

    code.columns(width, put)


def add(x_CD: Tensor, y_CD: Tensor, out_CD: Tensor) -> None:
    """Put a sum into ``out_CD``, which may be one of the two; rows of any of them may lie apart."""
    tensors = x_CD, y_CD, out_CD
    check_shapes("CD CD CD", *tensors, rows_apart=True)
    _add(*out_CD.shape[:1], *tensors, out_CD.shape[1], *(each.stride(0) for each in tensors))


@kernel
def _lay_heads_first(
    code: Code,
    row: Whole,
    x: Memory,
    y: Memory,
    out: Memory,
    dots: Memory,
    heads: Whole,
    width: Whole,
    first: Whole,
    num_rows: Whole,
) -> None:
    def put(head: Whole) -> None:
        source, target = row * heads * width + head * width, head * num_rows + first + row

        def body(at: Columns, total: Vector) -> tuple[Vector]:
            value = x.load(source, at)
            out.store(target * width, at, value)
            return (total + value * y.load(source, at),)

        (total,) = code.columns(width, body, 0.0)
        dots.put_one(target, total.sum())

    code.each(code.whole(0), heads, put)


def lay_heads_first(x_CNH: Tensor, y_CNH: Tensor, out_NTH: Tensor, dots_NT: Tensor, first: int) -> None:
    """Copy x into rows ``first`` on of ``out_NTH``; put the sums over H of x times y into ``dots_NT``.

    Args:
        x_CNH: contiguous.
        y_CNH: contiguous.
        out_NTH: contiguous.
        dots_NT: fp32.
        first: row that gets row 0.
    """
    _check_room(check_shapes("CNH CNH NRH NR:f", x_CNH, y_CNH, out_NTH, dots_NT), first)
    num_rows, heads, width = x_CNH.shape
    _lay_heads_first(num_rows, x_CNH, y_CNH, out_NTH, dots_NT, heads, width, first, out_NTH.shape[1])


@kernel
def _move_rows(
    code: Code,
    row: Whole,
    x: Memory,
    source: Memory,
    out: Memory,
    target: Memory,
    width: Whole,
    rows: Whole,
    x_head_step: Whole,
    x_step: Whole,
    out_head_step: Whole,
    out_step: Whole,
) -> None:
    head = row // rows
    number = row - head * rows
    read = head * x_head_step + source.whole(number) * x_step
    write = head * out_head_step + target.whole(number) * out_step
    code.columns(width, lambda at: out.store(write, at, x.load(read, at)))


def move_rows(x_NRH: Tensor, source_r: Tensor, out_NRH: Tensor, target_r: Tensor) -> None:
    """Copy rows ``source_r`` of each head to rows ``target_r`` of it.

    Args:
        x_NRH: rows and heads may lie apart.
        source_r: int32.
        out_NRH: likewise; its other rows stay as they are.
        target_r: int32.
    """
    check_shapes("r:i r:i", source_r, target_r)
    check_shapes("NRH NSH", x_NRH, out_NRH, rows_apart=True)
    rows, steps = source_r.shape[0], (*x_NRH.stride()[:2], *out_NRH.stride()[:2])
    _move_rows(x_NRH.shape[0] * rows, x_NRH, source_r, out_NRH, target_r, x_NRH.shape[2], rows, *steps)


def _check_halves(both_C2I: Tensor, *others_CI: Tensor) -> None:
    check_shapes(" ".join(["CE", *("CI" for _ in others_CI)]), both_C2I, *others_CI)
    if both_C2I.shape[1] != 2 * others_CI[0].shape[1]:
        raise ValueError(f"{both_C2I.shape[1]} columns are not two halves of {others_CI[0].shape[1]}")


def _check_room(sizes: dict[str, int], first: int) -> None:
    """Hold C rows from ``first`` on to the R that there are, and P pairs to H features."""
    if not 0 <= first <= sizes["R"] - sizes["C"]:
        raise ValueError(f"{sizes['C']} rows from {first} on are not within {sizes['R']}")
    if "P" in sizes and sizes["H"] != 2 * sizes["P"]:
        raise ValueError(f"{sizes['P']} pairs are not {sizes['H']} features")
