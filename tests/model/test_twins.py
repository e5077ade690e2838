"""Copies of units: counted exactly, and how far they have come apart."""

from dataclasses import replace

import pytest
import torch
from small_models import SMALL, draw_weights, gradients_of

from padless.model.growth import plan_growth
from padless.model.tiling import SymmetryNoise, tile_state_dict
from padless.model.twins import count_copies, describe_copies, twin_distances

LARGER = replace(SMALL, hidden_size=24, num_heads=3, intermediate_size=20)


def grown(target=LARGER, noise=None, **how):
    growth = plan_growth(SMALL, target, **how)
    tiled, _ = tile_state_dict(draw_weights(SMALL, 0), draw_weights(target, 1), growth, noise)
    return growth, tiled


def test_a_drawn_model_has_no_copies_and_a_grown_one_those_that_were_made():
    assert count_copies(draw_weights(SMALL, 0), SMALL) == {"heads": (0, 8), "neurons": (0, 48), "features": (0, 16)}
    for mode in ("wrap", "edge"):
        _, tiled = grown(mode=mode)
        assert count_copies(tiled, LARGER) == {"heads": (4, 12), "neurons": (32, 80), "features": (8, 24)}
    assert describe_copies(count_copies(tiled, LARGER)) == (
        "exact copies of an earlier unit: 4 of 12 heads, 32 of 80 GeGLU neurons, 8 of 24 residual features"
    )


def test_repeated_layers_alone_make_no_copies():
    _, tiled = grown(replace(SMALL, num_layers=8))
    assert {copies for copies, _ in count_copies(tiled, SMALL).values()} == {0}


@pytest.mark.parametrize("how", [{"mode": "centre"}, {"noise": SymmetryNoise(0.01, 0)}])
def test_random_edges_and_noise_leave_no_exact_copy(how):
    _, tiled = grown(**how)
    assert {copies for copies, _ in count_copies(tiled, LARGER).values()} == {0}


def test_one_bit_is_enough_to_be_no_copy():
    growth, tiled = grown()
    copy = int(growth.axes.intermediate.is_copy_N.nonzero()[0])
    row = tiled["model.layers.2.mlp.Wi.weight"][copy]
    row[3] = torch.nextafter(row[3], torch.tensor(torch.inf))
    assert count_copies(tiled, LARGER)["neurons"] == (31, 80)
    assert 0 < twin_distances(tiled, growth)["neurons"] < 1e-6


def test_distances_are_0_between_copies_and_about_1_between_strangers():
    growth, tiled = grown()
    assert twin_distances(tiled, growth) == {"heads": 0.0, "neurons": 0.0, "features": 0.0}
    strangers = twin_distances(draw_weights(LARGER, 5, std=1.0), growth)
    assert strangers["heads"] == pytest.approx(1.0, abs=0.1)
    assert strangers["neurons"] == pytest.approx(1.0, abs=0.1)
    small, large = (twin_distances(grown(noise=SymmetryNoise(share, 0))[1], growth) for share in (0.05, 0.1))
    for kind, distance in small.items():
        assert large[kind] == pytest.approx(2 * distance, rel=0.05)


def test_only_kinds_that_have_copies_are_measured():
    growth, tiled = grown(replace(SMALL, intermediate_size=20))
    assert twin_distances(tiled, growth) == {"neurons": 0.0}
    growth, tiled = grown(replace(SMALL, num_layers=8))
    assert twin_distances(tiled, growth) == {}


def test_copies_get_equal_gradients_so_that_nothing_but_noise_parts_them():
    target = replace(SMALL, hidden_size=32, num_heads=4, intermediate_size=24)
    growth, tiled = grown(target)
    # Equal in theory; the tolerance is fp32 rounding, against a distance of about 1 between strangers.
    assert max(twin_distances(gradients_of(tiled, target), growth).values()) < 1e-4
    _, noisy = grown(target, noise=SymmetryNoise(0.1, 0))
    assert min(twin_distances(gradients_of(noisy, target), growth).values()) > 1e-2
