"""Attention in tile registers: exact, within its memory, and one segment's NaN never another's."""

import threading
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from padless.kernels.tiled_attention import SPARE_ROWS, attend_in_tiles
from padless.kernels.tiled_attention_backward import attend_in_tiles_backward
from padless.kernels.tiles import has_tiles

pytestmark = [
    pytest.mark.skipif(not has_tiles(), reason="no AMX tile registers on this machine"),
    pytest.mark.usefixtures("one_thread"),
]

_GUARD = 4096
_KEPT = 7.0  # in guard zones of what is written; those of what is read hold NaN
_EVERYTHING = 1 << 20


@dataclass(frozen=True)
class Case:
    lengths: tuple[int, ...]
    qkv_3NPH: Tensor
    grad_NPH: Tensor

    @property
    def segments(self) -> tuple[Tensor, Tensor, int]:
        lengths_S = torch.tensor(self.lengths, dtype=torch.int32)
        return (lengths_S.cumsum(0) - lengths_S).int(), lengths_S, max(self.lengths)


def between_guards(shape: tuple[int, ...], value: float, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    """Return a tensor and the memory it lies in, a guard zone on each side, all of one value."""
    size = torch.Size(shape).numel()
    memory = torch.full((size + 2 * _GUARD,), value, dtype=dtype)
    return memory[_GUARD : _GUARD + size].view(shape), memory


def make_case(lengths: tuple[int, ...], heads: int, width: int, seed: int = 0) -> Case:
    generator, tokens = torch.Generator().manual_seed(seed), sum(lengths)
    qkv_3NPH, _ = between_guards((3, heads, tokens + SPARE_ROWS, width), float("nan"))
    grad_NPH, _ = between_guards((heads, tokens + SPARE_ROWS, width), float("nan"))
    qkv_3NPH[:, :, :tokens] = torch.randn(3, heads, tokens, width, generator=generator).bfloat16()
    qkv_3NPH[0] *= width**-0.5
    grad_NPH[:, :tokens] = torch.randn(heads, tokens, width, generator=generator).bfloat16()
    return Case(lengths, qkv_3NPH, grad_NPH)


def attended(case: Case, reach: int) -> list[Tensor]:
    """Return output, log of sums, and the gradients of queries, keys and values."""
    _, heads, rows, width = case.qkv_3NPH.shape
    tokens = sum(case.lengths)
    out_TNH, memory = between_guards((tokens, heads, width), _KEPT)
    lse_NP = attend_in_tiles(case.qkv_3NPH, *case.segments, reach, out_TNH.transpose(0, 1))
    assert (memory[:_GUARD] == _KEPT).all()
    assert (memory[-_GUARD:] == _KEPT).all()
    delta_NP, _ = between_guards((heads, rows), float("nan"), torch.float32)
    out_NTH = out_TNH.transpose(0, 1)
    delta_NP[:, :tokens] = (out_NTH.float() * case.grad_NPH[:, :tokens].float()).sum(-1)
    grad_3NPH = attend_in_tiles_backward(case.grad_NPH, delta_NP, case.qkv_3NPH, lse_NP, *case.segments, reach)
    return [out_NTH, lse_NP[:, :tokens], *grad_3NPH[:, :, :tokens]]


def right(case: Case, reach: int) -> list[Tensor]:
    """Return the same by fp64 operators."""
    leaf = case.qkv_3NPH[:, :, : sum(case.lengths)].double().requires_grad_()
    outs, sums = [], []
    for q_NLH, k_NLH, v_NLH in (each.unbind(0) for each in leaf.split(case.lengths, 2)):
        tokens = torch.arange(q_NLH.shape[1])
        hidden = (tokens[:, None] - tokens).abs() > reach
        scores = (q_NLH @ k_NLH.transpose(1, 2)).masked_fill(hidden, float("-inf"))
        sums.append(scores.logsumexp(-1))
        outs.append(scores.softmax(-1) @ v_NLH)
    out_NTH = torch.cat(outs, 1)
    out_NTH.backward(case.grad_NPH[:, : leaf.shape[2]].double())
    assert leaf.grad is not None
    return [out_NTH.detach(), torch.cat(sums, 1).detach(), *leaf.grad]


# Every bf16 rounding is up to 1/256 of a value; probabilities, their gradients and the results are each rounded once.
@pytest.mark.parametrize("reach", [0, 1, 16, 64, _EVERYTHING])
@pytest.mark.parametrize(
    ("lengths", "heads", "width"),
    [
        (tuple(range(1, 71)), 1, 64),
        ((1,), 1, 32),
        ((33,), 2, 96),
        ((31, 65, 2), 1, 128),
        ((1025,), 1, 32),
        ((5, 1023, 64), 1, 32),
    ],
)
def test_attention_in_tiles_equals_fp64_whatever_lies_around_it(
    lengths: tuple[int, ...], heads: int, width: int, reach: int
) -> None:
    case = make_case(lengths, heads, width)
    for mine, exact in zip(attended(case, reach), right(case, reach), strict=True):
        error = (mine.double() - exact).norm()
        assert error <= exact.norm() / 128 + 1e-3  # where a token sees itself alone, some gradients are 0


@pytest.mark.parametrize("reach", [16, _EVERYTHING])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["queries", "keys", "values", "gradient"])
def test_what_is_not_finite_stays_in_its_segment(which: str, value: float, reach: int) -> None:
    lengths = (5, 33, 64, 17, 100, 1)
    clean = attended(make_case(lengths, 2, 64), reach)
    for bad in range(len(lengths)):
        case = make_case(lengths, 2, 64)
        first, stop = sum(lengths[:bad]), sum(lengths[: bad + 1])
        operands = {"gradient": case.grad_NPH, **dict(zip(("queries", "keys", "values"), case.qkv_3NPH, strict=True))}
        operands[which][0, first] = value
        results = attended(case, reach)
        assert any(not each[0, first:stop].isfinite().all() for each in results)
        for mine, right_one in zip(results, clean, strict=True):
            assert torch.equal(mine[1], right_one[1])
            assert torch.equal(mine[0, :first], right_one[0, :first])
            assert torch.equal(mine[0, stop:], right_one[0, stop:])


