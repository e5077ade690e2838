"""The plan of a growth: sizes and layers that fit, real presets, and whether the function is kept."""

import re
from dataclasses import fields, replace

import pytest
import torch
from small_models import SMALL, draw_weights, logits_of

from padless.config.compose import compose
from padless.errors import ModelError
from padless.model.growth import describe_function, function_changes, plan_growth
from padless.model.tensor_shapes import tensor_shapes
from padless.model.tiling import SymmetryNoise, source_name_of, tile_state_dict

SENTINEL = 12_345.0
WIDER = {"hidden_size": 32, "num_heads": 4}


def shape(layers, hidden):
    return replace(
        SMALL, num_layers=layers, hidden_size=hidden, num_heads=hidden // 64, intermediate_size=hidden * 3 // 2
    )


def is_global(layer):
    return layer % 3 == 0


@pytest.mark.parametrize("mode", ["wrap", "edge", "centre"])
@pytest.mark.parametrize("target", [(4, 384), (8, 256), (6, 384), (8, 512), (12, 384)], ids=lambda t: f"{t[0]}x{t[1]}")
def test_4x256_grows_into_every_size_with_nothing_uncovered_and_no_layer_of_the_wrong_type(target, mode):
    source_model, target_model = shape(4, 256), shape(*target)
    growth = plan_growth(source_model, target_model, mode=mode)
    assert all(is_global(layer) is is_global(source) for layer, source in enumerate(growth.layer_map))
    drawn = {name: torch.full(size, SENTINEL) for name, size in tensor_shapes(target_model).items()}
    tiled, rows = tile_state_dict(draw_weights(source_model, 0), drawn, growth)
    assert tiled.keys() == tensor_shapes(target_model).keys()
    for row in rows:
        left = float((tiled[row.name] == SENTINEL).double().mean())
        assert left == pytest.approx(row.random_share, abs=1e-9), row.name
        assert left == 0 if mode != "centre" else left < 1
        assert tuple(tiled[row.name].shape) == tensor_shapes(target_model)[row.name]


@pytest.mark.parametrize(("source", "target"), [("base", "large"), ("nano", "base"), ("17m", "68m"), ("tiny", "nano")])
def test_presets_grow_into_each_other(source, target):
    models = {name: compose(["recipe=smoke", f"model={name}"]).model for name in (source, target)}
    width = models[source].hidden_size // models[source].num_heads
    target_model = replace(
        models[target], num_heads=models[target].hidden_size // width, vocab_size=models[source].vocab_size
    )
    with torch.device("meta"):
        weights = {
            name: {each: torch.empty(size) for each, size in tensor_shapes(model).items()}
            for name, model in ((source, models[source]), (target, target_model))
        }
    growth = plan_growth(models[source], target_model)
    tiled, rows = tile_state_dict(weights[source], weights[target], growth)
    assert {name: tuple(tensor.shape) for name, tensor in tiled.items()} == tensor_shapes(target_model)
    assert {row.random_share for row in rows} == {0}
    for layer, from_layer in enumerate(growth.layer_map):
        assert is_global(layer) is is_global(from_layer)
        name = f"model.layers.{layer}.mlp.Wi.weight"
        assert source_name_of(name, growth.layer_map) == f"model.layers.{from_layer}.mlp.Wi.weight"
    assert max(growth.layer_map) == models[source].num_layers - 1


def test_base_grows_into_large_as_published():
    base, large = (compose(["recipe=smoke", f"model={size}"]).model for size in ("base", "large"))
    growth = plan_growth(base, large)
    assert (len(growth.layer_map), max(growth.layer_map)) == (28, 21)
    assert int(growth.axes.heads.is_copy_N.sum()) == 4
    assert int(growth.axes.intermediate.is_copy_N.sum()) == 1472
    assert int(growth.axes.hidden.is_copy_N.sum()) == 256
    crossing = tuple(min(round(layer * 22 / 28), 21) for layer in range(28))  # the published code's map
    assert sum(is_global(layer) is not is_global(source) for layer, source in enumerate(crossing)) == 12
    with pytest.raises(ModelError, match="two kinds have different RoPE thetas"):
        plan_growth(base, large, layer_map=crossing)
    assert plan_growth(base, large, layer_map=crossing, may_cross_kinds=True).layer_map == crossing


