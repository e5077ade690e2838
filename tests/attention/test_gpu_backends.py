"""The FlashAttention backends on a GPU: edges of windows and documents, gradients, nothing waited for.

What can be said about them without a GPU is in test_kernel_contracts.py.
"""

import importlib.util

import pytest
import torch
from torch import Tensor

from padless.attention import reference
from padless.attention.api import SegmentLayout
from padless.attention.select import get_backend

pytestmark = pytest.mark.gpu

LENGTHS = (40, 1, 300, 64, 7, 2048, 129)
STARTS = (0, 40, 41, 341, 405, 412, 2460)
# Steps between neighbours at values of 2 to 4, and twice that for a gradient that sums a few rounded values.
TOLERANCE = {torch.bfloat16: 4e-2, torch.float16: 5e-3}


@pytest.fixture(params=["varlen", "flash"])
def backend(request: pytest.FixtureRequest) -> str:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("FlashAttention needs a compute capability of 8.0 or more")
    if request.param == "flash" and importlib.util.find_spec("flash_attn") is None:
        pytest.skip("flash-attn is not installed")
    return request.param


def random_qkv(dtype: torch.dtype = torch.bfloat16, heads: int = 2, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sum(LENGTHS), 3, heads, width, generator=generator).to("cuda", dtype)


def run(name: str, qkv_T3NH: Tensor, window_tokens: int | None) -> tuple[Tensor, Tensor]:
    leaf = qkv_T3NH.clone().requires_grad_()
    out = get_backend(name)(leaf, SegmentLayout.from_lengths(LENGTHS, "cuda"), window_tokens)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    (out * direction).sum().backward()
    assert leaf.grad is not None
    return out.detach().float(), leaf.grad.float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window_tokens", [None, 2, 16, 128, 4096])
def test_output_and_gradient_equal_the_reference(backend: str, window_tokens: int | None, dtype: torch.dtype) -> None:
    x = random_qkv(dtype)
    for mine, right in zip(run(backend, x, window_tokens), run("reference", x, window_tokens), strict=True):
        torch.testing.assert_close(mine, right, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("window_tokens", [None, 16, 128])
def test_window_is_exact_and_nothing_crosses_a_document(backend: str, window_tokens: int | None) -> None:
    """A token's output has a gradient to the values in its window of its own segment, and to no other."""
    for token in (0, 39, 40, 41, 41 + 150, 340, 341, 404, 405, 411, 412, 412 + 64, 2459, 2460, 2588):
        segment = max(number for number, start in enumerate(STARTS) if start <= token)
        first, end = STARTS[segment], STARTS[segment] + LENGTHS[segment]
        leaf = random_qkv().requires_grad_()
        get_backend(backend)(leaf, SegmentLayout.from_lengths(LENGTHS, "cuda"), window_tokens)[token].sum().backward()
        assert leaf.grad is not None
        sees = leaf.grad[:, 2].abs().sum((1, 2)).nonzero()[:, 0].tolist()
        reach = end if window_tokens is None else window_tokens // 2
        within = range(max(first, token - reach), min(end, token + reach + 1))
        assert set(sees) <= set(within)
        # Shares below what 16 bits hold may vanish, but a window of a few tokens is seen to its ends.
        assert window_tokens != 16 or sees == list(within)


def test_every_row_is_written(backend: str) -> None:
    """Kernels leave rows behind the last border as they were; there are none, since filler is segments of its own."""
    out, grad = run(backend, random_qkv(), 128)
    assert torch.isfinite(out).all()
    assert torch.isfinite(grad).all()
    assert (out.abs().sum((1, 2)) > 0).all()


def test_gradients_are_repeatable_where_that_is_asked_for(backend: str) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        gradients = [run(backend, random_qkv(heads=12), window)[1] for window in (None, 128) * 4]
    finally:
        torch.use_deterministic_algorithms(False)
    for number, gradient in enumerate(gradients):
        assert torch.equal(gradient, gradients[number % 2])


def test_attention_does_not_wait_for_the_gpu(backend: str) -> None:
    x = random_qkv().requires_grad_()
    layout = SegmentLayout.from_lengths(LENGTHS, "cuda")
    get_backend(backend)(x, layout, 128).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        get_backend(backend)(x, layout, 128).sum().backward()
        get_backend(backend)(x, layout, None).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_reference_on_the_gpu_is_that_of_the_cpu(backend: str) -> None:
    x = random_qkv()
    layout = SegmentLayout.from_lengths(LENGTHS)
    right = reference.attend(x.float().cpu(), layout, 128)
    torch.testing.assert_close(run(backend, x, 128)[0].cpu(), right, atol=TOLERANCE[torch.bfloat16], rtol=4e-2)
