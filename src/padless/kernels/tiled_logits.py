"""Softmax and cross-entropy's gradients over a vocabulary in tile registers (AMX): logits live in a core's cache only.

One row of a kernel is ``TILE`` rows of the vocabulary's matrix, against all hidden states. Logits are computed
transposed, vocabulary downwards, in both passes, so that nothing but hidden states is laid out anew, once:

    L^T = W X^T + b       forward    largest and sum of exponentials by hidden state
                          backward   P^T = exp(L^T - lse) factor      dW = P^T X      dX^T += W^T P^T

Logits are fp32, P is bf16. On a CPU with tile registers only.

Legend: M hidden states, D model width, V vocabulary, C vocabulary rows of a tile, R hidden states at a time, t threads.
M, D and V are multiples of 32.
"""

import torch
from torch import Tensor

from padless.kernels.checked import check_shapes
from padless.kernels.native import kernel_of_large_rows, num_threads
from padless.kernels.tile_matrices import PANEL, Matrix, clear, each_step, lay_turned, products
from padless.kernels.tiled_products import in_words, to_whole_tiles, woven
from padless.kernels.tiles import EDGE, SKEW, begin_tiles, end_tiles, store_woven
from padless.kernels.vector_math import LOG2_E, exp2
from padless.kernels.vectors import Code, Columns, Memory, Vector, Whole, to_bf16

TILE, STATES = 512, 512
_TILE_STEP, _STATES_STEP = TILE + SKEW, STATES + SKEW


@kernel_of_large_rows
def _sum_up(
    code: Code,
    tile: Whole,
    weight: Memory,
    bias: Memory,
    words: Memory,
    high: Memory,
    largest: Memory,
    total: Memory,
    states: Whole,
    width: Whole,
    vocabulary: Whole,
) -> None:
    scores = Matrix(high, code.thread * (EDGE * _STATES_STEP), code.whole(_STATES_STEP))
    begin = tile * TILE
    count = (vocabulary - begin).at_most(TILE)
    own = code.thread * states
    begin_tiles(code)

    def some(first: Whole) -> None:
        size = (states - first).at_most(STATES)

        def strip(row: Whole) -> None:
            _logits(code, (weight, words), (begin + row, first), (size, width), scores)
            _take_in(code, bias, begin + row, scores, (largest, total, own + first), size)

        each_step(code, count, EDGE, strip)

    each_step(code, states, STATES, some)
    end_tiles(code)


def _logits(
    code: Code,
    memories: tuple[Memory, Memory],
    place: tuple[Whole, Whole],
    sizes: tuple[Whole, Whole],
    target: Matrix,
) -> None:
    (weight, words), (row, first), (size, width), zero = memories, place, sizes, code.whole(0)
    a = Matrix(weight, row * width, width)
    products(
        code,
        code.whole(EDGE),
        size,
        width,
        lambda _, at: (a.at(zero), (words, (first + at) * width, code.whole(PANEL)), target.at(zero, at)),
        fresh=True,
    )


def _take_in(
    code: Code, bias: Memory, row: Whole, scores: Matrix, sums: tuple[Memory, Memory, Whole], size: Whole
) -> None:
    """Write what 32 rows of logits do to the largest and to the sums so far."""
    largest, total, begin = sums

    def put(at: Columns) -> None:
        before = largest.load(begin, at)
        values = [
            scores.memory.load(scores.offset(code.whole(each)), at) + bias.one(row + each) for each in range(EDGE)
        ]
        top = before
        for value in values:
            top = top.maximum(value)
        shift = top.equals(float("-inf")).choose(0.0, top)
        result = total.load(begin, at) * exp2((before - shift) * LOG2_E)
        for value in values:
            result = result + exp2((value - shift) * LOG2_E)
        largest.store(begin, at, top)
        total.store(begin, at, result)

    code.columns(size, put)


@kernel_of_large_rows
def _differentiate(
    code: Code,
    tile: Whole,
    weight: Memory,
    bias: Memory,
    words: Memory,
    states_woven: Memory,
    lse: Memory,
    factor: Memory,
    low: Memory,
    high: Memory,
    grad_x: Memory,
    grad_weight: Memory,
    grad_bias: Memory,
    states: Whole,
    width: Whole,
    vocabulary: Whole,
) -> None:
    at_low = code.thread * (width * _TILE_STEP + TILE * (_STATES_STEP + STATES))
    turned = Matrix(low, at_low, code.whole(_TILE_STEP))  # [D, C]
    shares = Matrix(low, at_low + width * _TILE_STEP, code.whole(_STATES_STEP))  # [C, R]
    shares_woven = Matrix(low, shares.begin + TILE * _STATES_STEP, code.whole(PANEL))  # [R / 32, C / 2, 32] pairs
    scores = Matrix(high, code.thread * (EDGE * _STATES_STEP), code.whole(_STATES_STEP))
    grad_x_own = Matrix(grad_x, code.thread * width * states, states)  # [D, M]
    begin = tile * TILE
    count = (vocabulary - begin).at_most(TILE)
    begin_tiles(code)
    lay_turned(code, Matrix(weight, begin * width, width), turned, count, width)
    grad_rows = Matrix(grad_weight, begin * width, width)
    clear(code, grad_weight, grad_rows.begin, count * width)
    clear(code, grad_bias, begin, count)

    def some(first: Whole) -> None:
        size = (states - first).at_most(STATES)

        def strip(row: Whole) -> None:
            _logits(code, (weight, words), (begin + row, first), (size, width), scores)

            def pair(each: Whole) -> None:
                sums = lse, factor, first
                _share(
                    code, (bias, grad_bias), begin + row + each, scores, each, sums, (shares, shares_woven), row, size
                )

            each_step(code, code.whole(EDGE), 2, pair)

        each_step(code, count, EDGE, strip)
        products(
            code,
            count,
            width,
            size,
            lambda row, column: (
                shares.at(row),
                (states_woven, column * states + first * EDGE, code.whole(PANEL)),
                grad_rows.at(row, column),
            ),
            fresh=False,
        )
        products(
            code,
            width,
            size,
            count,
            lambda row, column: (
                turned.at(row),
                (low, shares_woven.begin + column * TILE, code.whole(PANEL)),
                grad_x_own.at(row, first + column),
            ),
            fresh=False,
        )

    each_step(code, states, STATES, some)
    end_tiles(code)


