"""A linear layer over chunks of rows against torch's, in tile registers and without."""

import pytest
import torch

from padless.model.linear_rows import LinearRows
from tile_ways import WAYS, take_way

# bf16 keeps 8 bits of mantissa: a rounded result is off by 2^-9 of itself at most, 0.2 % of the norm.
ROUNDING = 3e-3


@pytest.fixture(params=WAYS, autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    take_way(request.param, monkeypatch)
    return request.param


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 32), (64, 96), (384, 1152), (576, 384), (40, 56)])
@pytest.mark.parametrize("rows", [1, 31, 64, 77, 300])
def test_products_and_gradients_are_torchs(rows: int, inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, grad, residual, weight = (
        torch.randn(shape, generator=generator).bfloat16()
        for shape in ((rows, inputs), (rows, outputs), (rows, outputs), (outputs, inputs))
    )
    layer = LinearRows(weight)
    right = x.double() @ weight.double().t()
    assert_near(layer.apply(x, torch.full((rows, outputs), 9.0).bfloat16()), right)
    out = torch.full((rows, outputs), 9.0)
    layer.apply_and_add(x, residual.float(), out)
    assert_near(out, right + residual.double())
    assert_near(layer.backward(grad), grad.double() @ weight.double())
    for _ in range(2):
        layer.add_gradient(grad, x)
    assert layer.grad_ED.dtype == torch.float32
    assert_near(layer.grad_ED, 2 * grad.double().t() @ x.double())


def assert_near(mine: torch.Tensor, right: torch.Tensor) -> None:
    assert (mine.double() - right).norm() < ROUNDING * right.norm()


def test_in_fp32_products_are_exact_to_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad, weight = (torch.randn(shape, generator=generator) for shape in ((50, 32), (50, 64), (64, 32)))
    layer = LinearRows(weight)
    torch.testing.assert_close(layer.apply(x, torch.empty(50, 64)), x @ weight.t())
    torch.testing.assert_close(layer.backward(grad), grad @ weight)
    layer.add_gradient(grad, x)
    torch.testing.assert_close(layer.grad_ED, grad.t() @ x)
