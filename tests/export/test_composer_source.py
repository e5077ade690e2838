"""Checkpoints in the layout of AnswerDotAI's and Ettin's trainers, built to the published names and shapes."""

import os
import re

import pytest
import torch
import yaml

from padless.errors import CheckpointError, ModelError
from padless.export.composer_source import is_composer_checkpoint, load_composer_checkpoint, outline_of_checkpoint
from padless.export.parity import compare_with_transformers

from .reference import IDS, envelope, flexbert_settings, flexbert_weights, make_network, moments_of, save_network


@pytest.fixture(scope="module")
def network():
    return make_network()


def load(path):
    outline = outline_of_checkpoint(path)
    assert is_composer_checkpoint(outline)
    return load_composer_checkpoint(path, outline)


def written(path, network, weights=None, settings=None, **changes):
    weights = flexbert_weights(network) if weights is None else weights
    torch.save(envelope(weights, flexbert_settings(network) if settings is None else settings, **changes), path)
    return path


def difference(loaded, folder, lengths=(1, 2, 65, 130, 300)):
    state = loaded.state_dict
    return compare_with_transformers(folder, state, loaded.model_config, loaded.rope, IDS, 4096, lengths)


@pytest.mark.parametrize("prefix", ["", "model.", "model._orig_mod.", "module.model.", "_orig_mod.module.model.model."])
def test_a_checkpoint_under_any_wrapper_gives_the_logits_of_transformers(tmp_path, prefix):
    network = save_network(tmp_path / "hf")
    path = written(tmp_path / "ep0-ba1-rank0.pt", network, flexbert_weights(network, prefix))
    loaded, moments = load(path)
    parity = difference(loaded, tmp_path / "hf")
    assert parity.max_abs_difference < 1e-4
    assert parity.top1_agreement == 1.0
    assert loaded.tokens_seen == 5_000_000
    assert "decoder.weight" not in loaded.state_dict
    assert moments is not None


@pytest.mark.parametrize(
    ("shape", "settings", "thetas"),
    [
        ({"local_rope_theta": 160_000.0}, {"local_attn_rotary_emb_base": -1}, (160_000.0, 160_000.0)),
        ({"local_rope_theta": 160_000.0}, {"local_attn_rotary_emb_base": None}, (160_000.0, 160_000.0)),
        ({"global_attn_every_n_layers": 2, "local_attention": 66, "num_hidden_layers": 3}, {}, (160_000.0, 10_000.0)),
        (
            {"global_attn_every_n_layers": 1, "global_rope_theta": 500.0},
            {"sliding_window": -1, "global_attn_every_n_layers": -1, "local_attn_rotary_emb_base": -1},
            (500.0, 500.0),
        ),
        ({"num_attention_heads": 4}, {"padding": "padded", "bert_layer": "padded_prenorm"}, (160_000.0, 10_000.0)),
        ({"decoder_bias": False, "vocab_size": 328}, {"norm_kwargs": {"eps": "1e-5"}}, (160_000.0, 10_000.0)),
    ],
)
def test_variants_of_theta_window_and_heads_give_the_logits_of_transformers(tmp_path, shape, settings, thetas):
    network = save_network(tmp_path / "hf", **shape)
    loaded, _ = load(written(tmp_path / "x.pt", network, settings=flexbert_settings(network, **settings)))
    assert difference(loaded, tmp_path / "hf").max_abs_difference < 1e-4
    assert loaded.source_thetas == thetas


def test_half_precision_weights_come_back_as_fp32(tmp_path, network):
    weights = {name: weight.to(torch.bfloat16) for name, weight in flexbert_weights(network).items()}
    loaded, _ = load(written(tmp_path / "x.pt", network, weights))
    assert {weight.dtype for weight in loaded.state_dict.values()} == {torch.float32}
    name = "model.layers.1.mlp.Wi.weight"
    assert torch.equal(loaded.state_dict[name], weights["model.bert.encoder.layers.1.mlp.Wi.weight"].float())


