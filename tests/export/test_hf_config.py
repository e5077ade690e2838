import json
from dataclasses import replace

import pytest
from transformers import ModernBertConfig

from padless.config.schema import RopeConfig
from padless.errors import ModelError
from padless.export.hf_config import hf_config, model_config_from_hf

IDS = {"cls": 1, "sep": 2, "pad": 3, "mask": 4}


def write(folder, content):
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_config_says_the_same_in_both_dialects(model_config, rope):
    content = hf_config(model_config, rope, 512, IDS)
    assert content["global_rope_theta"] == content["rope_parameters"]["full_attention"]["rope_theta"] == 160_000.0
    assert content["local_rope_theta"] == content["rope_parameters"]["sliding_attention"]["rope_theta"] == 10_000.0
    assert content["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert content["global_attn_every_n_layers"] == 3


def test_installed_transformers_reads_thetas_ids_and_length(model_config, rope):
    read = ModernBertConfig(**hf_config(model_config, rope, 512, IDS))
    assert (read.global_rope_theta, read.local_rope_theta) == (160_000.0, 10_000.0)
    assert (read.cls_token_id, read.sep_token_id, read.pad_token_id, read.mask_token_id) == (1, 2, 3, 4)
    assert (read.bos_token_id, read.eos_token_id, read.max_position_embeddings) == (1, 2, 512)
    assert read.tie_word_embeddings


def test_config_reads_back_equal_but_for_attention_dropout(model_config, rope, tmp_path):
    model, thetas, _ = model_config_from_hf(write(tmp_path, hf_config(model_config, rope, 512, IDS)))
    assert model == replace(model_config, attention_out_dropout=0.0)
    assert thetas == rope


@pytest.mark.parametrize(("layers", "every"), [(1, 3), (2, 3), (4, 1), (7, 2), (22, 3)])
def test_alternation_survives_the_layer_types_spelling(model_config, rope, tmp_path, layers, every):
    shape = replace(model_config, num_layers=layers, global_every_layers=every, attention_out_dropout=0.0)
    content = hf_config(shape, rope, 512, IDS)
    assert model_config_from_hf(write(tmp_path, content))[0] == shape
    del content["global_attn_every_n_layers"]
    read = model_config_from_hf(write(tmp_path, content))[0].global_every_layers
    kinds = [layer % every == 0 for layer in range(layers)]
    assert [layer % read == 0 for layer in range(layers)] == kinds


def test_old_dialect_alone_is_read(model_config, rope, tmp_path):
    content = hf_config(model_config, rope, 512, IDS)
    del content["rope_parameters"], content["layer_types"]
    model, thetas, _ = model_config_from_hf(write(tmp_path, content))
    assert (thetas, model.global_every_layers) == (rope, 3)


def test_new_dialect_alone_is_read(model_config, rope, tmp_path):
    content = hf_config(model_config, rope, 512, IDS)
    for key in ("global_rope_theta", "local_rope_theta", "global_attn_every_n_layers"):
        del content[key]
    model, thetas, _ = model_config_from_hf(write(tmp_path, content))
    assert (thetas, model.global_every_layers) == (rope, 3)


def test_an_odd_window_is_halved_as_transformers_halves_it(model_config, rope, tmp_path):
    content = {**hf_config(model_config, rope, 512, IDS), "local_attention": 129}
    assert model_config_from_hf(write(tmp_path, content)).model.local_window_tokens == 128


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_decoder_without_a_bias_survives(model_config, rope, tmp_path, has_bias):
    content = hf_config(model_config, rope, 512, IDS, has_bias)
    assert ModernBertConfig(**content).decoder_bias == has_bias
    assert model_config_from_hf(write(tmp_path, content)).has_decoder_bias == has_bias


@pytest.mark.parametrize("local", [None, -1, -1.0])
def test_local_theta_of_null_or_minus_one_means_as_global(model_config, tmp_path, local):
    content = hf_config(model_config, RopeConfig(20_000.0, 10_000.0), 512, IDS)
    del content["rope_parameters"]
    content["local_rope_theta"] = local
    assert model_config_from_hf(write(tmp_path, content))[1] == RopeConfig(20_000.0, 20_000.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "describes a 'bert' model"),
        ({"norm_bias": True}, "has norm_bias=True, padless models have False"),
        ({"classifier_activation": "silu"}, "has classifier_activation='silu'"),
        ({"tie_word_embeddings": False}, "has tie_word_embeddings=False"),
        ({"hidden_size": None}, "lacks a usable value"),
        ({"layer_types": ["full_attention", "full_attention", "sliding_attention"]}, "layer_types that are not"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "scales RoPE by 'yarn'"),
        ({"num_hidden_layers": 0, "layer_types": None}, "gives num_layers=0, at least 1 is needed"),
        ({"local_attention": 1}, "gives local_window_tokens=0, at least 2 is needed"),
        ({"num_attention_heads": 3}, "gives hidden_size=32 and num_heads=3, whose head width is not an even number"),
    ],
)
def test_variant_that_padless_does_not_have_is_refused(model_config, rope, tmp_path, change, message):
    with pytest.raises(ModelError, match=message):
        model_config_from_hf(write(tmp_path, {**hf_config(model_config, rope, 512, IDS), **change}))


def test_missing_and_broken_config_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        model_config_from_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        model_config_from_hf(tmp_path)
