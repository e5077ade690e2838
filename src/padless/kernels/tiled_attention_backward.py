"""The gradient of :mod:`padless.kernels.tiled_attention` (Dao et al. 2022, "FlashAttention", appendix B).

``QUERIES`` at a time against ``KEYS`` of a chunk, scores transposed, so that keys and values get their gradients
without a transposition:

    P^T = exp(K Q^T - lse)     dS^T = P^T (V dO^T - delta)     dV += P^T dO     dK += dS^T Q     dQ^T += K^T dS^T

A chunk of keys is what stays in a core's cache with its gradients.

Legend: as there; C keys of a chunk.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from padless.kernels.checked import check_shapes
from padless.kernels.native import kernel_of_large_rows, num_threads
from padless.kernels.tile_matrices import (
    Matrix,
    clear,
    each_step,
    lay_turned,
    lay_words,
    lay_woven,
    products,
    rounded_up,
)
from padless.kernels.tiled_attention import SPARE_ROWS, HeadOfSegment, check_segments
from padless.kernels.tiles import EDGE, HALF_EDGE, SKEW, begin_tiles, end_tiles, store_woven, transpose_to_rows
from padless.kernels.vector_math import LOG2_E, exp2
from padless.kernels.vectors import Code, Columns, Memory, Vector, Whole, to_bf16

QUERIES, KEYS, CHUNK_KEYS = 64, 256, 1024
_FAR = 1 << 32
Size = TypeVar("Size", Whole, int)


@dataclass(frozen=True)
class _Scratch:
    """What one thread has for itself, one matrix behind the other."""

    keys_turned: Matrix  # [H, C]
    shares: Matrix  # [KEYS, QUERIES]
    grads: Matrix  # [KEYS, QUERIES], of scores
    grads_woven: Matrix  # [KEYS / 2, QUERIES] pairs
    queries_words: Matrix  # [H / 2, QUERIES] pairs
    outs_words: Matrix  # [H / 2, QUERIES] pairs
    queries_woven: Matrix  # [QUERIES / 2, H] pairs
    outs_woven: Matrix  # [QUERIES / 2, H] pairs
    rows: Matrix  # [16, H]
    scores: Matrix  # [32, QUERIES] fp32
    grad_shares: Matrix  # [32, QUERIES] fp32
    grad_k: Matrix  # [C, H] fp32
    grad_v: Matrix  # [C, H] fp32
    grad_q: Matrix  # [H, L] fp32


def _scratch(code: Code, low: Memory, high: Memory, width: Whole, longest: Whole) -> _Scratch:
    queries, pairs = code.whole(QUERIES), code.whole(2 * QUERIES)
    keys, tokens = code.whole(CHUNK_KEYS + SKEW), longest + SKEW
    strip, block = code.whole(EDGE * QUERIES), code.whole(KEYS * QUERIES)
    side, chunk = width * QUERIES, width * CHUNK_KEYS
    lows = (
        (keys * width, keys),
        *((block, step) for step in (queries, queries, pairs)),
        *((side, step) for step in (pairs, pairs, width * 2, width * 2)),
        (width * HALF_EDGE, width),
    )
    highs = (strip, queries), (strip, queries), (chunk, width), (chunk, width), (tokens * width, tokens)
    low_size, high_size = _sizes(width, longest)
    return _Scratch(*_laid(low, code.thread * low_size, lows), *_laid(high, code.thread * high_size, highs))


def _laid(memory: Memory, begin: Whole, parts: Iterable[tuple[Whole, Whole]]) -> Iterator[Matrix]:
    """Yield matrices one behind the other, given elements and elements from row to row."""
    for size, step in parts:
        yield Matrix(memory, begin, step)
        begin = begin + size


def _sizes(width: Size, longest: Size) -> tuple[Size, Size]:
    """Return elements of one thread's scratch, bf16 and fp32."""
    low = width * (CHUNK_KEYS + SKEW + 4 * QUERIES + HALF_EDGE) + 3 * KEYS * QUERIES
    return low, width * (longest + (SKEW + 2 * CHUNK_KEYS)) + 2 * EDGE * QUERIES