def _share(
    code: Code,
    biases: tuple[Memory, Memory],
    row: Whole,
    scores: Matrix,
    score_row: Whole,
    sums: tuple[Memory, Memory, Whole],
    targets: tuple[Matrix, Matrix],
    strip: Whole,
    size: Whole,
) -> None:
    """Write the shares of two rows of logits, and add up their gradient of the bias."""
    (bias, grad_bias), (lse, factor, begin), (shares, shares_woven) = biases, sums, targets
    added = [bias.one(row + each) * LOG2_E for each in range(2)]

    def put(at: Columns, *totals: Vector) -> tuple[Vector, ...]:
        shift, times = lse.load(begin, at) * LOG2_E, factor.load(begin, at)
        halves, results = [], []
        for each in range(2):
            score = scores.memory.load(scores.offset(score_row + each), at)
            share = exp2(score * LOG2_E + added[each] - shift) * times
            results.append(totals[each] + share)
            halves.append(to_bf16(code.builder, share.value))
            place = shares.memory.address(shares.offset(strip + score_row + each) + at.start)
            code.builder.store(halves[-1], place, align=2)
        place = shares_woven.begin + at.start * TILE + (strip + score_row) * EDGE
        store_woven(code, halves[0], halves[1], shares_woven.memory, place)
        return tuple(results)

    for each, total in enumerate(code.columns(size, put, 0.0, 0.0)):
        grad_bias.put_one(row + each, grad_bias.one(row + each) + total.sum())


class TiledLogits:
    """The logits of some hidden states, never kept.

    Args:
        x_MD: bf16; D a multiple of 32.
        weight_VD: bf16.
        bias_V: fp32.

    Raises:
        ValueError: tensors of another dtype, or that do not fit one another.
    """

    def __init__(self, x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor) -> None:
        self._real = x_MD.shape[0], weight_VD.shape[0]
        x_MD, weight_VD = to_whole_tiles(x_MD, 0.0), to_whole_tiles(weight_VD, 0.0)
        self._weight_VD, self._bias_V = weight_VD, to_whole_tiles(bias_V, float("-inf"))
        sizes = check_shapes("MD:b VD:b V:f", x_MD, weight_VD, self._bias_V)
        self._states, self._width, self._vocabulary = (sizes[letter] for letter in "MDV")
        if self._width % EDGE:
            raise ValueError(f"hidden states of width {self._width} are not in whole tiles of {EDGE}")
        self._tiles = -(-self._vocabulary // TILE)
        self._threads = num_threads(self._tiles, 1)
        self._words, self._woven = in_words(x_MD), woven(x_MD)
        self._high = self._new(self._threads * EDGE * _STATES_STEP)

    def _new(self, *shape: int) -> Tensor:
        return self._words.new_empty(shape, dtype=torch.float32)

    def log_sum_exp(self) -> Tensor:
        """Return the log of each state's sum of exponentials, fp32 [M]."""
        largest_tM = self._new(self._threads, self._states).fill_(float("-inf"))
        total_tM = torch.zeros_like(largest_tM)
        tensors = self._weight_VD, self._bias_V, self._words, self._high, largest_tM, total_tM
        _sum_up(self._tiles, *tensors, self._states, self._width, self._vocabulary, threads=self._threads)
        return torch.logsumexp(total_tM.log_().add_(largest_tM), 0)[: self._real[0]]

    def gradients(self, lse_M: Tensor, factor_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of x, weight and bias that exp(logit - lse) x factor gives, fp32.

        Args:
            lse_M: fp32; infinite where a state is to have none.
            factor_M: fp32.

        Raises:
            ValueError: not as many of these as hidden states.
        """
        if check_shapes("M:f M:f", lse_M, factor_M)["M"] != self._real[0]:
            raise ValueError(f"{len(lse_M)} logs of sums were given for {self._real[0]} hidden states")
        size = self._width * _TILE_STEP + TILE * (_STATES_STEP + STATES)
        low = self._words.new_empty(self._threads * size)
        grad_x_tDM = self._new(self._threads, self._width, self._states).zero_()
        grad_weight_VD, grad_bias_V = self._new(self._vocabulary, self._width), self._new(self._vocabulary)
        lse_M, factor_M = to_whole_tiles(lse_M, float("inf")), to_whole_tiles(factor_M, 0.0)
        tensors = self._weight_VD, self._bias_V, self._words, self._woven, lse_M, factor_M, low, self._high
        grads, numbers = (grad_x_tDM, grad_weight_VD, grad_bias_V), (self._states, self._width, self._vocabulary)
        _differentiate(self._tiles, *tensors, *grads, *numbers, threads=self._threads)
        states, vocabulary = self._real
        grad_x_MD = grad_x_tDM.sum(0)[:, :states].t().contiguous()
        return grad_x_MD, grad_weight_VD[:vocabulary], grad_bias_V[:vocabulary]
