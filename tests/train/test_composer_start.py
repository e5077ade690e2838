"""A Composer checkpoint of a FlexBert trainer as a source: which reader takes it, and what starts from it."""

import datetime
import os
from dataclasses import replace

import pytest
import torch

from padless.config.compose import compose
from padless.errors import CheckpointError, ModelError
from padless.model.masked_lm import MaskedLM
from padless.optim.build import build_optimizer, load_optimizer_state, optimizer_state
from padless.train.handover import load_source, state_from_source


@pytest.fixture(scope="module")
def config():
    return compose(["recipe=smoke"])


@pytest.fixture(scope="module")
def network(config):
    return MaskedLM(config.model, config.phases["short"].rope)


def their_name(ours):
    name = ours.removeprefix("model.").replace("layers.", "encoder.layers.", 1)
    return f"model.bert.{name}" if ours.startswith("model.") else f"model.{ours}"


def write_checkpoint(path, config, network, **changes):
    """Write what a FlexBert trainer would have saved of ``network`` after 40 steps of StableAdamW."""
    model, rope = config.model, config.phases["short"].rope
    settings = {
        **{"attention_layer": "rope", "bert_layer": "prenorm", "embedding_layer": "sans_pos", "mlp_layer": "glu"},
        **{"normalization": "layernorm", "norm_kwargs": {"eps": model.norm_eps}, "head_pred_act": "gelu"},
        **{"num_attention_heads": model.num_heads, "sliding_window": model.local_window_tokens},
        **{"global_attn_every_n_layers": model.global_every_layers, "rotary_emb_base": rope.global_theta},
        "local_attn_rotary_emb_base": rope.local_theta,
    }
    weights = {their_name(name): weight.clone() for name, weight in network.state_dict().items()}
    moments = {name: {"exp_avg": weight * 0.5, "exp_avg_sq": weight**2} for name, weight in weights.items()}
    del moments["model.decoder.weight"]
    groups = [{"lr": 8e-4, "step": torch.tensor(40)}]
    state = {
        "model": weights,
        "optimizers": {"DecoupledStableAdamW": {"state": moments, "param_groups": groups}},
        "timestamp": {"Timestamp": {"token": 7_000, "total_wct": datetime.timedelta(seconds=1)}},
        "integrations": {"huggingface": {"model": {"config": {"content": settings}}}},
        **changes,
    }
    torch.save({"state": state, "rng": []}, path)
    return str(path)


def test_weights_and_moments_of_a_composer_checkpoint_start_a_run_at_clock_0(config, network, tmp_path):
    source = write_checkpoint(tmp_path / "ep0-ba40-rank0.pt", config, network)
    state, parent = state_from_source(source, ("weights", "optimizer"), config.model)
    assert (state.clock_tokens, state.step, parent.tokens_seen) == (0, 0, 7_000)
    assert parent.rope == config.phases["short"].rope
    fresh = MaskedLM(config.model, config.phases["short"].rope)
    fresh.load_state_dict(state.model)
    assert all(torch.equal(weight, fresh.state_dict()[name]) for name, weight in network.state_dict().items())
    optimizer = build_optimizer(fresh, config.optimizer, 1e-3, 1e-5, is_gpu=False)
    load_optimizer_state(fresh, optimizer, state.optimizer, source)
    kept = optimizer_state(fresh, optimizer)
    assert set(kept["moments"]) == {name for name, _ in fresh.named_parameters()}
    assert torch.equal(kept["moments"]["decoder.bias"]["exp_avg"], fresh.decoder.bias * 0.5)
    assert {int(step) for step in kept["group_steps"].values()} == {40}


def test_moments_that_cannot_be_taken_over_are_an_error_only_where_they_are_kept(config, network, tmp_path):
    source = write_checkpoint(tmp_path / "x.pt", config, network, optimizers={"Lion": {"state": {}}})
    assert state_from_source(source, ("weights",), config.model)[0].optimizer is None
    with pytest.raises(CheckpointError, match=r"but .*x\.pt has an optimizer \(Lion\) that has not stepped yet\n"):
        state_from_source(source, ("weights", "optimizer"), config.model)


@pytest.mark.parametrize(("name", "value"), [("local_window_tokens", 32), ("norm_eps", 1e-6)])
def test_a_source_with_another_window_or_eps_is_refused(config, network, tmp_path, name, value):
    source = write_checkpoint(tmp_path / "x.pt", config, network)
    with pytest.raises(ModelError, match=rf"has another shape: {name}: .* {value} \(config\)\n.*model\.{name}="):
        state_from_source(source, ("weights",), replace(config.model, **{name: value}))


class Touch:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_a_payload_in_a_source_is_refused_by_name_and_not_run(config, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_checkpoint(tmp_path / "x.pt", config, network, callbacks={"x": Touch()})
    with pytest.raises(CheckpointError, match=r"it would call posix\.system; nothing in it was run"):
        load_source(source)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_in_shards_is_refused(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"is a sharded Composer checkpoint, one part a rank\n.*type: full"):
        load_source(str(tmp_path))