@kernel_of_large_rows
def _attend_backward(
    code: Code,
    item: Whole,
    qkv: Memory,
    grad_out: Memory,
    lse: Memory,
    delta: Memory,
    starts: Memory,
    lengths: Memory,
    low: Memory,
    high: Memory,
    grad: Memory,
    segments: Whole,
    heads: Whole,
    width: Whole,
    rows: Whole,
    reach: Whole,
    longest: Whole,
) -> None:
    part = HeadOfSegment.of_item(item, starts, lengths, segments)
    length = part.length
    scratch = _scratch(code, low, high, width, longest)
    q, k, v = part.matrices(qkv, heads, rows, width)
    grad_q, grad_k, grad_v = part.matrices(grad, heads, rows, width)
    first_row = part.head * rows + part.start
    outs = Matrix(grad_out, first_row * width, width)
    sums = _Sums(lse, delta, first_row)
    padded = rounded_up(length, EDGE)
    begin_tiles(code)
    code.each(code.whole(0), width, lambda row: clear(code, high, scratch.grad_q.offset(row), padded))

    def chunk(first_key: Whole) -> None:
        keys = (length - first_key).at_most(CHUNK_KEYS)
        padded_keys = rounded_up(keys, EDGE)
        for each in (scratch.grad_k, scratch.grad_v):
            clear(code, high, each.begin, padded_keys * width)
        _turn_keys(code, k, first_key, keys, width, scratch.keys_turned)

        first_query = (first_key - reach).at_least(0) // QUERIES * QUERIES

        def queries_of(step: Whole) -> None:
            begins = first_query + step, first_key, keys
            _attend_block(code, scratch, (q, k, v, outs), sums, begins, (length, reach, width))

        each_step(code, (first_key + keys + reach).at_most(length) - first_query, QUERIES, queries_of)
        for source, target in ((scratch.grad_k, grad_k), (scratch.grad_v, grad_v)):
            _round_rows(code, source, target, first_key, keys, width)

    each_step(code, length, CHUNK_KEYS, chunk)
    _turn_back(code, scratch, grad_q, length, width)
    end_tiles(code)


@dataclass(frozen=True)
class _Sums:
    """Log of the sums of exponentials, and output times gradient, of the queries of an item."""

    lse: Memory
    delta: Memory
    begin: Whole


def _turn_keys(code: Code, k: Matrix, first_key: Whole, keys: Whole, width: Whole, target: Matrix) -> None:
    """Lay keys out with 0 up to whole tiles: a gradient of 0 times a neighbour's NaN were NaN."""
    padded = rounded_up(keys, EDGE)
    lay_turned(code, Matrix(k.memory, k.offset(first_key), k.step), target, padded, width)
    code.each(code.whole(0), width, lambda row: clear(code, target.memory, target.offset(row), padded, keys))


def _round_rows(code: Code, source: Matrix, target: Matrix, first: Whole, rows: Whole, width: Whole) -> None:
    def copy(row: Whole) -> None:
        code.columns(
            width,
            lambda at: target.memory.store(target.offset(first + row), at, source.memory.load(source.offset(row), at)),
        )

    code.each(code.whole(0), rows, copy)


def _turn_back(code: Code, scratch: _Scratch, grad_q: Matrix, length: Whole, width: Whole) -> None:
    source, rows = scratch.grad_q, scratch.rows

    def some(query: Whole) -> None:
        def block(column: Whole) -> None:
            place = source.offset(column) + query
            transpose_to_rows(code, source.memory, place, source.step, rows.memory, rows.begin + column, rows.step)

        each_step(code, width, HALF_EDGE, block)
        _round_rows(code, rows, grad_q, query, (length - query).at_most(HALF_EDGE), width)

    each_step(code, length, HALF_EDGE, some)


def _attend_block(
    code: Code,
    scratch: _Scratch,
    matrices: tuple[Matrix, Matrix, Matrix, Matrix],
    sums: _Sums,
    begins: tuple[Whole, Whole, Whole],
    limits: tuple[Whole, Whole, Whole],
) -> None:
    """Write what some queries do to the keys of a chunk."""
    (q, k, v, outs), (query, first_key, keys), (length, reach, width) = matrices, begins, limits
    queries = rounded_up((length - query).at_most(QUERIES), EDGE)
    shift = query * width
    for source, words, woven in (
        (q, scratch.queries_words, scratch.queries_woven),
        (outs, scratch.outs_words, scratch.outs_woven),
    ):
        here = Matrix(source.memory, source.begin + shift, source.step)
        lay_words(code, here, words, queries, width)
        lay_woven(code, here, woven, queries, width, length - query)
    low_key = ((query - reach).at_least(first_key) - first_key) // EDGE * EDGE
    stop_key = (query + QUERIES + reach).at_most(first_key + keys) - first_key
    zero = code.whole(0)

    def some_keys(step: Whole) -> None:
        begin = low_key + step
        count = rounded_up((stop_key - begin).at_most(KEYS), EDGE)

        def strip(row: Whole) -> None:
            key = first_key + begin + row
            for source, words, target in (
                (k, scratch.queries_words, scratch.scores),
                (v, scratch.outs_words, scratch.grad_shares),
            ):
                products(
                    code,
                    code.whole(EDGE),
                    queries,
                    width,
                    lambda _, at, source=source, words=words, target=target: (
                        source.at(key),
                        words.at(zero, at * 2),
                        target.at(zero, at),
                    ),
                    fresh=True,
                )
            each_step(
                code,
                code.whole(EDGE),
                2,
                lambda pair: _soften(code, scratch, sums, (row, pair), (key + pair, query, queries), (length, reach)),
            )

        each_step(code, count, EDGE, strip)
        for source, woven, target in (
            (scratch.shares, scratch.outs_woven, scratch.grad_v),
            (scratch.grads, scratch.queries_woven, scratch.grad_k),
        ):
            products(
                code,
                count,
                width,
                queries,
                lambda row, column, source=source, woven=woven, target=target: (
                    source.at(row),
                    woven.at(zero, column * 2),
                    target.at(begin + row, column),
                ),
                fresh=False,
            )
        products(
            code,
            width,
            queries,
            count,
            lambda row, column: (
                scratch.keys_turned.at(row, begin),
                scratch.grads_woven.at(zero, column * 2),
                scratch.grad_q.at(row, query + column),
            ),
            fresh=False,
        )

    each_step(code, stop_key - low_key, KEYS, some_keys)


