"""Compiled layers compute what uncompiled ones do, and batches of other segments compile nothing new."""

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from padless.config.schema import RopeConfig
from padless.data.batch import PackedBatch
from padless.model import compiled
from padless.model.masked_lm import MaskedLM
from small_shape import small_shape

ROPE = RopeConfig(160_000.0, 10_000.0)
SEGMENTS = [(5, 64, 1, 58), (128,), (2,) * 64, (100, 28)]
no_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="the compiler's CPU code needs a C++ compiler",
)


@pytest.fixture(autouse=True)
def _compile_in_this_process() -> Iterator[None]:
    """Compile here: starting processes for it takes longer than these few graphs."""
    from torch._inductor import config

    with config.patch(compile_threads=1):
        yield


def small_model(dropout: float = 0.0) -> MaskedLM:
    torch.manual_seed(0)
    return MaskedLM(small_shape(num_layers=3, attention_out_dropout=dropout, mlp_dropout=dropout), ROPE)


def batch_of(lengths: tuple[int, ...]) -> PackedBatch:
    ids_T = torch.randint(5, 128, (sum(lengths),), generator=torch.Generator().manual_seed(len(lengths)))
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    positions_M = torch.arange(0, sum(lengths), 4)
    return PackedBatch(
        ids_T, borders, positions_M, ids_T[positions_M], lengths, max(lengths), sum(lengths), len(positions_M)
    )


def loss_and_gradients(model: MaskedLM, batch: PackedBatch, dtype: torch.dtype | None = None) -> list[Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
        loss = model.loss(batch)
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_halves_are_the_layer(monkeypatch: pytest.MonkeyPatch, dropout: float) -> None:
    halves = {"before attention": compiled.before_attention, "after attention": compiled.after_attention}
    monkeypatch.setattr(compiled, "_compiled", halves.__getitem__)
    model, other = small_model(dropout), small_model(dropout)
    compiled.compile_layers(other)
    assert list(other.state_dict()) == list(model.state_dict())
    for training in (True, False):
        results = []
        for each in (model.train(training), other.train(training)):
            torch.manual_seed(1)
            results.append(loss_and_gradients(each, batch_of(SEGMENTS[0])))
        for mine, right in zip(*results, strict=True):
            torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-5)  # fp32, the same sums in the same order


# fp32: sums in another order. bf16: a product is rounded to 8 bits in one and stays fp32 in the other; gradients to 4.
@pytest.mark.slow
@no_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-5), (torch.bfloat16, 6e-2)])
def test_compiled_layers_give_the_same_loss_and_gradients_and_other_segments_compile_nothing(
    dtype: torch.dtype | None, tolerance: float
) -> None:
    torch._dynamo.reset()
    model, other = small_model(), small_model()
    compiled.compile_layers(other)
    before, first = sum(compiled.count_graphs().values()), 0
    for number, lengths in enumerate(SEGMENTS):
        batch = batch_of(lengths)
        results = [loss_and_gradients(each, batch, dtype) for each in (other, model)]
        for mine, right in zip(*results, strict=True):
            torch.testing.assert_close(mine, right, atol=tolerance, rtol=1e-2 if dtype else 1e-5)
        now = sum(compiled.count_graphs().values()) - before
        first = now if number == 0 else first
        assert 2 <= now == first <= 3  # the first layer's first half has no norm
    assert compiled.count_recompiles() >= 1


@pytest.mark.slow
@no_compiler
def test_graphs_are_bounded_and_what_is_beyond_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "MAX_GRAPHS", 2)
    monkeypatch.setattr(compiled, "_graphs", Counter())
    monkeypatch.setattr(torch._dynamo.config, "cache_size_limit", 8)
    compiled._compiled.cache_clear()
    weight_ED = torch.randn(24, 8)
    try:
        half = compiled._compiled("before attention")
        for tokens in (4, 5, 6, 7):
            hidden_TD = torch.randn(tokens, 8)
            right = torch.nn.functional.linear(hidden_TD, weight_ED)
            torch.testing.assert_close(half(hidden_TD, None, 0.0, weight_ED), right)
        assert compiled.count_graphs() == {"before attention": 2}
        line = compiled.compile_line()
        assert line.endswith("1 of them recompiles; before attention reached 2: other shapes run uncompiled")
    finally:
        compiled._compiled.cache_clear()
        torch._dynamo.reset()


def test_the_line_says_how_much_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_graphs", Counter({"before attention": 2, "after attention": 1}))
    assert compiled.compile_line() == "compiled: 3 graphs, 1 of them recompiles"
    assert compiled.count_recompiles() == 1


def test_a_half_stays_one_graph_under_ddp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Torch's default cuts what it compiles within DDP's forward pass where a bucket of 1 MB of gradients is full."""
    torch._dynamo.reset()
    lookup = torch._dynamo.lookup_backend
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: lookup("eager"))  # graphs are cut before it
    monkeypatch.setattr(torch._dynamo.config, "optimize_ddp", True)
    monkeypatch.setattr(compiled, "_graphs", Counter())
    compiled._compiled.cache_clear()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = MaskedLM(small_shape(num_layers=1, hidden_size=256, intermediate_size=1024, num_heads=4), ROPE)
        compiled.compile_layers(model)
        torch.nn.parallel.DistributedDataParallel(model)(batch_of(SEGMENTS[0])).backward()
        assert compiled.count_graphs() == {"before attention": 1, "after attention": 1}
    finally:
        torch.distributed.destroy_process_group()
        compiled._compiled.cache_clear()
        torch._dynamo.reset()
