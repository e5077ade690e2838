"""Cross-entropy in tiles against torch's own on all rows at once."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from padless.data.batch import IGNORED
from padless.model.loss import cross_entropy, tile_size
from padless.model.tied import TiedGradient, embed
from tile_ways import WAYS, take_way


def cross_entropy_sum(x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, tile: tuple[int, int]) -> Tensor:
    return cross_entropy(x, weight, bias, labels, tile).total


def inputs(rows: int = 37, width: int = 16, vocab: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator).requires_grad_() for shape in ((rows, width), (vocab, width), (vocab,))
    )
    return x, weight, bias, torch.randint(0, vocab, (rows,), generator=generator)


@pytest.mark.parametrize("chunk", [(1, 64), (8, 10), (37, 1), (100, 100)])
def test_loss_and_gradients_equal_cross_entropy(chunk: tuple[int, int]) -> None:
    x, weight, bias, labels = inputs()
    loss = cross_entropy_sum(x, weight, bias, labels, chunk)
    right = F.cross_entropy(x @ weight.t() + bias, labels, reduction="sum")
    torch.testing.assert_close(loss, right, rtol=1e-6, atol=0)
    # A factor other than 1, as a mean or a weight of a microbatch would give.
    grads = torch.autograd.grad(loss * 0.3, (x, weight, bias))
    right_grads = torch.autograd.grad(right * 0.3, (x, weight, bias))
    for grad, right_grad in zip(grads, right_grads, strict=True):
        torch.testing.assert_close(grad, right_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_autocast_computes_products_in_bf16_and_gives_fp32_gradients(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_way(way, monkeypatch)
    x, weight, bias, labels = inputs(rows=200, width=32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy_sum(x, weight, bias, labels, (64, 32))
    right = F.cross_entropy((x.bfloat16() @ weight.bfloat16().t()).float() + bias, labels, reduction="sum")
    assert loss.dtype == torch.float32
    # Logits of 32 products, 5.7 on average, are rounded to 8 bits there and, without tiles, here.
    torch.testing.assert_close(loss, right, rtol=5e-4, atol=0)
    grads = torch.autograd.grad(loss, (x, weight, bias))
    right_grads = torch.autograd.grad(
        F.cross_entropy(x @ weight.t() + bias, labels, reduction="sum"), (x, weight, bias)
    )
    for grad, right_grad in zip(grads, right_grads, strict=True):
        assert grad.dtype == torch.float32
        # bf16 rounds each product's inputs to 8 bits: 1 % of the gradient's norm.
        assert (grad - right_grad).norm() < 0.01 * right_grad.norm()


def test_large_logits_do_not_overflow() -> None:
    x, weight, bias, labels = inputs()
    loss = cross_entropy_sum(x * 1e4, weight, bias, labels, (8, 16))
    right = F.cross_entropy(x * 1e4 @ weight.t() + bias, labels, reduction="sum")
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss, right, rtol=1e-5, atol=0)


def test_no_rows_give_zero_and_zero_gradients() -> None:
    x, weight, bias, _ = inputs(rows=0)
    loss = cross_entropy_sum(x, weight, bias, torch.zeros(0, dtype=torch.int64), (8, 16))
    assert loss.item() == 0.0
    assert all(not grad.any() for grad in torch.autograd.grad(loss, (x, weight, bias)))


def test_evaluation_gives_the_same_loss() -> None:
    x, weight, bias, labels = inputs()
    with torch.no_grad():
        without = cross_entropy_sum(x, weight, bias, labels, (8, 16))
    assert not without.requires_grad
    assert torch.equal(without, cross_entropy_sum(x, weight, bias, labels, (8, 16)).detach())


def test_neither_pass_ever_holds_more_logits_than_a_tile() -> None:
    largest: list[int] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.extend(each.numel() for each in tree_flatten(out)[0] if isinstance(each, Tensor))
            return out

    x, weight, bias, labels = inputs(rows=400, vocab=512, width=4)
    with Record():
        cross_entropy_sum(x, weight, bias, labels, (64, 32)).backward()
    assert max(largest) <= max(x.numel(), weight.numel(), 64 * 32)
    assert max(largest) < 400 * 512 // 50


def test_each_row_has_its_loss_and_ignored_rows_have_none() -> None:
    x, weight, bias, labels = inputs()
    labels[[3, 30]] = IGNORED
    losses = cross_entropy(x, weight, bias, labels, (8, 16))
    right = F.cross_entropy(x @ weight.t() + bias, labels, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(losses.by_row_M, right.detach(), rtol=1e-5, atol=1e-6)
    assert not losses.by_row_M.requires_grad
    grads = torch.autograd.grad(losses.total, (x, weight, bias))
    right_grads = torch.autograd.grad(right.sum(), (x, weight, bias))
    for grad, right_grad in zip(grads, right_grads, strict=True):
        torch.testing.assert_close(grad, right_grad, rtol=1e-5, atol=1e-5)


def test_a_tied_matrix_gets_one_gradient_for_both_its_uses() -> None:
    _, weight, bias, labels = inputs()
    ids = torch.randint(0, 64, (37,), generator=torch.Generator().manual_seed(2))
    tied = TiedGradient()
    cross_entropy(embed(weight, ids, tied) * 2, weight, bias, labels, (8, 16), tied).total.backward()
    assert weight.grad is not None
    mine, weight.grad = weight.grad, None
    F.cross_entropy(F.embedding(ids, weight) * 2 @ weight.t() + bias, labels, reduction="sum").backward()
    torch.testing.assert_close(mine, weight.grad, rtol=1e-5, atol=1e-5)
    assert tied.waiting is None


def test_tiles_are_small_on_a_cpu_and_large_on_a_gpu() -> None:
    assert tile_size("cpu")[1] <= 1_024
    assert tile_size("cuda")[0] * tile_size("cuda")[1] * 4 == 2**29


@pytest.mark.parametrize("way", WAYS)
def test_in_bf16_no_loss_is_negative_whatever_the_bias(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Target and sum are rounded alike: a loss is at least as near to the exact one as torch's own in bf16."""
    take_way(way, monkeypatch)
    x, weight, _, labels = inputs(rows=500, width=64, vocab=256)
    bias = torch.randn(256, generator=torch.Generator().manual_seed(5)) * 3
    x, weight = x.detach().bfloat16(), (weight.detach() * 0.5).bfloat16()
    mine = cross_entropy(x, weight, bias, labels).by_row_M
    torchs = F.cross_entropy(F.linear(x, weight, bias.bfloat16()).float(), labels, reduction="none")
    exact = F.cross_entropy(F.linear(x.float(), weight.float(), bias), labels, reduction="none")
    assert float(mine.min()) >= -1e-5
    assert (mine - exact).abs().mean() < (torchs - exact).abs().mean() + 2e-3


