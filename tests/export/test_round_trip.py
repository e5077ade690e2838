"""Random-weight models of transformers in ten shapes: in with equal logits, out with equal bytes."""

import json

import pytest
from safetensors.torch import load_file

from padless.config.schema import RopeConfig
from padless.export.card import ModelCard
from padless.export.importer import load_hf_folder
from padless.export.parity import compare_with_transformers
from padless.export.writer import export_hf

from .reference import IDS, save_network

SHORT = (1, 2, 3, 17, 64, 65, 66, 130, 300)
LONG = (1, 3000)
SHAPES = [
    # odd vocabularies
    ({"vocab_size": 321}, SHORT),
    ({"vocab_size": 1003, "decoder_bias": False, "global_attn_every_n_layers": 4, "num_hidden_layers": 5}, SHORT),
    ({"vocab_size": 383, "hidden_size": 96, "num_attention_heads": 3, "global_attn_every_n_layers": 2}, LONG),
    # other windows
    ({"local_attention": 64, "global_attn_every_n_layers": 4}, SHORT),
    ({"local_attention": 33, "hidden_size": 48, "num_attention_heads": 4, "decoder_bias": False}, SHORT),
    ({"local_attention": 512, "global_attn_every_n_layers": 2, "num_hidden_layers": 2}, LONG),
    # other thetas
    ({"global_rope_theta": 10_000.0}, SHORT),
    ({"global_rope_theta": 1e6, "local_rope_theta": 160_000.0, "num_hidden_layers": 1}, LONG),
    # no layer local, other eps and widths
    ({"global_attn_every_n_layers": 1, "norm_eps": 1e-12, "intermediate_size": 70, "num_hidden_layers": 2}, LONG),
    ({"hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 7, "norm_eps": 1e-3}, SHORT),
]


def card(loaded):
    model, rope = loaded.model_config, loaded.rope
    thetas = f"{rope.global_theta:g} / {rope.local_theta:g}"
    row = ("first", "1K", "4096", "1K", "1e-3", "30%", thetas, "all 1")
    return ModelCard("shape", model, "first", (row,), ("all",), 1000, 4096, "CPU", None, None, 0.15, "random")


@pytest.mark.parametrize(("shape", "lengths"), SHAPES)
def test_a_folder_comes_in_with_equal_logits_and_goes_out_with_equal_bytes(tmp_path, tokenizer_folder, shape, lengths):
    save_network(tmp_path / "hf", **shape)
    loaded = load_hf_folder(tmp_path / "hf")
    model, rope = loaded.model_config, loaded.rope
    parity = compare_with_transformers(tmp_path / "hf", loaded.state_dict, model, rope, IDS, 4096, lengths)
    assert parity.max_abs_difference < 1e-4
    assert parity.top1_agreement == 1.0
    export_hf(loaded.state_dict, model, rope, tokenizer_folder, tmp_path / "out", card(loaded), 1e-4)
    before, after = (load_file(tmp_path / each / "model.safetensors") for each in ("hf", "out"))
    assert set(after) == set(before)
    assert all(after[name].numpy().tobytes() == tensor.numpy().tobytes() for name, tensor in before.items())
    again = load_hf_folder(tmp_path / "out")
    assert (again.model_config, again.rope) == (model, rope)


OLD_KEYS = ("global_rope_theta", "local_rope_theta", "global_attn_every_n_layers")


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_both_dialects_of_the_config_are_the_same_model(tmp_path, every):
    thetas = {"global_rope_theta": 80_000.0, "local_rope_theta": 5_000.0}
    network = save_network(tmp_path, num_hidden_layers=5, global_attn_every_n_layers=every, **thetas)
    old = load_hf_folder(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert all(content[key] == getattr(network.config, key) for key in OLD_KEYS)
    new = {key: value for key, value in content.items() if key not in OLD_KEYS}
    new["layer_types"] = ["sliding_attention" if layer % every else "full_attention" for layer in range(5)]
    new["rope_parameters"] = {
        "full_attention": {"rope_type": "default", "rope_theta": 80_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
    }
    (tmp_path / "config.json").write_text(json.dumps(new))
    assert load_hf_folder(tmp_path).model_config.global_every_layers == every
    assert load_hf_folder(tmp_path).model_config == old.model_config
    assert load_hf_folder(tmp_path).rope == old.rope == RopeConfig(80_000.0, 5_000.0)
