"""The optimizer's passes against the same arithmetic in fp64."""

import pytest
import torch

from padless.kernels import native_moments


@pytest.mark.parametrize("shape", [(1,), (31,), (2048,), (2049,), (65, 77), (3, 5, 700)])
def test_averages_ratio_and_step_are_the_formulas(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    weight, grad, mean = (torch.randn(shape, generator=generator) for _ in range(3))
    square = torch.rand(shape, generator=generator)
    before = [each.double() for each in (weight, grad, mean, square)]
    ratio = native_moments.average(grad, mean, square, 0.9, 0.98, 1e-2)
    right_mean = before[2] * 0.9 + before[1] * 0.1
    right_square = before[3] * 0.98 + before[1].square() * (1 - 0.98)
    # fp32 rounds a sum of two terms below 10 by 1e-6 at most.
    torch.testing.assert_close(mean.double(), right_mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(square.double(), right_square, atol=1e-6, rtol=0)
    assert ratio == pytest.approx(float((before[1].square() / right_square.clamp(min=1e-2)).mean()), rel=1e-5)
    native_moments.move(weight, mean, square, 0.99, 0.1, 1e-3)
    right = before[0] * 0.99 - 0.1 * mean.double() / (square.double().sqrt() + 1e-3)
    torch.testing.assert_close(weight.double(), right, atol=1e-5, rtol=1e-5)


def test_a_nan_gradient_is_seen_and_stays_where_it_is() -> None:
    grad, mean, square = torch.zeros(100), torch.zeros(100), torch.ones(100)
    grad[40] = float("nan")
    ratio = native_moments.average(grad, mean, square, 0.9, 0.98, 1e-6)
    assert ratio != ratio
    assert mean.isnan().nonzero().flatten().tolist() == [40]
