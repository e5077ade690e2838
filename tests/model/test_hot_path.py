"""Forward and backward of a step never make the host wait for the device, whatever the attention backend."""

import contextlib

import numpy as np
import pytest
import torch
from torch import Tensor

from padless.attention import varlen
from padless.attention.api import AttentionBackend, SegmentLayout, window_reach
from padless.attention.select import choose_backend, get_backend
from padless.config.schema import RopeConfig
from padless.data.batch import PackedBatch
from padless.data.collate import Block, MaskedBlock, collate
from padless.model.block import Layer
from padless.model.masked_lm import MaskedLM
from small_shape import small_shape

from .device_watch import NoSynchronisation, Synchronised, values_on_host

MODEL = small_shape(
    hidden_size=64,
    intermediate_size=96,
    vocab_size=512,
    attention_out_dropout=0.1,
    mlp_dropout=0.1,
    embedding_dropout=0.1,
)
LENGTHS = (5, 64, 1, 130)


def small_batch(pad_masked_to: int | None = None) -> PackedBatch:
    tokens = np.random.default_rng(0).integers(5, 500, sum(LENGTHS)).astype(np.uint16)
    block = Block("general", 0, tokens, np.array(LENGTHS, np.int32))
    masked = MaskedBlock(block, tokens.astype(np.int64), np.arange(0, sum(LENGTHS), 5))
    return collate([masked], 256, 130, 3, pad_masked_to)


def by_operator(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    """``varlen`` as torch 2.7 runs it; its check of the device is for users."""
    return varlen._attend_by_operator(qkv_T3NH, layout, window_reach(window_tokens) or -1)


def by_module(qkv_T3NH: Tensor, layout: SegmentLayout, window_tokens: int | None) -> Tensor:
    """``varlen`` as newer torch runs it."""
    entry = varlen.module_entry()
    assert entry is not None
    return varlen._attend_by_module(entry, qkv_T3NH, layout, window_reach(window_tokens) or -1)


def model_with(attend: AttentionBackend) -> MaskedLM:
    model = MaskedLM(MODEL, RopeConfig(160_000.0, 10_000.0), "sdpa")
    for layer in model.model.layers:
        assert isinstance(layer, Layer)
        layer.attn._attend = attend
    return model


BACKENDS = {
    "sdpa": get_backend("sdpa"),
    "reference": get_backend("reference"),
    "varlen by operator": by_operator,
    "varlen by module": by_module,
}


@pytest.fixture(name="_meta_has_autocast")
def _meta_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast does not know the meta device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())


@pytest.mark.usefixtures("_meta_has_autocast")
@pytest.mark.parametrize("name", BACKENDS)
def test_a_step_never_waits_for_the_device(name: str) -> None:
    if name == "varlen by module" and varlen.module_entry() is None:
        pytest.skip("this torch has no torch.nn.attention.varlen with a window")
    model = model_with(BACKENDS[name]).to("meta").bfloat16()
    model.decoder.weight = model.model.embeddings.tok_embeddings.weight  # a move to this device parts what is shared
    with NoSynchronisation("meta") as watch:
        loss = model.loss(small_batch(pad_masked_to=256).to(torch.device("meta")))
        loss.backward()
    assert loss.device.type == "meta"
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert watch.copies_to_device >= 5  # the batch's tensors, and what the layout derives from the host's lengths


def test_the_watch_sees_whoever_waits() -> None:
    for number in range(len(values_on_host(torch.ones(3)))):
        breach = values_on_host(torch.ones(3, device="meta"))[number]
        with pytest.raises((Synchronised, RuntimeError, NotImplementedError)), NoSynchronisation("meta"):
            breach()


@pytest.mark.gpu
def test_a_step_on_a_gpu_never_waits_for_it() -> None:
    """The same on the device itself, whose driver says when the host waits."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    backend, _ = choose_backend("auto", "cuda", 0, allow_slow=True)
    model = MaskedLM(MODEL, RopeConfig(160_000.0, 10_000.0), backend).to(device)
    batches = [small_batch(pad_masked_to=256).pin() for _ in range(3)]
    for number, batch in enumerate(batches):
        torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first step compiles the kernels
        try:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model.loss(batch.to(device))
            loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss)
