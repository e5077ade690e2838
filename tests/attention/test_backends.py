"""Every backend against the definition of correct, forward and backward."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from padless.attention import reference, sdpa
from padless.attention.api import AttentionBackend, SegmentLayout
from padless.attention.select import get_backend

MIXED = (1, 2, 63, 64, 65, 128, 129, 1000)
# fp32: sums of up to 1,000 products in another order; outputs and gradients reach 2.2, differences 1.2e-6 were seen.
FP32 = 1e-5
# bf16 keeps 8 bits of mantissa: a step between neighbours is 2^-6 = 0.016 at values of 2 to 4, and one step was seen on
# a CPU; a gradient that is the sum of a few rounded ones may be twice that off.
BF16 = 4e-2


def forward_backward(
    backend: AttentionBackend, x_T3NH: Tensor, lengths: tuple[int, ...], window_tokens: int | None
) -> tuple[Tensor, Tensor]:
    """Output, and the gradient of a fixed random projection of it."""
    layout = SegmentLayout.from_lengths(lengths, x_T3NH.device)
    leaf = x_T3NH.clone().requires_grad_()
    out = backend(leaf, layout, window_tokens)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(direction)
    assert leaf.grad is not None
    return out.detach().float(), leaf.grad.float()


def random_qkv(num_tokens: int, heads: int = 2, width: int = 16) -> Tensor:
    return torch.randn(num_tokens, 3, heads, width, generator=torch.Generator().manual_seed(num_tokens))


def assert_close_to_reference(
    backend: AttentionBackend, lengths: tuple[int, ...], window_tokens: int | None, tolerance: float = FP32
) -> None:
    x = random_qkv(sum(lengths))
    for mine, right in zip(
        forward_backward(backend, x, lengths, window_tokens),
        forward_backward(reference.attend, x, lengths, window_tokens),
        strict=True,
    ):
        torch.testing.assert_close(mine, right, atol=tolerance, rtol=0)


def by_groups(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    return sdpa.attend_groups(qkv_T3NH, layout, None if window_tokens is None else window_tokens // 2)


def by_band(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    assert window_tokens is not None
    return sdpa.attend_band(qkv_T3NH, layout, window_tokens // 2)


WINDOWS = (2, 16, 128, 300)
WAYS = [(way, window) for way in (sdpa.attend, by_groups) for window in (None, *WINDOWS)]
WAYS += [(by_band, window) for window in WINDOWS]


@pytest.mark.parametrize(("backend", "window_tokens"), WAYS)
def test_sdpa_equals_reference_forward_and_backward(backend: AttentionBackend, window_tokens: int | None) -> None:
    assert_close_to_reference(backend, MIXED, window_tokens)
    assert_close_to_reference(backend, MIXED[::-1], window_tokens)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 8), st.integers(1, 150)), min_size=1, max_size=12),
    window_tokens=st.one_of(st.none(), st.integers(2, 200)),
)
def test_sdpa_equals_reference_at_any_lengths_and_window(lengths: list[int], window_tokens: int | None) -> None:
    assert_close_to_reference(sdpa.attend, tuple(lengths), window_tokens)
    assert_close_to_reference(by_groups, tuple(lengths), window_tokens)
    if window_tokens is not None:
        assert_close_to_reference(by_band, tuple(lengths), window_tokens)


@pytest.mark.parametrize("window_tokens", [None, 128])
def test_sdpa_equals_reference_in_bf16(window_tokens: int | None) -> None:
    x = random_qkv(sum(MIXED)).bfloat16()
    out, grad = forward_backward(sdpa.attend, x, MIXED, window_tokens)
    right_out, right_grad = forward_backward(reference.attend, x, MIXED, window_tokens)
    torch.testing.assert_close(out, right_out, atol=BF16, rtol=0)
    torch.testing.assert_close(grad, right_grad, atol=BF16, rtol=0)


def test_both_ways_of_sdpa_are_chosen_by_cost() -> None:
    """Short segments go by groups even with a window; one long segment with a window goes by the band."""
    short = SegmentLayout.from_lengths((60,) * 20)
    sdpa.attend(random_qkv(short.num_tokens), short, 64)
    long = SegmentLayout.from_lengths((1200,))
    sdpa.attend(random_qkv(long.num_tokens), long, 64)
    assert not [key for key in short._cache if "band_mask" in key]
    assert [key for key in long._cache if "band_mask" in key]


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("window_tokens", [128, 16])
def test_window_is_exact_and_nothing_crosses_a_document(backend: str, window_tokens: int) -> None:
    """A token's output has a gradient to the keys in its window of its own segment, and to no other."""
    lengths, reach = (40, 1, 300, 64, 7), window_tokens // 2
    layout = SegmentLayout.from_lengths(lengths)
    starts = [0, 40, 41, 341, 405]
    for token in (0, 39, 40, 41, 41 + 150, 340, 341, 404, 405, 411):
        segment = max(number for number, start in enumerate(starts) if start <= token)
        first, end = starts[segment], starts[segment] + lengths[segment]
        leaf = random_qkv(layout.num_tokens).requires_grad_()
        get_backend(backend)(leaf, SegmentLayout.from_lengths(lengths), window_tokens)[token].sum().backward()
        assert leaf.grad is not None
        sees = leaf.grad[:, 2].abs().sum((1, 2)).nonzero()[:, 0].tolist()
        assert sees == list(range(max(first, token - reach), min(end, token + reach + 1)))


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_global_attention_sees_its_whole_document_and_no_other(backend: str) -> None:
    lengths = (40, 1, 300, 64)
    leaf = random_qkv(405).requires_grad_()
    get_backend(backend)(leaf, SegmentLayout.from_lengths(lengths), None)[100].sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum((1, 2, 3)).nonzero()[:, 0].tolist() == list(range(41, 341))