def test_the_same_bits_come_out_again_on_any_number_of_threads_and_beside_torchs_own_products() -> None:
    case = make_case((300, 5, 64, 33), 3, 64)
    a, b = (make_case((200,), 1, 64, seed).grad_NPH[0, :200] for seed in (1, 2))
    product, once = a @ b.t(), attended(case, 64)
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        for mine, before in zip(attended(case, 64), once, strict=True):
            assert torch.equal(mine, before)
        assert torch.equal(a @ b.t(), product)


def test_several_python_threads_have_their_own_registers_and_memory() -> None:
    cases = [make_case((90, 33), 2, 64, seed) for seed in range(3)]
    expected, wrong = [attended(case, 16) for case in cases], []

    def repeat(number: int) -> None:
        for _ in range(10):
            results = attended(cases[number], 16)
            if not all(torch.equal(mine, before) for mine, before in zip(results, expected[number], strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


def test_another_default_dtype_changes_nothing() -> None:
    case = make_case((40, 7), 1, 32)
    once = attended(case, 16)
    torch.set_default_dtype(torch.float64)
    try:
        again = attended(case, 16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(mine, before) for mine, before in zip(again, once, strict=True))


def test_forward_refuses_what_does_not_fit() -> None:
    case = make_case((40, 7), 2, 64)
    (starts_S, lengths_S, longest), qkv_3NPH = case.segments, case.qkv_3NPH
    out_NTH = torch.empty(2, 47, 64, dtype=torch.bfloat16)
    narrow = qkv_3NPH[..., :48].contiguous(), starts_S, lengths_S, longest, 16, out_NTH[..., :48].contiguous()
    for arguments, message in (
        ((qkv_3NPH.float(), starts_S, lengths_S, longest, 16, out_NTH), r"argument 1 of a kernel is torch.float32"),
        ((qkv_3NPH, starts_S.long(), lengths_S, longest, 16, out_NTH), r"argument 2 of a kernel is torch.int64"),
        ((qkv_3NPH, starts_S, lengths_S, longest, 16, out_NTH.float()), r"argument 1 of a kernel is torch.float32"),
        ((qkv_3NPH[:, :, :60], starts_S, lengths_S, longest, 16, out_NTH), r"not contiguous memory"),
        ((qkv_3NPH[:, :, :60].contiguous(), starts_S, lengths_S, longest, 16, out_NTH), r"spare rows included"),
        ((qkv_3NPH, starts_S, lengths_S, longest, 16, out_NTH[:1]), r"out_NTH is \(1, 47, 64\), but"),
        ((qkv_3NPH, starts_S, lengths_S, longest, -1, out_NTH), r"reach=-1"),
        (narrow, r"head width 48"),
        ((qkv_3NPH, starts_S[:0], lengths_S[:0], longest, 16, out_NTH), r"there has to be one"),
        ((qkv_3NPH, starts_S - 1, lengths_S, longest, 16, out_NTH), r"a start and a length of 0 or more"),
        ((qkv_3NPH, starts_S, lengths_S, 39, 16, out_NTH), r"longer than 39"),
        ((qkv_3NPH, starts_S + 1, lengths_S, longest, 16, out_NTH), r"segments reach beyond 47 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            attend_in_tiles(*arguments)


def test_backward_refuses_what_does_not_fit() -> None:
    case = make_case((40, 7), 2, 64)
    starts_S, lengths_S, longest = case.segments
    sums_NP = torch.zeros(case.grad_NPH.shape[:2])
    fitting = case.grad_NPH, sums_NP, case.qkv_3NPH, sums_NP
    for number, other, message in (
        (0, case.grad_NPH[:, :-1].contiguous(), r"argument 2 of a kernel is \(2, 79\), not NP"),
        (0, case.grad_NPH.float(), r"argument 1 of a kernel is torch.float32"),
        (1, sums_NP.bfloat16(), r"argument 2 of a kernel is torch.bfloat16"),
        (2, case.qkv_3NPH.float(), r"argument 3 of a kernel is torch.float32"),
        (3, sums_NP[:, :47].contiguous(), r"argument 4 of a kernel is \(2, 47\), not NP"),
    ):
        grad_NPH, delta_NP, qkv_3NPH, lse_NP = [*fitting[:number], other, *fitting[number + 1 :]]
        with pytest.raises(ValueError, match=message):
            attend_in_tiles_backward(grad_NPH, delta_NP, qkv_3NPH, lse_NP, starts_S, lengths_S, longest, 16)
    with pytest.raises(ValueError, match="segments reach beyond 47 tokens"):
        attend_in_tiles_backward(*fitting, starts_S + 1, lengths_S, longest, 16)