def _soften(
    code: Code,
    scratch: _Scratch,
    sums: _Sums,
    place: tuple[Whole, Whole],
    which: tuple[Whole, Whole, Whole],
    limits: tuple[Whole, Whole],
) -> None:
    """Write the probabilities of two keys and the gradients of their scores."""
    (row, pair), (key, query, queries), (length, reach) = place, which, limits
    begin = sums.begin + query

    def seen_by(each: Whole) -> tuple[Whole, Whole]:
        stop = (each + reach + 1).at_most(length) - query
        first = (each - reach).at_least(0) - query
        return first, stop.at_most((length - each) * _FAR)  # no query sees a key beyond the segment

    def put(at: Columns) -> None:
        grads = []
        shift, inner = sums.lse.load(begin, at) * LOG2_E, sums.delta.load(begin, at)
        for number in range(2):
            source, target = pair + number, row + pair + number
            score = scratch.scores.memory.load(scratch.scores.offset(source), at)
            share = at.within(*seen_by(key + number)).choose(exp2(score * LOG2_E - shift), 0.0)
            rest = scratch.grad_shares.memory.load(scratch.grad_shares.offset(source), at) - inner
            grad = at.within(*seen_by(key + number)).choose(share * rest, 0.0)
            scratch.shares.memory.store(scratch.shares.offset(target), at, share)
            grads.append(_halves(code, grad))
            _store(code, grads[-1], scratch.grads, target, at)
        woven = scratch.grads_woven
        store_woven(code, grads[0], grads[1], woven.memory, woven.offset((row + pair) // 2) + at.start * 2)

    code.columns(queries, put)


def _halves(code: Code, vector: Vector) -> Any:
    return to_bf16(code.builder, vector.value)


def _store(code: Code, halves: Any, target: Matrix, row: Whole, at: Columns) -> None:
    code.builder.store(halves, target.memory.address(target.offset(row) + at.start), align=2)


def attend_in_tiles_backward(
    grad_out_NPH: Tensor,
    delta_NP: Tensor,
    qkv_3NPH: Tensor,
    lse_NP: Tensor,
    starts_S: Tensor,
    lengths_S: Tensor,
    longest: int,
    reach: int,
) -> Tensor:
    """Return the gradient of ``qkv_3NPH``; its rows beyond the tokens mean nothing.

    Args:
        grad_out_NPH: bf16 gradient of the output.
        delta_NP: fp32 output times its gradient, summed over H.
        qkv_3NPH: as given to ``attend_in_tiles``.
        lse_NP: fp32, as it returned; all of N, P have the same rows and spare ones behind them.
        starts_S: int32 first token of each segment.
        lengths_S: int32.
        longest: the largest of ``lengths_S``.
        reach: tokens.

    Raises:
        ValueError: tensors that do not fit one another or the segments.
    """
    tensors = grad_out_NPH, delta_NP, qkv_3NPH, lse_NP, starts_S, lengths_S
    sizes = check_shapes("NPH:b NP:f 3NPH:b NP:f S:i S:i", *tensors)
    heads, rows, width, segments = (sizes[letter] for letter in "NPHS")
    check_segments(starts_S, lengths_S, longest, reach, rows - SPARE_ROWS, width)
    items = heads * segments
    threads = num_threads(items, 1)
    longest = -(-longest // QUERIES) * QUERIES
    low_size, high_size = _sizes(width, longest)
    low = qkv_3NPH.new_empty(threads * low_size)
    high = low.new_empty(threads * high_size, dtype=torch.float32)
    grad_3NPH = torch.empty_like(qkv_3NPH)
    tensors = qkv_3NPH, grad_out_NPH, lse_NP, delta_NP, starts_S, lengths_S, low, high, grad_3NPH
    numbers = segments, heads, width, rows, reach, longest
    _attend_backward(items, *tensors, *numbers, threads=threads)
    return grad_3NPH