@pytest.mark.parametrize("window_tokens", [None, 128])
def test_filler_does_not_influence_real_segments(window_tokens: int | None) -> None:
    lengths = (70, 200, 30, 64, 64, 9)  # the last three are filler
    x = random_qkv(sum(lengths))
    changed = x.clone()
    changed[300:] = 1e3
    for backend in (reference.attend, sdpa.attend):
        before = backend(x, SegmentLayout.from_lengths(lengths), window_tokens)[:300]
        after = backend(changed, SegmentLayout.from_lengths(lengths), window_tokens)[:300]
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("window_tokens", [None, 128])
def test_a_segment_alone_equals_the_segment_in_any_pack(window_tokens: int | None) -> None:
    pieces = [random_qkv(length) for length in (5, 200, 64, 1)]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        lengths = tuple(len(pieces[number]) for number in order)
        packed = torch.cat([pieces[number] for number in order])
        outs = sdpa.attend(packed, SegmentLayout.from_lengths(lengths), window_tokens).split(list(lengths))
        for number, out in zip(order, outs, strict=True):
            piece = pieces[number]
            alone = sdpa.attend(piece, SegmentLayout.from_lengths((len(piece),)), window_tokens)
            torch.testing.assert_close(out, alone, atol=FP32, rtol=0)


def test_sdpa_is_deterministic() -> None:
    x = random_qkv(sum(MIXED))
    first, second = (forward_backward(sdpa.attend, x, MIXED, 128) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("window_tokens", [None, 2, 128])
@pytest.mark.parametrize("backend", ["sdpa", "varlen", "flash"])
def test_gpu_backends_equal_reference_in_bf16(backend: str, window_tokens: int | None) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if backend == "flash" and importlib.util.find_spec("flash_attn") is None:
        pytest.skip("flash-attn is not installed")
    x = random_qkv(sum(MIXED), heads=4, width=64).to("cuda", torch.bfloat16)
    out, grad = forward_backward(get_backend(backend), x, MIXED, window_tokens)
    right_out, right_grad = forward_backward(reference.attend, x, MIXED, window_tokens)
    torch.testing.assert_close(out, right_out, atol=BF16, rtol=0)
    torch.testing.assert_close(grad, right_grad, atol=BF16, rtol=0)
