"""Attention within segments in tile registers (AMX): scores never leave a core's cache.

One row of a kernel is one head of one segment; it takes 32 queries at a time:

    S = Q K^T      P = exp(S - largest)      O = P V / sum

:mod:`padless.kernels.tiled_attention_backward` is its gradient. On a CPU with tile registers only; queries, keys and
values are bf16, sums fp32.

Legend: T packed tokens, P rows (at least ``SPARE_ROWS`` more than T), N heads, H head width, S segments, L tokens of
the longest, rounded up to whole tiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from padless.kernels.checked import check_shapes
from padless.kernels.native import kernel_of_large_rows, num_threads
from padless.kernels.tile_matrices import Matrix, each_step, lay_words, lay_woven, products, rounded_up
from padless.kernels.tiles import EDGE, SKEW, begin_tiles, end_tiles
from padless.kernels.vector_math import LOG2_E, exp2
from padless.kernels.vectors import Code, Columns, Memory, Vector, Whole

SPARE_ROWS = EDGE
"""Rows behind the tokens that are read, and count for nothing, whatever they hold."""


@dataclass(frozen=True)
class HeadOfSegment:
    """What one row of a kernel is: a head, and where the tokens of a segment are."""

    head: Whole
    start: Whole
    length: Whole

    @classmethod
    def of_item(cls, item: Whole, starts: Memory, lengths: Memory, segments: Whole) -> "HeadOfSegment":
        """Return which one a row is: head by head, segments in order."""
        head = item // segments
        segment = item - head * segments
        return cls(head, starts.whole(segment), lengths.whole(segment))

    def matrices(self, qkv: Memory, heads: Whole, rows: Whole, width: Whole) -> tuple[Matrix, Matrix, Matrix]:
        """Return its queries, keys and values, [L, H] each."""
        q, k, v = (
            Matrix(qkv, (heads * which + self.head) * rows * width + self.start * width, width) for which in range(3)
        )
        return q, k, v


@kernel_of_large_rows
def _attend(
    code: Code,
    item: Whole,
    qkv: Memory,
    starts: Memory,
    lengths: Memory,
    low: Memory,
    high: Memory,
    out: Memory,
    largest: Memory,
    total: Memory,
    segments: Whole,
    heads: Whole,
    width: Whole,
    rows: Whole,
    reach: Whole,
    longest: Whole,
    out_head_step: Whole,
    out_step: Whole,
) -> None:
    part = HeadOfSegment.of_item(item, starts, lengths, segments)
    head, start, length = part.head, part.start, part.length
    padded = rounded_up(length, EDGE)
    q, k, v = part.matrices(qkv, heads, rows, width)
    step = longest + SKEW
    at_low, at_high = code.thread * (step * (width * 2 + EDGE)), code.thread * ((step + width) * EDGE)
    keys = Matrix(low, at_low, step * 2)  # [H / 2, L] pairs
    values = Matrix(low, at_low + step * width, width * 2)  # [L / 2, H] pairs
    shares = Matrix(low, at_low + step * width * 2, step)  # [32, L]
    scores = Matrix(high, at_high, step)  # [32, L]
    sums = Matrix(high, at_high + step * EDGE, width)  # [32, H]
    begin_tiles(code)
    lay_words(code, k, keys, padded, width)
    lay_woven(code, v, values, padded, width, length)  # a share of 0 times a neighbour's NaN were NaN

    def attend(query: Whole) -> None:
        first_key = (query - reach).at_least(0) // EDGE * EDGE
        span = rounded_up((query + EDGE + reach).at_most(length) - first_key, EDGE)
        products(
            code,
            code.whole(EDGE),
            span,
            width,
            lambda _, key: (q.at(query), keys.at(code.whole(0), (first_key + key) * 2), scores.at(code.whole(0), key)),
            fresh=True,
        )
        valid = (length - query).at_most(EDGE)

        def soften(row: Whole) -> None:
            token = query + row
            stop = (token + reach + 1).at_most(length) - first_key
            seen = (token - reach).at_least(0) - first_key, stop
            top, all_shares = _soften(code, scores, shares, row, span, seen)
            largest.put_one(head * rows + start + token, top)
            total.put_one(head * rows + start + token, all_shares)

        code.each(code.whole(0), valid, soften)
        products(
            code,
            code.whole(EDGE),
            width,
            span,
            lambda row, column: (shares.at(row), values.at(first_key // 2, column * 2), sums.at(row, column)),
            fresh=True,
        )

        def divide(row: Whole) -> None:
            token = start + query + row
            factor = 1.0 / total.one(head * rows + token)

            def put(at: Columns) -> None:
                out.store(head * out_head_step + token * out_step, at, high.load(sums.offset(row), at) * factor)

            code.columns(width, put)

        code.each(code.whole(0), valid, divide)

    each_step(code, length, EDGE, attend)
    end_tiles(code)


def _soften(
    code: Code, scores: Matrix, shares: Matrix, row: Whole, span: Whole, seen: tuple[Whole, Whole]
) -> tuple[Vector, Vector]:
    """Write one row's exponentials, 0 where a key is hidden; return its largest score and their sum."""
    source, target = scores.offset(row), shares.offset(row)

    def look(at: Columns, top: Vector) -> tuple[Vector]:
        score = scores.memory.load(source, at)
        return (top.maximum(at.within(*seen).choose(score, float("-inf"))),)

    (tops,) = code.columns(span, look, float("-inf"))
    top = tops.max()
    shift = top.equals(float("-inf")).choose(0.0, top) * LOG2_E

    def put(at: Columns, before: Vector) -> tuple[Vector]:
        share = exp2(scores.memory.load(source, at) * LOG2_E - shift)
        share = at.within(*seen).choose(share, 0.0)
        shares.memory.store(target, at, share)
        return (before + share,)

    (parts,) = code.columns(span, put, 0.0)
    return top, parts.sum()


