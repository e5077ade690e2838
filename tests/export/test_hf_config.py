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
        (
            {"layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"]},
            "has 5 layer_types and num_h",
        ),
        ({"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2}, "layer_types that are not"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "scales RoPE by 'yarn'"),
        ({"rope_parameters": {"rope_theta": 10_000.0}}, "has rope_parameters for all layers as one"),
        (
            {"num_attention_heads": 3},
            "hidden_size=32 and num_attention_heads=3, whose head width is not an even number",
        ),
    ],
)
def test_variant_that_padless_does_not_have_is_refused(model_config, rope, tmp_path, change, message):
    with pytest.raises(ModelError, match=message):
        model_config_from_hf(write(tmp_path, {**hf_config(model_config, rope, 512, IDS), **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": 64.7}, r"has hidden_size=64\.7, not a whole number"),
        ({"num_attention_heads": True}, "has num_attention_heads=True, not a whole number"),
        ({"vocab_size": "320"}, "has vocab_size='320', not a whole number"),
        ({"num_hidden_layers": 0, "layer_types": None}, "has num_hidden_layers=0, at least 1 is needed"),
        ({"global_attn_every_n_layers": 0, "layer_types": None}, "has global_attn_every_n_layers=0, at least 1 is"),
        ({"local_attention": 1}, "has local_attention=1, at least 2 is needed"),
        ({"local_attention": 128.5}, r"has local_attention=128\.5, not a whole number"),
        ({"norm_eps": float("nan")}, "has norm_eps=nan, not a finite number"),
        ({"norm_eps": 10**400}, "has norm_eps=inf, not a finite number"),
        ({"norm_eps": 0}, "has norm_eps=0, which is not above 0"),
        ({"norm_eps": -1e-5}, "has norm_eps=-1e-05, which is not above 0"),
        ({"norm_eps": "1e-5"}, "has norm_eps='1e-5', not a number"),
        ({"norm_eps": None}, "has norm_eps=None, not a number"),
        ({"mlp_dropout": 1.0}, "has mlp_dropout=1, which is not from 0 up to 1"),
        ({"embedding_dropout": -0.1}, r"has embedding_dropout=-0\.1, which is not from 0 up to 1"),
        ({"initializer_range": -0.02}, r"has initializer_range=-0\.02, which is not above 0"),
    ],
)
def test_a_number_that_no_model_has_is_named_and_never_rounded(model_config, rope, tmp_path, change, message):
    with pytest.raises(ModelError, match=message):
        model_config_from_hf(write(tmp_path, {**hf_config(model_config, rope, 512, IDS), **change}))


@pytest.mark.parametrize(
    ("kind", "old"), [("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")]
)
@pytest.mark.parametrize("theta", [0, -5, float("inf"), "10000"])
def test_a_theta_that_is_none_is_refused_in_both_dialects(model_config, rope, tmp_path, kind, old, theta):
    content = hf_config(model_config, rope, 512, IDS)
    nested = {**content["rope_parameters"], kind: {"rope_theta": theta}}
    with pytest.raises(ModelError, match=rf"\(rope_parameters\.{kind}\) has rope_theta={theta!r}, (not|which is not)"):
        model_config_from_hf(write(tmp_path, {**content, "rope_parameters": nested}))
    del content["rope_parameters"]
    with pytest.raises(ModelError, match=rf"config\.json has {old}={theta!r}, (not|which is not)"):
        model_config_from_hf(write(tmp_path, {**content, old: theta}))


def test_missing_and_broken_config_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        model_config_from_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        model_config_from_hf(tmp_path)
