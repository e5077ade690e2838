"""The GPU backends call what is installed with the arguments it has. Their numbers are tested on a GPU only."""

import re
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from padless.attention import flash, reference, varlen
from padless.attention.api import SegmentLayout
from padless.errors import ConfigError

LENGTHS = (5, 64, 1, 200)


def test_operator_has_the_arguments_that_varlen_passes() -> None:
    schema = torch.ops.aten._flash_attention_forward.default._schema
    names = [argument.name for argument in schema.arguments]
    assert names[:10] == [
        *("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k"),
        *("dropout_p", "is_causal", "return_debug_mask"),
    ]
    assert {"window_size_left", "window_size_right"} <= set(names)
    assert schema.returns[0].name == "output"


@pytest.mark.parametrize("side", [-1, 64])
def test_operator_accepts_the_call_and_gives_shapes_and_gradient(side: int) -> None:
    """On the meta device the operator and its registered gradient run without a GPU, shapes only."""
    qkv_T3NH = torch.empty(270, 3, 4, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    out_TNH = varlen._attend_by_operator(qkv_T3NH, SegmentLayout.from_lengths(LENGTHS, "meta"), side)
    assert out_TNH.shape == (270, 4, 64)
    assert out_TNH.dtype == torch.bfloat16
    out_TNH.sum().backward()
    assert qkv_T3NH.grad is not None
    assert qkv_T3NH.grad.shape == qkv_T3NH.shape


def test_global_layers_never_take_the_entry_that_may_hand_them_to_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would plan for the shapes of every batch anew (pytorch/pytorch#187770)."""
    monkeypatch.setattr(varlen, "module_entry", lambda: pytest.fail("varlen_attn was asked for"))
    monkeypatch.setattr(varlen, "_attend_by_operator", lambda qkv, layout, side: qkv[:, 2] + side)
    qkv_T3NH = torch.zeros(270, 3, 4, 64, dtype=torch.bfloat16, device="meta")
    assert varlen.attend(qkv_T3NH, SegmentLayout.from_lengths(LENGTHS, "meta"), None).shape == (270, 4, 64)


@pytest.mark.parametrize(("window_tokens", "side"), [(2, 1), (128, 64)])
def test_varlen_passes_window_and_borders_to_the_newer_entry(
    monkeypatch: pytest.MonkeyPatch, window_tokens: int, side: int
) -> None:
    """A stand-in with the documented signature of torch.nn.attention.varlen.varlen_attn, computing the reference."""
    layout = SegmentLayout.from_lengths(LENGTHS)
    qkv_T3NH = torch.randn(270, 3, 4, 8, generator=torch.Generator().manual_seed(0))

    def varlen_attn(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        return_aux: object = None,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:
        assert window_size == (side, side)
        assert (max_q, max_k) == (200, 200)
        assert torch.equal(cu_seq_q, cu_seq_k)
        assert cu_seq_q.dtype == torch.int32
        lengths = tuple(cu_seq_q.diff().tolist())
        packed = torch.stack([query, key, value], dim=1)
        return reference.attend(packed, SegmentLayout.from_lengths(lengths), 2 * side)

    monkeypatch.setattr(varlen, "module_entry", lambda: varlen_attn)
    monkeypatch.setattr(varlen, "check_kernel_input", lambda backend, qkv: None)
    torch.testing.assert_close(
        varlen.attend(qkv_T3NH, layout, window_tokens), reference.attend(qkv_T3NH, layout, window_tokens)
    )


def test_an_entry_without_a_window_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first releases of varlen_attn had no window_size; the operator under it has."""
    module = types.ModuleType("torch.nn.attention.varlen")
    module.__spec__ = types.SimpleNamespace(name=module.__name__)  # pyright: ignore
    module.varlen_attn = lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False: None  # pyright: ignore
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    find = varlen.module_entry.__wrapped__  # without its cache
    assert find() is None
    module.varlen_attn = lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1): None  # pyright: ignore
    assert find() is module.varlen_attn


@pytest.mark.parametrize(("window_tokens", "side", "is_deterministic"), [(None, -1, False), (128, 64, True)])
def test_flash_passes_window_borders_and_determinism_to_the_package(
    monkeypatch: pytest.MonkeyPatch, window_tokens: int | None, side: int, is_deterministic: bool
) -> None:
    """A stand-in with the signature of flash-attn 2.8, computing the reference."""
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: is_deterministic)
    layout = SegmentLayout.from_lengths(LENGTHS)
    qkv_T3NH = torch.randn(270, 3, 4, 8, generator=torch.Generator().manual_seed(0))

    def flash_attn_varlen_qkvpacked_func(
        qkv: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Tensor:
        assert (max_seqlen, dropout_p, causal, window_size) == (200, 0.0, False, (side, side))
        assert deterministic is is_deterministic
        lengths = tuple(cu_seqlens.diff().tolist())
        return reference.attend(qkv, SegmentLayout.from_lengths(lengths), None if side < 0 else 2 * side)

    package = types.ModuleType("flash_attn")
    package.__spec__ = types.SimpleNamespace(name="flash_attn")  # pyright: ignore
    package.flash_attn_varlen_qkvpacked_func = flash_attn_varlen_qkvpacked_func  # pyright: ignore
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(flash, "check_kernel_input", lambda backend, qkv: None)
    torch.testing.assert_close(
        flash.attend(qkv_T3NH, layout, window_tokens), reference.attend(qkv_T3NH, layout, window_tokens)
    )


class SeenAtBackward(TorchDispatchMode):
    """Notes, at each operator of an attention kernel's backward pass, whether what is not repeatable is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.is_error: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if re.search(r"att(entio)?n_backward", str(func)):  # the operator, or newer torch's around it
            self.is_error.append(not torch.is_deterministic_algorithms_warn_only_enabled())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_the_kernel_is_repeatable_where_that_is_asked_for_with_warnings(is_asked_for: bool) -> None:
    """Torch's kernel adds up in any order unless what is not repeatable is an error (attention_backward.cu)."""
    qkv_T3NH = torch.empty(270, 3, 4, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    torch.use_deterministic_algorithms(is_asked_for, warn_only=is_asked_for)
    try:
        with SeenAtBackward() as seen:
            varlen.attend(qkv_T3NH, SegmentLayout.from_lengths(LENGTHS, "meta"), 128).sum().backward()
        assert seen.is_error == [True]  # where nothing is asked for, warn_only is off and means nothing
        assert torch.are_deterministic_algorithms_enabled() is is_asked_for
        assert torch.is_deterministic_algorithms_warn_only_enabled() is is_asked_for
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("module", [varlen, flash])
def test_gpu_backends_refuse_cpu_tensors(module: types.ModuleType) -> None:
    layout = SegmentLayout.from_lengths((4,))
    with pytest.raises(ConfigError, match=r"was given a CPU tensor\n.*attention_backend=sdpa"):
        module.attend(torch.zeros(4, 3, 2, 8), layout, None)


@pytest.mark.parametrize("module", [varlen, flash])
def test_gpu_backends_refuse_fp32(module: types.ModuleType) -> None:
    layout = SegmentLayout.from_lengths((4,), "meta")
    with pytest.raises(ConfigError, match=r"was given torch.float32, and takes bf16 or fp16"):
        module.attend(torch.zeros(4, 3, 2, 8, device="meta"), layout, None)


def test_flash_without_the_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash.importlib.util, "find_spec", lambda name: None)
    layout = SegmentLayout.from_lengths((4,), "meta")
    with pytest.raises(ConfigError, match=r"needs the package flash-attn.*\n.*extra \[flash\]"):
        flash.attend(torch.zeros(4, 3, 2, 8, device="meta", dtype=torch.bfloat16), layout, None)