def test_settings_come_from_the_yaml_beside_a_checkpoint_without_them(tmp_path):
    network = save_network(tmp_path / "hf")
    path = tmp_path / "ep0-ba1-rank0.pt"
    torch.save(envelope(flexbert_weights(network)), path)
    with pytest.raises(ModelError, match=r"what its tensors cannot(.|\n)*beside it, as ep0-ba1-rank0.yaml or config.y"):
        load(path)
    settings = flexbert_settings(network)
    del settings["num_attention_heads"]  # heads are 64 wide then
    tree = {"tokenizer_name": "x", "model": {"name": "flex_bert", "model_config": settings}}
    for name in ("config.yaml", "ep0-ba1-rank0.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(tree))
        loaded, _ = load(path)
        assert difference(loaded, tmp_path / "hf").max_abs_difference < 1e-4
    assert loaded.model_config.num_heads == 2


def test_transformers_own_model_under_composer_is_read_by_its_own_config(tmp_path):
    network = save_network(tmp_path / "hf", global_attn_every_n_layers=2)
    weights = {f"model.{name}": weight for name, weight in network.state_dict().items()}
    settings = {**network.config.to_diff_dict(), "model_type": "modernbert"}
    loaded, moments = load(written(tmp_path / "x.pt", network, weights, settings))
    assert difference(loaded, tmp_path / "hf").max_abs_difference < 1e-4
    assert moments is not None


def test_moments_and_the_step_come_back_by_our_names(tmp_path, network):
    _, moments = load(written(tmp_path / "x.pt", network))
    weights = flexbert_weights(network)
    assert moments is not None
    assert set(moments["moments"]) == set(network.state_dict()) - {"decoder.weight"}
    embedding = weights["model.bert.embeddings.tok_embeddings.weight"]
    assert torch.equal(moments["moments"]["model.embeddings.tok_embeddings.weight"]["exp_avg"], embedding * 0.5)
    wo = weights["model.bert.encoder.layers.3.attn.Wo.weight"]
    assert torch.equal(moments["moments"]["model.layers.3.attn.Wo.weight"]["exp_avg_sq"], wo.square())
    assert {group: int(step) for group, step in moments["group_steps"].items()} == {"0": 1234, "1": 1234}


def by_number(saved):
    kind, optimizer = next(iter(saved.items()))
    return {kind: {**optimizer, "state": dict(enumerate(optimizer["state"].values()))}}


def without(saved, name):
    for each in saved.values():
        each["state"] = {key: value for key, value in each["state"].items() if key != name}
    return saved


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda saved: {}, None),
        (lambda saved: {**saved, "Second": saved["DecoupledStableAdamW"]}, "has 2 optimizers, padless has one"),
        (lambda saved: {"SGD": {"state": {}, "param_groups": []}}, r"has an optimizer \(SGD\) that has not stepped"),
        (by_number, "by number, which do not say whose they are"),
        (lambda saved: without(saved, "model.head.norm.weight"), r"has no exp_avg of head\.norm\.weight in its optim"),
        (lambda saved: {"A": {**saved["DecoupledStableAdamW"], "param_groups": []}}, r"not say how many steps .*\(A\)"),
    ],
)
def test_moments_that_cannot_be_taken_over_leave_the_weights_and_say_why(tmp_path, network, change, problem):
    saved = change(moments_of(flexbert_weights(network)))
    loaded, moments = load(written(tmp_path / "x.pt", network, optimizers=saved))
    assert moments is None
    said = loaded.moments_problem
    assert said is None if problem is None else re.search(problem, said or "")


class Touch:
    def __reduce__(self):
        return (os.system, ("touch executed",))


