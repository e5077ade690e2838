"""Initial weights: the standard deviation of each kind of tensor, and what they do not depend on."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from padless.config.schema import ModelConfig, RopeConfig
from padless.model.init import initial_std, initialise
from padless.model.masked_lm import MaskedLM
from small_shape import small_shape

WIDE = small_shape(
    num_layers=8,
    hidden_size=128,
    intermediate_size=96,
    vocab_size=512,
    local_window_tokens=128,
    attention_out_dropout=0.1,
)
ROPE = RopeConfig(10_000.0, 10_000.0)
# A normal cut at two standard deviations keeps this share of its standard deviation.
CUT_AT_TWO = 0.8796


def initialised(config: ModelConfig = WIDE, seed: int = 17) -> MaskedLM:
    masked_lm = MaskedLM(config, ROPE)
    initialise(masked_lm, seed)
    return masked_lm


@pytest.mark.parametrize(
    ("ending", "std"),
    [
        ("tok_embeddings.weight", 0.02),
        ("attn.Wqkv.weight", 0.02),
        ("mlp.Wi.weight", 0.02),
        ("attn.Wo.weight", 0.02 / 4),  # sqrt(2 x 8 layers) = 4
        ("mlp.Wo.weight", 0.02 / 4),
        ("head.dense.weight", 0.02 / 4),
    ],
)
def test_standard_deviation_of_each_kind_of_matrix(ending: str, std: float) -> None:
    matrices = [p for name, p in initialised().named_parameters() if name.endswith(ending)]
    assert matrices
    for matrix in matrices:
        # A sample of at least 12,288 values: 0.7 % standard error of the standard deviation.
        assert matrix.std().item() == pytest.approx(std * CUT_AT_TWO, rel=0.03)
        assert matrix.abs().max().item() <= 2 * std
        assert abs(matrix.mean().item()) < 0.05 * std


def test_norms_are_one_and_the_bias_is_zero() -> None:
    masked_lm = initialised()
    norms = [p for name, p in masked_lm.named_parameters() if name.endswith("norm.weight")]
    assert len(norms) == 1 + 7 + 8 + 1 + 1  # embeddings, attention but layer 0, feed-forward, final, head
    assert all(torch.equal(norm, torch.ones(128)) for norm in norms)
    assert not masked_lm.decoder.bias.any()
    assert masked_lm.decoder.weight is masked_lm.model.embeddings.tok_embeddings.weight


def test_standard_deviations_are_those_of_hugging_face() -> None:
    torch.manual_seed(0)
    theirs = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=96,
            num_hidden_layers=8,
            num_attention_heads=2,
            initializer_range=0.02,
            initializer_cutoff_factor=2.0,
            pad_token_id=0,
        )
    )
    for name, parameter in theirs.named_parameters():
        std = initial_std(name, WIDE)
        if std is None:
            assert torch.equal(parameter, torch.full_like(parameter, 0.0 if name == "decoder.bias" else 1.0)), name
        else:
            assert parameter.std().item() == pytest.approx(std * CUT_AT_TWO, rel=0.03), name


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    torch.manual_seed(1)
    first = initialised().state_dict()
    torch.manual_seed(2)
    same, other = initialised().state_dict(), initialised(seed=18).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["model.layers.0.attn.Wo.weight"], other["model.layers.0.attn.Wo.weight"])


def test_a_layers_weights_do_not_depend_on_the_other_layers() -> None:
    name = "model.layers.3.attn.Wqkv.weight"
    deeper = initialised(replace(WIDE, num_layers=9)).state_dict()[name]
    assert torch.equal(deeper, initialised().state_dict()[name])
    assert not torch.equal(deeper, initialised().state_dict()["model.layers.4.attn.Wqkv.weight"])


def test_initial_loss_is_near_uniform_guessing() -> None:
    from padless.data.batch import PackedBatch

    ids_T = torch.randint(0, 512, (200,), generator=torch.Generator().manual_seed(0))
    borders = torch.tensor([0, 200], dtype=torch.int32)
    batch = PackedBatch(ids_T, borders, torch.arange(200), ids_T.roll(7), (200,), 200, 200, 200)
    assert initialised().eval().loss(batch).item() == pytest.approx(math.log(512), rel=0.02)
