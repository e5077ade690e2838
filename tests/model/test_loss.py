"""Cross-entropy in row chunks against torch's own on all rows at once."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from padless.model.loss import chunk_rows, cross_entropy_sum


def inputs(rows: int = 37, width: int = 16, vocab: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator).requires_grad_() for shape in ((rows, width), (vocab, width), (vocab,))
    )
    return x, weight, bias, torch.randint(0, vocab, (rows,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 8, 37, 100])
def test_loss_and_gradients_equal_cross_entropy(chunk: int) -> None:
    x, weight, bias, labels = inputs()
    loss = cross_entropy_sum(x, weight, bias, labels, chunk)
    right = F.cross_entropy(x @ weight.t() + bias, labels, reduction="sum")
    torch.testing.assert_close(loss, right, rtol=1e-6, atol=0)
    # A factor other than 1, as a mean or a weight of a microbatch would give.
    grads = torch.autograd.grad(loss * 0.3, (x, weight, bias))
    right_grads = torch.autograd.grad(right * 0.3, (x, weight, bias))
    for grad, right_grad in zip(grads, right_grads, strict=True):
        torch.testing.assert_close(grad, right_grad, rtol=1e-5, atol=1e-6)


def test_autocast_computes_products_in_bf16_and_gives_fp32_gradients() -> None:
    x, weight, bias, labels = inputs(rows=200)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy_sum(x, weight, bias, labels, 64)
    right = F.cross_entropy((x.bfloat16() @ weight.bfloat16().t()).float() + bias, labels, reduction="sum")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, right, rtol=1e-4, atol=0)
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
    loss = cross_entropy_sum(x * 1e4, weight, bias, labels, 8)
    right = F.cross_entropy(x * 1e4 @ weight.t() + bias, labels, reduction="sum")
    assert torch.isfinite(loss)
    torch.testing.assert_close(loss, right, rtol=1e-5, atol=0)


def test_no_rows_give_zero_and_zero_gradients() -> None:
    x, weight, bias, _ = inputs(rows=0)
    loss = cross_entropy_sum(x, weight, bias, torch.zeros(0, dtype=torch.int64), 8)
    assert loss.item() == 0.0
    assert all(not grad.any() for grad in torch.autograd.grad(loss, (x, weight, bias)))


def test_evaluation_gives_the_same_loss() -> None:
    x, weight, bias, labels = inputs()
    with torch.no_grad():
        without = cross_entropy_sum(x, weight, bias, labels, 8)
    assert not without.requires_grad
    assert torch.equal(without, cross_entropy_sum(x, weight, bias, labels, 8).detach())


def test_the_logits_of_all_rows_never_exist_at_once() -> None:
    """No matrix product of the loss has more rows of vocabulary width than a chunk."""
    sizes: list[tuple[int, ...]] = []

    class Record(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                sizes.append(tuple(out.shape))
            return out

    x, weight, bias, labels = inputs(rows=100, vocab=64)
    with Record():
        cross_entropy_sum(x, weight, bias, labels, 32)
    wide = [size for size in sizes if len(size) == 2 and size[1] == 64 and size[0] != 64]
    assert wide
    assert max(size[0] for size in wide) == 32


def test_chunks_are_small_on_a_cpu_and_large_on_a_gpu() -> None:
    assert chunk_rows("cpu", 50_368) == 256
    assert chunk_rows("cuda", 50_368) == 2_664
    assert chunk_rows("cuda", 10**7) == 256