@pytest.mark.parametrize("place", ["callbacks", "schedulers", "model"])
def test_a_pickle_payload_is_refused_by_name_and_not_run(tmp_path, network, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    weights = flexbert_weights(network)
    changes = {"weights": {**weights, "extra": Touch()}} if place == "model" else {place: {"x": Touch()}}
    path = written(tmp_path / "x.pt", network, **changes)
    with pytest.raises(CheckpointError, match=r"x\.pt cannot be read as a checkpoint: it would call posix\.system; no"):
        load(path)
    assert not (tmp_path / "executed").exists()


def test_a_truncated_checkpoint_and_one_with_a_flipped_bit_are_refused(tmp_path, network):
    path = written(tmp_path / "x.pt", network)
    data = path.read_bytes()
    path.write_bytes(data[:-1000])
    with pytest.raises(CheckpointError, match="truncated or damaged zip archive"):
        load(path)
    bias = network.state_dict()["decoder.bias"].numpy().tobytes()
    at = data.index(bias) + 100
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(CheckpointError, match=r"cannot be read as a checkpoint: it is a damaged zip archive"):
        load(path)


def renamed(weights, old, new):
    return {name.replace(old, new): weight for name, weight in weights.items()}


def added(weights, name, shape=(128,)):
    return {**weights, name: torch.ones(shape)}


LAYER = "model.bert.encoder.layers."
UNBUILDABLE = [
    (lambda w: added(w, f"{LAYER}1.attn.Wqkv.bias", (384,)), "Wqkv.bias; its linear layers have biases"),
    (lambda w: added(w, f"{LAYER}1.mlp_norm.bias"), r"mlp_norm\.bias; its norms have biases"),
    (lambda w: added(w, f"{LAYER}0.attn_norm.weight"), r"layers\.0\.attn_norm\.weight; it has a norm before the first"),
    (lambda w: added(w, "model.bert.embeddings.position_embeddings.weight"), "position_embeddings.*are learned"),
    (lambda w: renamed(w, "attn.Wqkv", "Wqkvff"), r"Wqkvff\.weight; attention and MLP are computed in parallel"),
    (lambda w: added(w, "model.classifier.weight"), r"classifier\.weight; it has a head for another task"),
    (lambda w: {n: x for n, x in w.items() if "head." not in n}, r"lacks head\.dense\.weight; it has no prediction h"),
    (lambda w: renamed(w, "encoder.layers", "encoder.layer"), r"lacks model\.layers\.0\.mlp.* weights of a plain BERT"),
    (lambda w: renamed(w, "model.decoder", "model.lm_head"), r"lm_head\.weight; these are weights of a decoder"),
    (lambda w: {n: x for n, x in w.items() if "final_norm" not in n}, r"lacks model\.final_norm\.weight"),
    (
        lambda w: {**w, "model.decoder.weight": w["model.decoder.weight"] * 2},
        r"decoder\.weight differs from model\.emb",
    ),
    (
        lambda w: {**w, f"{LAYER}2.mlp.Wi.weight": torch.ones(96, 128)},
        r"layers\.2\.mlp\.Wi\.weight is \(96, 128\), the",
    ),
    (lambda w: {**w, "model.head.norm.weight": torch.full((128,), float("nan"))}, r"head\.norm\.weight holds NaN"),
    (lambda w: {**w, "model.head.norm.weight": torch.ones(128, dtype=torch.int8)}, r"has type torch\.CharStorage"),
    (lambda w: {**w, "model._extra_state": None}, "_extra_state is not a tensor"),
    (lambda w: added(w, "bert.final_norm.weight"), "which are one tensor by their names"),
    (lambda w: {**w, "model.bert.embeddings.tok_embeddings.weight": torch.ones(3)}, r"is \(3,\), not a matrix"),
]


@pytest.mark.parametrize(("change", "message"), UNBUILDABLE)
def test_tensors_of_another_model_are_refused_by_name(tmp_path, network, change, message):
    path = written(tmp_path / "x.pt", network, change(flexbert_weights(network)))
    with pytest.raises(ModelError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"normalization": "rmsnorm"},
            "the config in x.pt has normalization='rmsnorm'; padless models have 'layernorm'",
        ),
        ({"hidden_act": "silu"}, "has hidden_act='silu'"),
        ({"head_pred_act": "silu"}, "has head_pred_act='silu'; padless models have 'gelu'"),
        ({"bert_layer": "postnorm"}, "has bert_layer='postnorm'"),
        ({"mlp_layer": "mlp"}, "has mlp_layer='mlp'"),
        ({"causal_mask": True}, "has causal_mask=True"),
        ({"rotary_emb_interleaved": True}, "has rotary_emb_interleaved=True"),
        ({"rotary_emb_dim": 32}, "has rotary_emb_dim=32, padless rotates all 64 of a head"),
        ({"global_attn_every_n_layers": -1}, "global_attn_every_n_layers=-1; padless models have both"),
        ({"num_attention_heads": 3}, "gives num_attention_heads=3, the width of .* is 128"),
        ({"num_attention_heads": 2.5}, "num_attention_heads=2.5, not a whole number"),
        ({"hidden_size": 256}, "says hidden_size=256, the tensors of .* say 128"),
        ({"rotary_emb_base": 0}, "has rotary_emb_base=0, which is not above 0"),
        ({"local_attn_rotary_emb_base": 0}, "has local_attn_rotary_emb_base=0, which is not above 0"),
        ({"norm_kwargs": {"eps": "nan"}}, r"\(norm_kwargs\) has eps=nan, not a finite number"),
        ({"norm_kwargs": {"eps": "tiny"}}, r"\(norm_kwargs\) has eps='tiny', not a number"),
        ({"mlp_dropout_prob": 1.5}, r"has mlp_dropout_prob=1\.5, which is not from 0 up to 1"),
        ({"init_std": -1}, "has init_std=-1, which is not above 0"),
        ({"rotary_emb_base": [1]}, r"has rotary_emb_base=\[1\], not a number"),
        (
            {"decoder_bias": False},
            r"tensors this model does not know: decoder\.bias\n.*config that belong together",
        ),
        (
            {"model_type": "modernbert", "rope_parameters": [1]},
            "the config in x.pt has a value of the wrong kind|lacks a",
        ),
    ],
)
def test_settings_of_another_model_are_refused_by_name(tmp_path, network, changes, message):
    path = written(tmp_path / "x.pt", network, settings=flexbert_settings(network, **changes))
    with pytest.raises(ModelError, match=message):
        load(path)


