"""Kernels are given addresses: what does not fit together is refused before they are."""

import pytest
import torch

from padless.kernels import native_logits, native_moments, native_rows, native_scores, tiled_products
from padless.kernels.checked import check_shapes


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def low(*shape: int) -> torch.Tensor:
    return zeros(*shape, dtype=torch.bfloat16)


def whole(*shape: int) -> torch.Tensor:
    return zeros(*shape, dtype=torch.int32)


def test_equal_letters_are_equal_sizes_and_are_returned() -> None:
    assert check_shapes("CD D 3C:f", zeros(2, 5), low(5), zeros(3, 2)) == {"C": 2, "D": 5}


@pytest.mark.parametrize(
    ("specification", "tensors", "said"),
    [
        ("CD D", (zeros(2, 5), zeros(4)), r"argument 2 of a kernel is \(4,\), not D with .*'D': 5"),
        ("CD", (zeros(2),), r"argument 1 of a kernel is \(2,\), not CD"),
        ("3D", (zeros(2, 5),), r"argument 1 of a kernel is \(2, 5\), not 3D"),
        ("D:f", (low(5),), r"is torch.bfloat16, not one of \(torch.float32,\)"),
        ("D", (zeros(5, dtype=torch.float64),), r"is torch.float64"),
        ("CD", (zeros(5, 2).t(),), "not contiguous"),
    ],
)
def test_what_does_not_fit_is_named(specification: str, tensors: tuple[torch.Tensor, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_shapes(specification, *tensors)


def test_rows_may_lie_apart_where_that_is_said() -> None:
    check_shapes("CD", zeros(4, 6)[:, :3], rows_apart=True)
    with pytest.raises(ValueError, match="not contiguous"):
        check_shapes("CD", zeros(6, 4).t(), rows_apart=True)


WRONG = {
    "a norm's weight": lambda: native_rows.normalise(zeros(4, 8), zeros(7), 0.1, zeros(4), zeros(4), zeros(4, 8)),
    "a norm's mean in bf16": lambda: native_rows.normalise(zeros(4, 8), zeros(8), 0.1, low(4), zeros(4), zeros(4, 8)),
    "a norm's gradient": lambda: native_rows.normalise_backward(
        zeros(4, 8), zeros(4, 8), zeros(8), zeros(4), zeros(4), zeros(3, 8), zeros(4, 8), zeros(4, 8)
    ),
    "halves": lambda: native_rows.geglu(zeros(4, 7), zeros(4, 4)),
    "gradients of halves": lambda: native_rows.geglu_backward(zeros(4, 4), zeros(4, 8), zeros(4, 6), zeros(4, 4)),
    "angles": lambda: native_rows.rotate(zeros(4, 3, 2, 8), zeros(4, 3), zeros(4, 3), 1.0, zeros(3, 2, 9, 8), 0),
    "room for rotated rows": lambda: native_rows.rotate(
        zeros(4, 3, 2, 8), zeros(4, 4), zeros(4, 4), 1.0, zeros(3, 2, 9, 8), 6
    ),
    "rotated rows": lambda: native_rows.rotate_back(
        zeros(3, 2, 9, 8), -1, zeros(4, 4), zeros(4, 4), 1.0, zeros(4, 3, 2, 8)
    ),
    "a sum": lambda: native_rows.add(zeros(4, 8), zeros(4, 7), zeros(4, 8)),
    "room for heads": lambda: native_rows.lay_heads_first(
        zeros(4, 2, 8), zeros(4, 2, 8), zeros(2, 5, 8), zeros(2, 5), 2
    ),
    "moved rows": lambda: native_rows.move_rows(zeros(2, 4, 8), whole(3), zeros(2, 4, 7), whole(3)),
    "bounds": lambda: native_scores.exponentiate(zeros(5, 8), whole(2), whole(2), zeros(5), zeros(5)),
    "bounds in another dtype": lambda: native_scores.exponentiate(zeros(4, 8), zeros(4), whole(4), zeros(4), zeros(4)),
    "gradients of scores": lambda: native_scores.score_gradient(
        zeros(4, 8), zeros(4, 7), whole(4), whole(4), zeros(4), zeros(4)
    ),
    "a divided row more": lambda: native_scores.divide(zeros(4, 8), zeros(4), zeros(5, 8)),
    "largest logits": lambda: native_logits.sum_exponentials(zeros(4, 8), zeros(3), zeros(4)),
    "factors": lambda: native_logits.take_shares(zeros(4, 8), zeros(4), low(4)),
    "moments": lambda: native_moments.average(zeros(4), zeros(3), zeros(4), 0.9, 0.9, 0.1),
    "a weight in bf16": lambda: native_moments.move(low(4), zeros(4), zeros(4), 1.0, 0.1, 0.1),
    "a matrix that is not in whole tiles": lambda: tiled_products.in_words(low(32, 33)),
    "a woven matrix in fp32": lambda: tiled_products.woven(zeros(32, 32)),
    "panels": lambda: tiled_products.multiply(low(4, 32), low(64, 32), low(4, 32)),
    "an added matrix": lambda: tiled_products.multiply(low(4, 32), low(32, 32), low(4, 32), low(3, 32)),
    "an outer product": lambda: tiled_products.add_outer(zeros(32, 64), low(8, 32), low(8, 32)),
}


@pytest.mark.parametrize("what", WRONG)
def test_no_kernel_takes_what_does_not_fit(what: str) -> None:
    with pytest.raises(ValueError, match=r"kernel|halves|rows|features|panels|tiles"):
        WRONG[what]()


def test_bounds_beyond_a_row_end_with_it() -> None:
    around = torch.full((3, 8), 7.0)
    largest, total = zeros(1), zeros(1)
    native_scores.exponentiate(around[1:2], whole(1) - 5, whole(1) + 100, largest, total)
    assert float(total) == pytest.approx(8.0)
    assert bool((around[0] == 7.0).all() and (around[2] == 7.0).all())
