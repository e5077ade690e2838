"""A layer by hand on a CPU against the same layer module by module."""

import pytest
import torch
from torch import Tensor

from padless.attention import blocked, reference
from padless.attention.api import SegmentLayout
from padless.config.schema import ModelConfig
from padless.errors import ConfigError
from padless.model import row_chunks
from padless.model.block import Layer
from padless.model.rope import rope_table
from tile_ways import WAYS, take_way

SEGMENTS = (5, 130, 64, 1, 200)
MODEL = ModelConfig(3, 32, 2, 48, 64, 3, 32, 1e-5, 0.0, 0.0, 0.0, 0.02, 2.0)
IN_TILES = ModelConfig(3, 64, 2, 96, 64, 3, 32, 1e-5, 0.0, 0.0, 0.0, 0.02, 2.0)


def layers(number: int, model: ModelConfig = MODEL) -> tuple[Layer, Layer]:
    """The same weights on the CPU's way and on everybody's."""
    torch.manual_seed(number)
    mine, right = Layer(model, number, blocked.attend), Layer(model, number, reference.attend)
    for parameter in mine.parameters():
        torch.nn.init.normal_(parameter, mean=0.2 if parameter.ndim == 1 else 0.0, std=0.2)
    right.load_state_dict(mine.state_dict())
    return mine, right


def forward_backward(layer: Layer, x_TD: Tensor, dtype: torch.dtype | None, columns: int | None = None) -> list[Tensor]:
    """Output, gradient of the input (of which the layer sees the first ``columns``), gradients of the weights."""
    layout = SegmentLayout.from_lengths(SEGMENTS)
    leaf = x_TD.clone().requires_grad_()
    width = layer.attn.Wo.in_features // layer.attn.num_heads
    table = rope_table(layout.positions_T, width, 100.0)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        out = layer(leaf[:, :columns], layout, table)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)))
    assert leaf.grad is not None
    return [out.detach(), leaf.grad, *(cast_grad(parameter) for parameter in layer.parameters())]


def cast_grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("number", [0, 1, 2, 3])
@pytest.mark.parametrize("chunk_rows", [7, 1024])
def test_a_layer_by_hand_is_the_layer(number: int, chunk_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_chunks, "CHUNK_ROWS", chunk_rows)
    mine, right = layers(number)
    x = torch.randn(sum(SEGMENTS), 32, generator=torch.Generator().manual_seed(9))
    for one, other in zip(forward_backward(mine, x, None), forward_backward(right, x, None), strict=True):
        # fp32 sums in another order: 1e-5 of the tensor's largest value.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", [MODEL, IN_TILES])
@pytest.mark.parametrize("number", [0, 1])
def test_in_bf16_it_is_as_near_to_fp32_as_the_modules_are(
    number: int, model: ModelConfig, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_way(way, monkeypatch)
    mine, right = layers(number, model)
    x = torch.randn(sum(SEGMENTS), model.hidden_size, generator=torch.Generator().manual_seed(9))
    exact = forward_backward(right, x, None)
    right.zero_grad()
    rounded = forward_backward(right, x, torch.bfloat16)
    for one, modules, other in zip(forward_backward(mine, x, torch.bfloat16), rounded, exact, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= 1.5 * (modules - other).norm() + 1e-3 * other.norm()


def test_active_dropout_goes_module_by_module() -> None:
    with_dropout = ModelConfig(3, 32, 2, 48, 64, 3, 32, 1e-5, 0.5, 0.0, 0.0, 0.02, 2.0)
    mine, right = layers(1, with_dropout)
    x = torch.randn(sum(SEGMENTS), 32, generator=torch.Generator().manual_seed(9))
    torch.manual_seed(4)
    one = forward_backward(mine, x, None)
    torch.manual_seed(4)
    other = forward_backward(right, x, None)
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-5)
    mine.eval()
    assert not torch.allclose(forward_backward(mine, x, None)[0], one[0])


def test_evaluation_keeps_nothing_for_a_backward_pass() -> None:
    saved: list[int] = []
    mine, _ = layers(1)
    layout = SegmentLayout.from_lengths(SEGMENTS)
    x = torch.randn(sum(SEGMENTS), 32)
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        mine(x, layout, rope_table(layout.positions_T, 16, 100.0))
    assert not saved


def test_rows_that_lie_apart_are_taken_as_well() -> None:
    mine, right = layers(1)
    wide = torch.randn(sum(SEGMENTS), 64, generator=torch.Generator().manual_seed(9))
    for one, other in zip(forward_backward(mine, wide, None, 32), forward_backward(right, wide, None, 32), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


def test_a_dtype_without_kernels_is_named() -> None:
    mine, _ = layers(1)
    layout = SegmentLayout.from_lengths(SEGMENTS)
    table = rope_table(layout.positions_T, 16, 100.0)
    with pytest.raises(ConfigError, match=r"blocked was given torch\.float16"), torch.autocast("cpu", torch.float16):
        mine(torch.randn(sum(SEGMENTS), 32), layout, table)