@pytest.mark.parametrize("level", [-100.0, -103.0, -110.0, 100.0])
def test_rows_whose_logits_are_all_far_from_zero_keep_their_accuracy(level: float) -> None:
    x, weight, bias, labels = inputs()
    mine = cross_entropy(x * 0.01, weight, bias * 0.01 + level, labels).by_row_M
    right = F.cross_entropy((x * 0.01) @ weight.t() + bias * 0.01 + level, labels, reduction="none")
    torch.testing.assert_close(mine, right.detach(), atol=2e-5, rtol=0)


def plain_z_loss(x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, z_loss: float) -> Tensor:
    """Cross-entropy, and PaLM's auxiliary loss as section 5 of its paper has it, over the rows that count."""
    logits = (x @ weight.t() + bias)[labels != IGNORED]
    cross_entropies = F.cross_entropy(logits, labels[labels != IGNORED], reduction="sum")
    return cross_entropies + z_loss * logits.logsumexp(1).square().sum()


@pytest.mark.parametrize("z_loss", [1e-4, 0.1])
@pytest.mark.parametrize("chunk", [(1, 64), (8, 10), (100, 100)])
def test_z_loss_and_its_gradients_equal_the_plain_formula(chunk: tuple[int, int], z_loss: float) -> None:
    x, weight, bias, labels = inputs()
    labels[[3, 30]] = IGNORED
    losses = cross_entropy(x, weight, bias, labels, chunk, z_loss=z_loss)
    right = plain_z_loss(x, weight, bias, labels, z_loss)
    torch.testing.assert_close(losses.total, right, rtol=1e-6, atol=0)
    grads = torch.autograd.grad(losses.total * 0.3, (x, weight, bias))
    right_grads = torch.autograd.grad(right * 0.3, (x, weight, bias))
    for grad, right_grad in zip(grads, right_grads, strict=True):
        torch.testing.assert_close(grad, right_grad, rtol=1e-5, atol=5e-6)


def test_z_loss_changes_no_row_and_far_logits_keep_their_gradients() -> None:
    """With logits around -100 the factor of the softmax is below 0."""
    x, weight, bias, labels = inputs()
    losses = cross_entropy(x, weight, bias - 100, labels, (8, 16), z_loss=0.1)
    assert torch.equal(losses.by_row_M, cross_entropy(x, weight, bias - 100, labels, (8, 16)).by_row_M)
    grads = torch.autograd.grad(losses.total, (x, weight, bias))
    right_grads = torch.autograd.grad(plain_z_loss(x, weight, bias - 100, labels, 0.1), (x, weight, bias))
    for grad, right_grad in zip(grads, right_grads, strict=True):
        torch.testing.assert_close(grad, right_grad, rtol=1e-4, atol=1e-3)  # of values up to 1000


def test_z_loss_under_autocast_is_near_the_plain_formula_in_fp32() -> None:
    x, weight, bias, labels = inputs(rows=200)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(x, weight, bias, labels, (64, 32), z_loss=0.1).total
    right = plain_z_loss(x, weight, bias, labels, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, right, rtol=2e-3, atol=0)  # products of numbers with 8 bits
    grads, right_grads = (torch.autograd.grad(each, (x, weight, bias)) for each in (loss, right))
    for grad, right_grad in zip(grads, right_grads, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - right_grad).norm() < 0.01 * right_grad.norm()


def test_z_loss_of_no_rows_is_zero_with_zero_gradients() -> None:
    x, weight, bias, _ = inputs(rows=0)
    loss = cross_entropy(x, weight, bias, torch.zeros(0, dtype=torch.int64), (8, 16), z_loss=0.1).total
    assert loss.item() == 0.0
    assert all(not grad.any() for grad in torch.autograd.grad(loss, (x, weight, bias)))