KEEPING = [
    ({"num_layers": 6}, {"repeated": "silent"}),
    ({"num_layers": 9, **WIDER, "intermediate_size": 31}, {"repeated": "silent"}),
    ({"num_layers": 7}, {"repeated": "silent", "layer_map": (0, 1, 1, 0, 2, 2, 3)}),
    ({**WIDER, "intermediate_size": 24}, {}),
    ({"hidden_size": 48, "num_heads": 6, "intermediate_size": 12}, {}),
    ({**WIDER, "intermediate_size": 31}, {"mode": "edge"}),
    ({"intermediate_size": 31}, {}),
    ({"vocab_size": 128}, {"mode": "centre"}),
    ({**WIDER, "vocab_size": 128}, {}),
    ({}, {"scale": "published"}),
]
CHANGING = [
    ({"num_layers": 6, **WIDER}, {"repeated": "silent", "mode": "centre"}, "edges are random"),
    ({"num_layers": 6}, {}, r"layers repeat or move \(4 -> 6\)"),
    ({}, {"layer_map": (0, 2, 1, 3)}, r"layers repeat or move \(4 -> 4\)"),
    ({"hidden_size": 24, "num_heads": 3}, {}, "hidden_size 16 -> 24 is not a multiple"),
    (WIDER, {"scale": "published"}, "scale=published sums what is repeated"),
    ({"intermediate_size": 24}, {"scale": "published"}, "scale=published"),
    (WIDER, {"mode": "centre"}, r"edges are random \(hidden_size 16 -> 32, intermediate_size 12 -> 12\)"),
    ({"intermediate_size": 24}, {"mode": "centre"}, "edges are random"),
    ({"local_window_tokens": 4}, {}, "local_window_tokens 8 -> 4"),
    ({"global_every_layers": 2}, {"layer_map": (0, 1, 2, 3), "may_cross_kinds": True}, "global_every_layers 3 -> 2"),
    ({"norm_eps": 0.5}, {}, r"norm_eps 1e-05 -> 0\.5"),
]


def difference(change, how):
    target_model = replace(SMALL, **change)
    source = draw_weights(SMALL, 0)
    growth = plan_growth(SMALL, target_model, **how)
    tiled, _ = tile_state_dict(source, draw_weights(target_model, 1), growth)
    own = logits_of(tiled, target_model)[:, : SMALL.vocab_size]
    return growth, float((own - logits_of(source, SMALL)).abs().max())


@pytest.mark.parametrize(("change", "how"), KEEPING)
def test_where_it_claims_so_growth_keeps_the_logits(change, how):
    growth, worst = difference(change, how)
    assert function_changes(growth) == []
    # Exact in theory; the tolerance is fp32 rounding over four layers.
    assert worst < 1e-4
    assert describe_function(function_changes(growth)) == "function: the source's, up to rounding"


@pytest.mark.parametrize(("change", "how", "reason"), CHANGING)
def test_where_growth_does_not_keep_the_logits_it_says_why(change, how, reason):
    growth, worst = difference(change, how)
    assert worst > 1e-2
    (found,) = function_changes(growth)
    assert re.search(reason, found)
    assert describe_function([found]).startswith("function: not exactly the source's: ")


def test_silent_layers_are_those_beyond_the_first_in_order():
    def silent(target_layers, layer_map=None):
        target = replace(SMALL, num_layers=target_layers)
        return plan_growth(SMALL, target, layer_map=layer_map, repeated="silent")

    assert (silent(6).layer_map, silent(6).silent_layers) == ((0, 1, 2, 3, 1, 2), (4, 5))
    assert silent(7, (0, 1, 1, 0, 2, 2, 3)).silent_layers == (2, 3, 5)
    with pytest.raises(
        ModelError, match=r"0 to 3 in this order and layer 0 first, init\.layer_map=\[0,1,1,3,2,2\]"
    ) as bad:
        silent(6, (0, 1, 1, 3, 2, 2))
    assert "use e.g. init.layer_map=[0,1,2,3,1,2], or init.repeated_layers=copied" in bad.value.remedy
    with pytest.raises(ModelError, match="layer 0 first"):
        silent(7, (3, 1, 2, 0, 1, 2, 3))
    with pytest.raises(ModelError, match=r"silent has no effect: no layer repeats \(4 layers in both\)"):
        silent(4)
    with pytest.raises(ModelError, match="global_every_layers is 3 in the source and 2 in the model"):
        plan_growth(SMALL, replace(SMALL, num_layers=8, global_every_layers=2), repeated="silent")


def test_noise_changes_the_function_in_its_measure():
    target_model = replace(SMALL, **WIDER)
    source, drawn = draw_weights(SMALL, 0), draw_weights(target_model, 1)
    growth = plan_growth(SMALL, target_model)
    worst = []
    for noise in (SymmetryNoise(0.001, 0), SymmetryNoise(0.1, 0)):
        tiled, _ = tile_state_dict(source, drawn, growth, noise)
        worst.append(float((logits_of(tiled, target_model) - logits_of(source, SMALL)).abs().max()))
    assert 1e-4 < worst[0] < worst[1] / 10


def test_layers_that_repeat_are_no_copies_but_wider_axes_are():
    assert not plan_growth(SMALL, replace(SMALL, num_layers=8)).has_copies
    assert not plan_growth(SMALL, replace(SMALL, **WIDER), mode="centre").has_copies
    assert plan_growth(SMALL, replace(SMALL, intermediate_size=13)).has_copies


def test_heads_of_another_width_are_refused_with_the_nearest_sizes():
    with pytest.raises(ModelError, match=r"source's are 8 wide, the target's 9\n") as caught:
        plan_growth(SMALL, replace(SMALL, hidden_size=27, num_heads=3))
    assert "use hidden_size=24 num_heads=3 or hidden_size=32 num_heads=4" in caught.value.remedy


def test_every_size_of_a_model_is_compared():
    compared = {"num_layers", "hidden_size", "num_heads", "intermediate_size", "vocab_size"}
    compared |= {"global_every_layers", "local_window_tokens", "norm_eps"}
    without_weight = {"attention_out_dropout", "mlp_dropout", "embedding_dropout", "init_std", "init_cutoff_factor"}
    assert {field.name for field in fields(SMALL)} == compared | without_weight
