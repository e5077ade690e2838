"""What our Triton kernels have to compute, on the device that KERNEL_DEVICE names.

Run by test_kernels.py in a process of its own: on a CPU under Triton's interpreter, which has to be asked for before
Triton is imported, and on a GPU as they are.
"""

import os

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from padless.attention.api import SegmentLayout
from padless.data.batch import IGNORED
from padless.kernels.triton_cross_entropy import cross_entropy_triton, loss_and_gradient_in_place
from padless.kernels.triton_rope import rotate_in_place, turn
from padless.model.tied import TiedGradient, embed

DEVICE = os.environ["KERNEL_DEVICE"]
RAGGED = (1, 63, 130, 6)


def tables(lengths: tuple[int, ...], width: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    positions_T = SegmentLayout.from_lengths(lengths).positions_T
    angle_TC = positions_T.double()[:, None] * theta ** (-torch.arange(0, width, 2).double() / width)
    return angle_TC.cos().float().to(DEVICE), angle_TC.sin().float().to(DEVICE)


def plain_rotation(qkv_TE: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Su et al. 2021, eq. 34, in float64, written without a view of the kernel's code."""
    width = 2 * cos_TC.shape[1]
    qkv_T3NH = qkv_TE.double().unflatten(1, (3, -1, width))
    cos, sin = (torch.cat([table, table], -1).double()[:, None, None] for table in (cos_TC, sin_TC))
    first, second = qkv_T3NH[:, :2].chunk(2, -1)
    turned = qkv_T3NH[:, :2] * cos + torch.cat([-second, first], -1) * sin
    return torch.cat([turned, qkv_T3NH[:, 2:]], 1).flatten(1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# fp32: one product and one sum, values to 5. bf16: neighbours are 2^-5 apart at values of 4 to 8, and the interpreter
# cuts the rest off instead of rounding.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-5)])
@pytest.mark.parametrize(("heads", "width"), [(2, 64), (3, 32), (1, 24)])
def test_rotation_in_place_equals_plain_pytorch(heads: int, width: int, dtype: torch.dtype, tolerance: float) -> None:
    cos_TC, sin_TC = tables(RAGGED, width)
    before = random(sum(RAGGED), 3 * heads * width).to(DEVICE, dtype)
    qkv_TE = before.clone()
    turn(qkv_TE, cos_TC, sin_TC, 1)
    torch.testing.assert_close(qkv_TE.double(), plain_rotation(before, cos_TC, sin_TC), atol=tolerance, rtol=0)
    assert torch.equal(qkv_TE[:, 2 * heads * width :], before[:, 2 * heads * width :])
    turn(qkv_TE, cos_TC, sin_TC, -1)
    torch.testing.assert_close(qkv_TE, before, atol=2 * tolerance, rtol=0)


def test_rotation_keeps_to_its_rows_where_they_lie_apart() -> None:
    cos_TC, sin_TC = tables(RAGGED, 16)
    wide = random(sum(RAGGED), 3 * 2 * 16 + 5).to(DEVICE)
    before = wide.clone()
    turn(wide[:, :-5], cos_TC, sin_TC, 1)
    right = plain_rotation(before[:, :-5], cos_TC, sin_TC)
    torch.testing.assert_close(wide[:, :-5].double(), right, atol=1e-6, rtol=0)
    assert torch.equal(wide[:, -5:], before[:, -5:])


def test_gradient_of_the_rotation_equals_autograd_and_nothing_is_copied() -> None:
    heads, width = 2, 32
    cos_TC, sin_TC = tables(RAGGED, width)
    weight, x_TD = random(3 * heads * width, 40).to(DEVICE), random(sum(RAGGED), 40, seed=1).to(DEVICE)
    direction = random(sum(RAGGED), 3 * heads * width, seed=2).to(DEVICE)
    grads = []
    for in_place in (True, False):
        leaf, matrix = x_TD.clone().requires_grad_(), weight.clone().requires_grad_()
        qkv_TE = F.linear(leaf, matrix)
        where = qkv_TE.data_ptr()
        out = rotate_in_place(qkv_TE, cos_TC, sin_TC) if in_place else plain_rotation(qkv_TE, cos_TC, sin_TC).float()
        assert not in_place or out.data_ptr() == where
        (out.view(-1, 3, heads, width) * direction.view(-1, 3, heads, width)).sum().backward()
        grads.append((leaf.grad, matrix.grad))
    for mine, right in zip(*grads, strict=True):
        torch.testing.assert_close(mine, right, atol=2e-4, rtol=1e-5)  # sums of 200 terms in fp32


@pytest.mark.parametrize("shape", [(199, 96), (200, 95), (200, 3, 32)])
def test_rotation_refuses_what_the_tables_do_not_fit(shape: tuple[int, ...]) -> None:
    cos_TC, sin_TC = tables(RAGGED, 16)
    with pytest.raises(ValueError, match="does not hold 3 x heads x 16 features of 200 tokens"):
        turn(torch.zeros(shape, device=DEVICE), cos_TC, sin_TC, 1)


def cross_entropy_case(dtype: torch.dtype, vocab_size: int, rows: int = 21) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_MD, weight_VD = random(rows, 16).to(DEVICE, dtype), random(vocab_size, 16, seed=1).to(DEVICE)
    bias_V = random(vocab_size, seed=2).to(DEVICE)
    labels_M = torch.randint(0, vocab_size, (rows,), generator=torch.Generator().manual_seed(3))
    labels_M[[4, rows - 1]] = IGNORED
    return x_MD, weight_VD, bias_V, labels_M.to(DEVICE)


# bf16: logits reach 17 and are rounded to 8 bits, by up to 1/16; gradients are rounded to 8 bits twice.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 8e-2)])
@pytest.mark.parametrize(("vocab_size", "rows"), [(1000, 8), (4096, 256), (5003, 7)])
def test_cross_entropy_equals_plain_pytorch(dtype: torch.dtype, tolerance: float, vocab_size: int, rows: int) -> None:
    x_MD, weight_VD, bias_V, labels_M = cross_entropy_case(dtype, vocab_size)
    results = []
    for is_kernel in (True, False):
        leaves = [tensor.clone().requires_grad_() for tensor in (x_MD, weight_VD, bias_V)]
        if is_kernel:
            loss, by_row_M = cross_entropy_triton(*leaves, labels_M, rows)
            assert not by_row_M.requires_grad
            torch.testing.assert_close(by_row_M.sum(), loss)
        else:
            logits_MV = leaves[0].float() @ leaves[1].to(dtype).float().t() + leaves[2]
            loss = F.cross_entropy(logits_MV, labels_M, ignore_index=IGNORED, reduction="sum")
        (loss * 0.5).backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    (loss, *grads), (right_loss, *right_grads) = results
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, right_loss, atol=tolerance * 19, rtol=1e-5)
    for mine, right in zip(grads, right_grads, strict=True):
        assert mine.dtype == right.dtype
        torch.testing.assert_close(mine.float(), right.float(), atol=tolerance, rtol=0)


# Weights of the z-loss far above the published 1e-4, so that its part of the gradient is as large as the other.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.bfloat16, 2e-1)])
@pytest.mark.parametrize("z_loss", [0.01, 0.1])
def test_z_loss_equals_plain_pytorch_and_stays_out_of_the_rows(
    dtype: torch.dtype, tolerance: float, z_loss: float
) -> None:
    x_MD, weight_VD, bias_V, labels_M = cross_entropy_case(dtype, 1000)
    results = []
    for is_kernel in (True, False):
        leaves = [tensor.clone().requires_grad_() for tensor in (x_MD, weight_VD, bias_V)]
        if is_kernel:
            loss, by_row_M = cross_entropy_triton(*leaves, labels_M, 8, z_loss)
            _, without_M = cross_entropy_triton(*leaves, labels_M, 8)
            assert torch.equal(by_row_M, without_M)
        else:
            logits_MV = leaves[0].float() @ leaves[1].to(dtype).float().t() + leaves[2]
            loss = F.cross_entropy(logits_MV, labels_M, ignore_index=IGNORED, reduction="sum")
            loss = loss + z_loss * logits_MV[labels_M != IGNORED].logsumexp(1).square().sum()
        (loss * 0.5).backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    (loss, *grads), (right_loss, *right_grads) = results
    torch.testing.assert_close(loss, right_loss, atol=tolerance * 19, rtol=1e-5)
    for mine, right in zip(grads, right_grads, strict=True):
        torch.testing.assert_close(mine.float(), right.float(), atol=tolerance, rtol=0)


def test_ignored_rows_have_neither_loss_nor_gradient() -> None:
    logits_CV = random(3, 50).to(DEVICE)
    labels_C = torch.tensor([IGNORED, 7, IGNORED], device=DEVICE)
    right = F.cross_entropy(logits_CV[1:2], labels_C[1:2], reduction="none")
    loss_C, _ = loss_and_gradient_in_place(logits_CV, torch.zeros(50, device=DEVICE), labels_C)
    torch.testing.assert_close(loss_C[1:2], right)
    assert loss_C[[0, 2]].tolist() == [0.0, 0.0]
    assert not logits_CV[[0, 2]].any()
    torch.testing.assert_close(logits_CV[1].sum(), torch.zeros((), device=DEVICE), atol=1e-6, rtol=0)


def test_logits_stay_where_no_gradient_is_asked_for() -> None:
    x_MD, weight_VD, bias_V, labels_M = cross_entropy_case(torch.float32, 100)
    logits_MV = x_MD @ weight_VD.t()
    before = logits_MV.clone()
    loss_M, _ = loss_and_gradient_in_place(logits_MV, bias_V, labels_M, writes_gradient=False)
    assert torch.equal(logits_MV, before)
    with torch.no_grad():
        total, by_row_M = cross_entropy_triton(x_MD, weight_VD, bias_V, labels_M, 8)
    assert torch.equal(by_row_M, loss_M)
    torch.testing.assert_close(total, loss_M.sum())


def test_the_log_of_the_sum_is_given_beside_the_loss_and_is_0_in_ignored_rows() -> None:
    logits_CV = random(3, 50).to(DEVICE)
    labels_C = torch.tensor([3, IGNORED, 7], device=DEVICE)
    right_C = logits_CV.logsumexp(1)
    _, log_sum_C = loss_and_gradient_in_place(logits_CV, torch.zeros(50, device=DEVICE), labels_C, z_loss=0.1)
    torch.testing.assert_close(log_sum_C[[0, 2]], right_C[[0, 2]])
    assert log_sum_C[1].item() == 0.0
    assert not logits_CV[1].any()
    # Each row of softmax x (1 + 2 z lse) less one-hot adds up to 2 z lse.
    torch.testing.assert_close(logits_CV.sum(1), 0.2 * log_sum_C, atol=1e-6, rtol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    logits_CV = torch.zeros(1, 9000, device=DEVICE)
    logits_CV[0, 8999] = 1e4
    loss_C, _ = loss_and_gradient_in_place(
        logits_CV, torch.zeros(9000, device=DEVICE), torch.tensor([8999], device=DEVICE)
    )
    assert loss_C.tolist() == [0.0]
    assert not logits_CV.any()


def test_no_masked_position_gives_zero_loss_and_zero_gradients() -> None:
    x_MD, weight_VD, bias_V, labels_M = cross_entropy_case(torch.float32, 100)
    leaves = [tensor.clone().requires_grad_() for tensor in (x_MD[:0], weight_VD, bias_V)]
    loss, by_row_M = cross_entropy_triton(*leaves, labels_M[:0], 8)
    loss.backward()
    assert (loss.item(), by_row_M.shape) == (0.0, (0,))
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_a_tied_matrix_gets_one_gradient_for_both_its_uses() -> None:
    """The decoder's part waits for the embeddings', where autograd would make two matrices and add them."""
    x_MD, weight_VD, bias_V, labels_M = cross_entropy_case(torch.float32, 100)
    ids_M = labels_M.clamp(min=0).flip(0)
    gradients = []
    for tied in (TiedGradient(), None):
        weight, bias = weight_VD.clone().requires_grad_(), bias_V.clone().requires_grad_()
        hidden_MD = x_MD + (weight.index_select(0, ids_M) if tied is None else embed(weight, ids_M, tied))
        loss, _ = cross_entropy_triton(hidden_MD, weight, bias, labels_M, 8, tied=tied)
        passed = torch.autograd.grad(loss * 0.5, [weight, bias])
        gradients.append(passed)
        assert tied is None or tied.waiting is None
    for mine, right in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, right, atol=1e-6, rtol=1e-5)


def test_the_weight_itself_gets_nothing_where_the_embeddings_wait_for_it() -> None:
    x_MD, weight_VD, bias_V, labels_M = cross_entropy_case(torch.float32, 100)
    weight, tied = weight_VD.requires_grad_(), TiedGradient()
    loss, _ = cross_entropy_triton(x_MD.requires_grad_(), weight, bias_V, labels_M, 8, tied=tied)
    loss.backward()
    assert weight.grad is None
    assert tied.waiting is not None
    assert tied.waiting.any()
