"""Our logits, loss and parameter counts are those of transformers' ModernBertForMaskedLM."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import ModernBertConfig, ModernBertForMaskedLM

from padless.config.schema import ModelConfig, RopeConfig
from padless.data.batch import PackedBatch
from padless.model.count import count_parameters
from padless.model.masked_lm import MaskedLM
from small_shape import small_shape

TINY = small_shape(
    hidden_size=48,
    num_heads=3,
    intermediate_size=40,
    vocab_size=192,
    local_window_tokens=128,
    attention_out_dropout=0.1,
    mlp_dropout=0.1,
    embedding_dropout=0.1,
)
ROPE = RopeConfig(global_theta=160_000.0, local_theta=10_000.0)


def hf_config(model: ModelConfig, rope: RopeConfig, implementation: str = "sdpa") -> ModernBertConfig:
    return ModernBertConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        norm_eps=model.norm_eps,
        global_rope_theta=rope.global_theta,
        local_rope_theta=rope.local_theta,
        global_attn_every_n_layers=model.global_every_layers,
        local_attention=model.local_window_tokens,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        reference_compile=False,
        attn_implementation=implementation,
    )


def hf_model(model: ModelConfig, rope: RopeConfig, implementation: str = "sdpa") -> ModernBertForMaskedLM:
    """Random weights large enough that positions, windows and norms all matter to the logits."""
    torch.manual_seed(1)
    theirs = ModernBertForMaskedLM(hf_config(model, rope, implementation)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif name == "decoder.bias":
                parameter.normal_(std=0.5)
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return theirs


def ragged_batch(lengths: tuple[int, ...], vocab_size: int, mask_every: int = 5) -> PackedBatch:
    generator = torch.Generator().manual_seed(len(lengths))
    ids_T = torch.randint(3, vocab_size, (sum(lengths),), generator=generator)
    positions_M = torch.arange(0, sum(lengths), mask_every)
    return PackedBatch(
        input_ids_T=ids_T,
        cu_seqlens_S1=torch.tensor([0, *lengths]).cumsum(0).int(),
        masked_positions_M=positions_M,
        labels_M=torch.randint(3, vocab_size, positions_M.shape, generator=generator),
        segment_lengths=lengths,
        max_seqlen=max(lengths),
        num_real_tokens=sum(lengths),
        num_masked=len(positions_M),
    )


def hf_logits(theirs: ModernBertForMaskedLM, batch: PackedBatch) -> Tensor:
    """Each document alone, unpadded: what a user of the published class gets."""
    with torch.no_grad():
        documents = batch.input_ids_T.split(list(batch.segment_lengths))
        return torch.cat([theirs(input_ids=document[None]).logits[0] for document in documents])


def ours_like(theirs: ModernBertForMaskedLM, model: ModelConfig, rope: RopeConfig, backend: str) -> MaskedLM:
    ours = MaskedLM(model, rope, backend).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_logits_equal_hugging_face_on_a_ragged_batch(backend: str, implementation: str) -> None:
    theirs = hf_model(TINY, ROPE, implementation)
    ours = ours_like(theirs, TINY, ROPE, backend)
    batch = ragged_batch((1, 63, 1500, 64, 65, 129, 1, 1000), TINY.vocab_size)
    with torch.no_grad():
        difference = (ours.logits(batch) - hf_logits(theirs, batch)).abs().max()
    # fp32 rounding through four layers: 5e-6 was seen, with logits up to 5.7.
    assert difference < 1e-4


def test_logits_equal_hugging_face_with_padding_on_their_side() -> None:
    theirs = hf_model(TINY, ROPE)
    ours = ours_like(theirs, TINY, ROPE, "sdpa")
    batch = ragged_batch((70, 3, 200), TINY.vocab_size)
    padded_SL = torch.nn.utils.rnn.pad_sequence(list(batch.input_ids_T.split([70, 3, 200])), batch_first=True)
    is_real_SL = torch.arange(200) < torch.tensor([[70], [3], [200]])
    with torch.no_grad():
        theirs_TV = theirs(input_ids=padded_SL, attention_mask=is_real_SL.long()).logits[is_real_SL]
        assert (ours.logits(batch) - theirs_TV).abs().max() < 1e-4


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    global_every=st.integers(1, 4),
    window=st.sampled_from([2, 3, 16, 64, 128, 300]),
    thetas=st.tuples(st.sampled_from([500.0, 10_000.0, 160_000.0]), st.sampled_from([500.0, 10_000.0, 160_000.0])),
    heads=st.sampled_from([1, 2, 6]),
    layers=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 260), min_size=1, max_size=6),
)
def test_logits_equal_hugging_face_at_odd_settings(
    global_every: int, window: int, thetas: tuple[float, float], heads: int, layers: int, lengths: list[int]
) -> None:
    model = replace(
        TINY, global_every_layers=global_every, local_window_tokens=window, num_heads=heads, num_layers=layers
    )
    rope = RopeConfig(*thetas)
    theirs = hf_model(model, rope)
    batch = ragged_batch(tuple(lengths), model.vocab_size)
    with torch.no_grad():
        ours_TV = ours_like(theirs, model, rope, "sdpa").logits(batch)
    assert (ours_TV - hf_logits(theirs, batch)).abs().max() < 1e-4


def test_loss_equals_hugging_face() -> None:
    theirs = hf_model(TINY, ROPE)
    ours = ours_like(theirs, TINY, ROPE, "sdpa")
    batch = ragged_batch((300,), TINY.vocab_size)
    labels_T = torch.full((300,), -100)
    labels_T[batch.masked_positions_M] = batch.labels_M
    loss = theirs(input_ids=batch.input_ids_T[None], labels=labels_T[None]).loss
    torch.testing.assert_close(ours.loss(batch), loss, rtol=1e-6, atol=1e-6)
    loss.backward()
    ours.loss(batch).backward()
    ours_grads = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours_grads[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_parameter_names_equal_hugging_face() -> None:
    theirs = hf_model(TINY, ROPE)
    ours = MaskedLM(TINY, ROPE)
    assert {name: p.shape for name, p in ours.named_parameters()} == {
        name: p.shape for name, p in theirs.named_parameters()
    }
    assert set(ours.state_dict()) == set(theirs.state_dict())
    assert ours.rope == ROPE


PUBLISHED = {
    "base": (
        replace(TINY, num_layers=22, hidden_size=768, num_heads=12, intermediate_size=1152, vocab_size=50_368),
        149_655_232,
    ),
    "large": (
        replace(TINY, num_layers=28, hidden_size=1024, num_heads=16, intermediate_size=2624, vocab_size=50_368),
        395_881_664,
    ),
}


@pytest.mark.parametrize("size", ["base", "large"])
def test_parameter_counts_of_base_and_large_equal_hugging_face(size: str) -> None:
    model, published = PUBLISHED[size]
    with torch.device("meta"):
        theirs = ModernBertForMaskedLM(hf_config(model, ROPE))
        theirs.tie_weights()
        ours = MaskedLM(model, ROPE)
    assert sum(p.numel() for p in theirs.parameters()) == published
    assert sum(p.numel() for p in ours.parameters()) == published
    assert count_parameters(model).total == published
