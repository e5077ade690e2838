"""Who may use tile registers, and logits in them: exact, within their memory, the same again."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from padless.kernels import tiles
from padless.kernels.native import kernel_of_large_rows
from padless.kernels.tiled_logits import TiledLogits
from padless.kernels.tiles import has_tiles
from padless.kernels.vectors import Code, Memory, Whole

pytestmark = pytest.mark.usefixtures("one_thread")
needs_tiles = pytest.mark.skipif(not has_tiles(), reason="no AMX tile registers on this machine")

_UNASKED = """
import torch
from padless.kernels.tiled_attention import attend_in_tiles
qkv_3NPH, out_NTH = torch.zeros(3, 1, 33, 32, dtype=torch.bfloat16), torch.empty(1, 1, 32, dtype=torch.bfloat16)
one = torch.ones(1, dtype=torch.int32)
print(attend_in_tiles(qkv_3NPH, one - 1, one, 1, 0, out_NTH)[0, 0].item(), out_NTH.abs().sum().item())
"""


@kernel_of_large_rows
def _begin(code: Code, row: Whole, x: Memory) -> None:
    tiles.begin_tiles(code)
    tiles.end_tiles(code)


def test_a_process_without_tiles_is_refused_a_kernel_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "has_tiles", lambda: False)
    with pytest.raises(RuntimeError, match=r"has_tiles\(\) is False; ask fits_tiles\(\) first"):
        _begin(1, torch.zeros(1))


@needs_tiles
def test_a_process_that_did_not_ask_is_granted_tiles_by_its_first_kernel() -> None:
    run = subprocess.run([sys.executable, "-c", _UNASKED], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "0.0 0.0"), run.stderr


def make_case(states: int, vocabulary: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(states + vocabulary)
    x_MD, weight_VD = (torch.randn(rows, width, generator=generator) for rows in (states, vocabulary))
    bias_V, factor_M = torch.randn(vocabulary, generator=generator), torch.rand(states, generator=generator)
    return x_MD.bfloat16(), (weight_VD * width**-0.5).bfloat16(), bias_V, factor_M


def computed(x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor, factor_M: Tensor) -> list[Tensor]:
    """Return logs of sums, and the gradients of x, weight and bias."""
    logits = TiledLogits(x_MD, weight_VD, bias_V)
    lse_M = logits.log_sum_exp()
    return [lse_M, *logits.gradients(lse_M, factor_M)]


# Probabilities are rounded to bf16, by up to 1/256; sums are fp32.
@needs_tiles
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("states", "vocabulary", "width"),
    [(1, 1, 32), (31, 33, 96), (33, 31, 32), (545, 1025, 64), (64, 512, 160), (2, 1537, 1152)],
)
def test_logits_in_tiles_equal_fp64_and_come_out_again(states: int, vocabulary: int, width: int, threads: int) -> None:
    torch.set_num_threads(threads)
    case = make_case(states, vocabulary, width)
    results = computed(*case)
    assert all(torch.equal(mine, again) for mine, again in zip(results, computed(*case), strict=True))
    x_MD, weight_VD, bias_V, factor_M = (each.double() for each in case)
    logits_MV = x_MD @ weight_VD.t() + bias_V
    share_MV = logits_MV.softmax(1) * factor_M[:, None]
    right = logits_MV.logsumexp(1), share_MV @ weight_VD, share_MV.t() @ x_MD, share_MV.sum(0)
    for mine, exact, tolerance in zip(results, right, (1e-6, 1 / 256, 1 / 256, 1e-5), strict=True):
        assert mine.shape == exact.shape
        assert (mine.double() - exact).norm() <= exact.norm() * tolerance


@needs_tiles
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_hidden_state_that_is_not_finite_spoils_no_other(value: float) -> None:
    case = make_case(70, 600, 64)
    clean = computed(*case)
    case[0][33, 5] = value
    lse_M, grad_x_MD, *_ = computed(*case)
    others = torch.arange(70) != 33
    assert not lse_M[33].isfinite()
    assert grad_x_MD[33].isnan().all()
    assert torch.equal(lse_M[others], clean[0][others])
    assert torch.equal(grad_x_MD[others], clean[1][others])


@needs_tiles
def test_logits_do_not_depend_on_the_default_dtype() -> None:
    case = make_case(40, 600, 64)
    once = computed(*case)
    torch.set_default_dtype(torch.float64)
    try:
        again = computed(*case)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(mine, before) for mine, before in zip(again, once, strict=True))


@needs_tiles
def test_logits_refuse_what_does_not_fit() -> None:
    x_MD, weight_VD, bias_V, factor_M = make_case(33, 65, 64)
    for arguments, message in (
        ((x_MD.float(), weight_VD, bias_V), "argument 1 of a kernel is torch.float32"),
        ((x_MD, weight_VD.float(), bias_V), "argument 2 of a kernel is torch.float32"),
        ((x_MD, weight_VD, bias_V.bfloat16()), "argument 3 of a kernel is torch.bfloat16"),
        ((x_MD, weight_VD[:, :32], bias_V), "argument 2 of a kernel is"),
        ((x_MD, weight_VD, bias_V[:32]), "argument 3 of a kernel is"),
        ((x_MD[:, :48], weight_VD[:, :48], bias_V), "width 48 are not in whole tiles of 32"),
    ):
        with pytest.raises(ValueError, match=message):
            TiledLogits(*arguments)
    logits = TiledLogits(x_MD, weight_VD, bias_V)
    for lse_M, message in (
        (factor_M[:32], r"argument 2 of a kernel is \(33,\), not M"),
        (factor_M.bfloat16(), "argument 1 of a kernel is torch.bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            logits.gradients(lse_M, factor_M)
    with pytest.raises(ValueError, match="32 logs of sums were given for 33 hidden states"):
        logits.gradients(factor_M[:32], factor_M[:32])
