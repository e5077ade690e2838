"""The optimizer's moments of a grown model: what its gradients' history would have been."""

from dataclasses import replace

import pytest
import torch
from small_models import SMALL, draw_weights, gradients_of

from padless.errors import ModelError
from padless.model.growth import plan_growth
from padless.model.tensor_shapes import EMBEDDING, tensor_shapes
from padless.model.tiling import tile_moments, tile_state_dict


def moments_of(gradients, steps=7):
    return {
        "moments": {name: {"exp_avg": each, "exp_avg_sq": each.square()} for name, each in gradients.items()},
        "group_steps": {"0": torch.tensor(steps), "1": None},
    }


@pytest.mark.parametrize("factor", [2, 3])
def test_moments_are_tiled_as_gradients_are_when_the_width_is_multiplied(factor):
    target_model = replace(SMALL, hidden_size=16 * factor, num_heads=2 * factor, intermediate_size=12 * factor)
    growth, source = plan_growth(SMALL, target_model), draw_weights(SMALL, 0)
    grown, _ = tile_state_dict(source, draw_weights(target_model, 1), growth)
    tiled = tile_moments(moments_of(gradients_of(source, SMALL)), growth)
    gradients = gradients_of(grown, target_model)
    assert tiled["moments"].keys() == gradients.keys() == tensor_shapes(target_model).keys()
    for name, gradient in gradients.items():
        # Exact in theory; the tolerance is fp32 rounding of sums over up to three times as many terms.
        scale = float(gradient.abs().max())
        torch.testing.assert_close(tiled["moments"][name]["exp_avg"], gradient, atol=1e-4 * scale, rtol=1e-3)
        moment_of_squares = tiled["moments"][name]["exp_avg_sq"]
        torch.testing.assert_close(moment_of_squares, gradient.square(), atol=1e-4 * scale**2, rtol=1e-3)


def test_step_counters_stay_and_are_copies():
    saved = moments_of(draw_weights(SMALL, 0))
    tiled = tile_moments(saved, plan_growth(SMALL, replace(SMALL, num_layers=6)))
    assert tiled["group_steps"] == {"0": torch.tensor(7), "1": None}
    assert tiled["group_steps"]["0"] is not saved["group_steps"]["0"]


def test_equal_sizes_leave_moments_as_they_are():
    saved = moments_of(draw_weights(SMALL, 0))
    tiled = tile_moments(saved, plan_growth(SMALL, SMALL))
    for name, each in saved["moments"].items():
        assert torch.equal(tiled["moments"][name]["exp_avg"], each["exp_avg"])
        assert torch.equal(tiled["moments"][name]["exp_avg_sq"], each["exp_avg_sq"])


def test_published_scale_leaves_copies_undivided():
    target_model = replace(SMALL, intermediate_size=24)
    saved = moments_of(draw_weights(SMALL, 0))
    name = "model.layers.1.mlp.Wi.weight"
    ways = {
        scale: tile_moments(saved, plan_growth(SMALL, target_model, scale))["moments"][name]
        for scale in ("fan_in", "published")
    }
    torch.testing.assert_close(ways["fan_in"]["exp_avg"] * 2, ways["published"]["exp_avg"])
    torch.testing.assert_close(ways["fan_in"]["exp_avg_sq"] * 4, ways["published"]["exp_avg_sq"])


def test_what_has_no_history_gets_none():
    target_model = replace(SMALL, vocab_size=128, num_layers=6, intermediate_size=20)
    tiled = tile_moments(
        moments_of(draw_weights(SMALL, 0)),
        plan_growth(SMALL, target_model, mode="centre", layer_map=(0, 1, 2, 0, 1, 2)),
    )["moments"]
    assert (tiled[EMBEDDING]["exp_avg"][64:] == 0).all()
    assert (tiled[EMBEDDING]["exp_avg"][:64] != 0).all()
    edges = tiled["model.layers.1.mlp.Wo.weight"]["exp_avg_sq"] == 0
    assert edges.all(dim=0).tolist() == [True] * 4 + [False] * 12 + [True] * 4
    stand_in = tiled["model.layers.3.attn_norm.weight"]
    assert (stand_in["exp_avg"] == 0).all()
    assert (stand_in["exp_avg_sq"] == 0).all()


def test_silent_layers_have_no_history():
    growth = plan_growth(SMALL, replace(SMALL, num_layers=6), repeated="silent")
    tiled = tile_moments(moments_of(draw_weights(SMALL, 0)), growth)["moments"]
    empty = {name for name, each in tiled.items() if not each["exp_avg_sq"].any()}
    assert empty == {name for name in tiled if name.startswith(("model.layers.4.", "model.layers.5."))}


def test_moments_that_are_missing_or_of_another_shape_are_refused():
    growth = plan_growth(SMALL, replace(SMALL, num_layers=6))
    saved = moments_of(draw_weights(SMALL, 0))
    saved["moments"]["head.norm.weight"]["exp_avg_sq"] = torch.ones(3)
    with pytest.raises(ModelError, match=r"exp_avg_sq of head\.norm\.weight is \(3,\), its weight \(16,\)"):
        tile_moments(saved, growth)
    del saved["moments"]["head.norm.weight"]
    with pytest.raises(ModelError, match=r"the source has no exp_avg of head\.norm\.weight\n.*tile_moments=false"):
        tile_moments(saved, growth)
