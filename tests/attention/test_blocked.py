"""The CPU backend against the definition of correct, forward and backward, at every cut of its pieces."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from padless.attention import blocked, in_pieces, reference
from padless.attention.api import AttentionBackend, SegmentLayout
from padless.errors import ConfigError
from tile_ways import WAYS, take_way

MIXED = (1, 2, 63, 64, 65, 128, 129, 700, 30, 31)
WINDOWS = (None, 1, 2, 16, 128, 300)
# fp32: sums of up to 1,000 products in another order; outputs and gradients reach 2.2, differences 1.2e-6 were seen.
FP32 = 1e-5
# bf16 keeps 8 bits of mantissa: a step between neighbours is 2^-6 = 0.016 at values of 2 to 4; a gradient that is the
# sum of a few rounded ones may be twice that off.
BF16 = 4e-2


def forward_backward(
    backend: AttentionBackend, x_T3NH: Tensor, lengths: tuple[int, ...], window_tokens: int | None
) -> tuple[Tensor, Tensor]:
    layout = SegmentLayout.from_lengths(lengths)
    leaf = x_T3NH.clone().requires_grad_()
    out = backend(leaf, layout, window_tokens)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out))
    assert leaf.grad is not None
    return out.detach().float(), leaf.grad.float()


def assert_equals_reference(
    lengths: tuple[int, ...], window_tokens: int | None, dtype: torch.dtype = torch.float32, width: int = 16
) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    x = torch.randn(sum(lengths), 3, 2, width, generator=generator).to(dtype)
    mine = forward_backward(blocked.attend, x, lengths, window_tokens)
    right = forward_backward(reference.attend, x.float(), lengths, window_tokens)
    for one, other in zip(mine, right, strict=True):
        torch.testing.assert_close(one, other, atol=FP32 if dtype == torch.float32 else BF16, rtol=0)


@pytest.mark.parametrize("window_tokens", WINDOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocked_equals_reference_forward_and_backward(window_tokens: int | None, dtype: torch.dtype) -> None:
    assert_equals_reference(MIXED, window_tokens, dtype)
    assert_equals_reference(MIXED[::-1], window_tokens, dtype)


@pytest.mark.parametrize("window_tokens", WINDOWS)
@pytest.mark.parametrize("way", WAYS)
def test_heads_of_whole_tiles_equal_reference(
    window_tokens: int | None, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_way(way, monkeypatch)
    assert_equals_reference(MIXED, window_tokens, torch.bfloat16, width=32)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 8), st.integers(1, 150)), min_size=1, max_size=12),
    window_tokens=st.one_of(st.none(), st.integers(2, 200)),
)
def test_blocked_equals_reference_at_any_lengths_and_window(lengths: list[int], window_tokens: int | None) -> None:
    assert_equals_reference(tuple(lengths), window_tokens)


@pytest.mark.parametrize("piece_scores", [1, 5_000, 100_000])
def test_how_the_work_is_cut_does_not_change_the_result(piece_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_pieces, "PIECE_SCORES", piece_scores)
    assert_equals_reference((300, 40, 41, 129), None)
    assert_equals_reference((300, 40, 41, 129), 32)


@pytest.mark.parametrize("window_tokens", [None, 32])
def test_no_scores_are_kept_for_the_backward_pass(window_tokens: int | None) -> None:
    saved: list[int] = []
    leaf = torch.randn(600, 3, 2, 16, requires_grad=True)
    layout = SegmentLayout.from_lengths((600,))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        blocked.attend(leaf, layout, window_tokens).sum().backward()
    rows = 640  # whole blocks of 32, or whole tiles, and the window around them
    assert sum(saved) <= (rows + 32) * 3 * 2 * 16 + 600 * 2 * 16 + rows * 2  # q, k, v; output; one number a query


def test_without_gradients_nothing_is_kept() -> None:
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        blocked.attend(torch.randn(600, 3, 2, 16), SegmentLayout.from_lengths((600,)), 32)
    assert not saved


def test_blocked_names_a_dtype_it_does_not_compute() -> None:
    with pytest.raises(ConfigError, match=r"given torch\.float64"):
        blocked.attend(torch.empty(4, 3, 2, 16, dtype=torch.float64), SegmentLayout.from_lengths((4,)), None)


@pytest.mark.parametrize("window_tokens", [None, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_nan_in_a_value_reaches_the_output(window_tokens: int | None, dtype: torch.dtype) -> None:
    for which in range(3):
        x = torch.randn(300, 3, 2, 16).to(dtype)
        x[150, which] = float("nan")
        assert blocked.attend(x, SegmentLayout.from_lengths((300,)), window_tokens)[150].isnan().all()


@pytest.mark.parametrize("window_tokens", [None, 32])
def test_hidden_keys_do_not_move_what_is_seen_however_large(window_tokens: int | None) -> None:
    x = torch.randn(300, 3, 2, 16)
    x[200:, :2] = 1e3
    one = blocked.attend(x, SegmentLayout.from_lengths((200, 100)), window_tokens)
    alone = blocked.attend(x[:200].contiguous(), SegmentLayout.from_lengths((200,)), window_tokens)
    torch.testing.assert_close(one[:200], alone, atol=FP32, rtol=0)


def test_blocked_names_a_device_it_is_not_for() -> None:
    with pytest.raises(ConfigError, match="blocked was given a tensor on meta"):
        blocked.attend(torch.empty(4, 3, 2, 16, device="meta"), SegmentLayout.from_lengths((4,), "cpu"), None)