def test_a_setting_that_is_not_given_is_taken_as_its_trainer_takes_it(tmp_path, network):
    settings = flexbert_settings(network)
    del settings["head_pred_act"]
    with pytest.raises(ModelError, match="leaves head_pred_act at its default, 'silu'; padless models have 'gelu'"):
        load(written(tmp_path / "x.pt", network, settings=settings))


def test_a_theta_that_moved_while_training_is_refused(tmp_path, network):
    path = written(tmp_path / "x.pt", network, algorithms=[("FlexBertRopeSchedule", {"repr": "x"})])
    with pytest.raises(ModelError, match=r"moved RoPE's theta from step to step \(FlexBertRopeSchedule\)"):
        load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {name: x}", r"config\.yaml has no model\.model_config"),
        ("a: &a [1]\nb: *a", r"config\.yaml cannot be read: it uses an alias"),
        ("model: [", r"config\.yaml cannot be read"),
        ("x: " + "y" * 2_000_000, r"config\.yaml has 2_000_003 bytes"),
        ("model: {model_config: !!python/object/apply:os.system [touch executed]}", r"config\.yaml cannot be read"),
    ],
)
def test_a_yaml_that_cannot_be_used_is_refused(tmp_path, network, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    torch.save(envelope(flexbert_weights(network)), tmp_path / "x.pt")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "x.pt")
    assert not (tmp_path / "executed").exists()