def check_segments(starts_S: Tensor, lengths_S: Tensor, longest: int, reach: int, num_tokens: int, width: int) -> None:
    """Hold what a kernel is told of segments to the memory it has.

    Raises:
        ValueError: segments that are none, beyond the tokens, or longer than ``longest``; another reach or head width.
    """
    if reach < 0 or width % EDGE:
        raise ValueError(f"reach={reach}, head width {width}: need a reach of 0 or more, a width in whole {EDGE}s")
    if not len(lengths_S) or min(starts_S.min().item(), lengths_S.min().item()) < 0:
        raise ValueError("segments need a start and a length of 0 or more each, and there has to be one")
    if lengths_S.max().item() > longest or (starts_S + lengths_S).max().item() > num_tokens:
        raise ValueError(f"segments reach beyond {num_tokens} tokens, or are longer than {longest}")


def attend_in_tiles(
    qkv_3NPH: Tensor, starts_S: Tensor, lengths_S: Tensor, longest: int, reach: int, out_NTH: Tensor
) -> Tensor:
    """Fill ``out_NTH``: each token sees its segment, or ``reach`` tokens of it to each side.

    Args:
        qkv_3NPH: bf16 queries (scaled), keys, values; H a multiple of 32.
        starts_S: int32 first token of each segment.
        lengths_S: int32.
        longest: the largest of ``lengths_S``.
        reach: tokens.
        out_NTH: bf16, rows and heads may lie apart.

    Returns:
        The log of each query's sum of exponentials, fp32 [N, P]; those behind the tokens mean nothing.

    Raises:
        ValueError: tensors that do not fit one another or the segments.
    """
    sizes = check_shapes("3NPH:b S:i S:i", qkv_3NPH, starts_S, lengths_S)
    heads, rows, width, segments = (sizes[letter] for letter in "NPHS")
    tokens = check_shapes("NTH:b", out_NTH, rows_apart=True)["T"]
    if out_NTH.shape != (heads, tokens, width) or tokens + SPARE_ROWS > rows:
        raise ValueError(
            f"out_NTH is {tuple(out_NTH.shape)}, but qkv_3NPH {tuple(qkv_3NPH.shape)}, spare rows included"
        )
    check_segments(starts_S, lengths_S, longest, reach, tokens, width)
    threads = num_threads(heads * segments, 1)
    longest = -(-longest // EDGE) * EDGE
    low = qkv_3NPH.new_empty(threads * (longest + SKEW) * (width * 2 + EDGE))
    high = low.new_empty(threads * (longest + SKEW + width) * EDGE, dtype=torch.float32)
    largest_NP, total_NP = (low.new_empty((heads, rows), dtype=torch.float32) for _ in range(2))
    tensors = qkv_3NPH, starts_S, lengths_S, low, high, out_NTH, largest_NP, total_NP
    numbers = segments, heads, width, rows, reach, longest, *out_NTH.stride()[:2]
    _attend(heads * segments, *tensors, *numbers, threads=threads)
    return total_NP.log_().add_(largest_NP)
