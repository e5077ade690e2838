"""Predictions follow from the stated physics, agree with counted arithmetic, and bound the published speeds."""

from dataclasses import replace

import pytest
import torch

from padless.attention.select import get_backend
from padless.config.schema import RopeConfig
from padless.design.device import KERNEL_GAP_S, LAUNCH_S, Device, Tile, cpu_core, device_of
from padless.design.predict import inference_bytes, predict, product_s, sm_use
from padless.design.shapes import published_shapes, shape_of
from padless.model.encoder import Encoder
from padless.plan.devices import GPUS
from padless.plan.flops import forward_flops

BASE, LARGE = (published_shapes()[name] for name in ("ModernBERT-base", "ModernBERT-large"))
PLAIN = Device(
    name="plain",
    flops_per_s=1e12,
    bandwidth_bytes_per_s=1e30,
    num_units=10,
    tiles=(Tile(128, 256, 1.0),),
    attention_flops_per_s=1e12,
    attention_block=1,
    kernel_gap_s=0.0,
    launch_s=0.0,
    element_bytes=2,
    memory_bytes=1e12,
)
TILE_S = 2 * 128 * 256 * 64 / 1e11  # of one of ten units


def test_a_tile_that_is_not_full_takes_as_long_as_a_full_one():
    assert product_s(PLAIN, 128, 256, 64) == pytest.approx(TILE_S)
    assert product_s(PLAIN, 1, 1, 64) == pytest.approx(TILE_S)


def test_a_wave_that_is_not_full_takes_as_long_as_a_full_one():
    assert product_s(PLAIN, 1280, 256, 64) == pytest.approx(TILE_S)
    assert product_s(PLAIN, 1281, 256, 64) == pytest.approx(2 * TILE_S)


def test_a_product_takes_no_less_than_its_traffic():
    slow = replace(PLAIN, bandwidth_bytes_per_s=1e9)
    assert product_s(slow, 128, 256, 64) == pytest.approx(2 * (128 * 64 + 64 * 256 + 128 * 256) / 1e9)


def test_smaller_tiles_are_taken_where_large_ones_leave_units_idle():
    tiles = {(tile.rows, tile.columns): tile.share for tile in device_of(GPUS["a100"]).tiles}
    assert tiles[256, 128] == tiles[128, 256] == 1.0
    assert tiles[128, 128] == pytest.approx(0.75)
    assert tiles[64, 64] == pytest.approx(0.375)
    a100 = device_of(GPUS["a100"])
    only_largest = replace(a100, tiles=(Tile(256, 128, 1.0), Tile(128, 256, 1.0)))
    assert product_s(a100, 512, 768, 768) < product_s(only_largest, 512, 768, 768)
    assert product_s(a100, 65_536, 2304, 768) == product_s(only_largest, 65_536, 2304, 768)


def test_products_and_attention_are_the_counted_arithmetic_where_nothing_is_rounded():
    model = replace(BASE, global_every_layers=1)
    exact = replace(PLAIN, num_units=1, tiles=(Tile(1, 1, 1.0),))
    predicted = predict(model, exact, 3, 512)
    assert predicted.products_s + predicted.attention_s == pytest.approx(forward_flops(model, [512] * 3) / 1e12)


def test_a_window_bounds_the_keys_of_a_block():
    h100 = device_of(GPUS["h100"])
    both, near = (predict(replace(BASE, global_every_layers=every), h100, 8, 8192) for every in (1, 22))
    assert near.attention_s < both.attention_s / 10
    short = [predict(replace(BASE, global_every_layers=every), h100, 128, 128).attention_s for every in (1, 22)]
    assert short[0] == short[1]


def test_a_small_batch_waits_for_launches():
    kernels = 22 * 10 + 3
    small = predict(BASE, device_of(GPUS["h100"]), 1, 64)
    assert small.total_s == pytest.approx(kernels * LAUNCH_S)
    large = predict(BASE, device_of(GPUS["h100"]), 8, 8192)
    assert large.waiting_s == pytest.approx(kernels * KERNEL_GAP_S)


def test_depth_costs_at_equal_products():
    wide, deep = shape_of(10, 1024, 2048, 64), shape_of(40, 512, 1024, 64)  # the same weights
    for gpu in GPUS.values():
        for count, length in ((1, 512), (128, 512), (8, 8192)):
            times = [predict(model, device_of(gpu), count, length).total_s for model in (wide, deep)]
            assert times[0] < times[1]


def test_published_speeds_of_an_rtx4090_are_in_the_predicted_order_and_below_the_prediction():
    """Tokens a second of the ModernBERT paper's table 2, at its batches, lengths fixed; a data sheet is a bound."""
    published = {(0, 512): (1604, 148.1e3), (0, 8192): (98, 123.7e3), (1, 512): (770, 52.3e3), (1, 8192): (48, 46.8e3)}
    device, rates = device_of(GPUS["rtx4090"]), {}
    for (number, length), (count, _) in published.items():
        rates[number, length] = count * length / predict((BASE, LARGE)[number], device, count, length).total_s
    assert sorted(rates, key=lambda key: rates[key]) == sorted(published, key=lambda key: published[key][1])
    assert all(rates[key] > published[key][1] for key in published)


def test_a_core_computes_products_exactly():
    core = cpu_core(100.0, 1e9, 100.0)
    assert product_s(core, 7, 11, 13) == pytest.approx(2 * 7 * 11 * 13 / 1e11)


def test_weights_in_memory_are_the_encoders():
    with torch.device("meta"):
        encoder = Encoder(BASE, RopeConfig(160_000.0, 10_000.0), get_backend("reference"))
    assert inference_bytes(BASE, 0, 2) == 2 * sum(each.numel() for each in encoder.parameters())
    assert inference_bytes(BASE, 1000, 2) - inference_bytes(BASE, 0, 2) == 2000 * (768 + 3 * 1152)


def test_the_published_heuristic_is_the_last_waves_share_of_the_multiprocessors():
    blocks = (54, 18, 54, 27)  # of Wqkv, Wo, Wi, Wo
    assert sm_use(BASE, 40) == pytest.approx(sum(each % 40 / 40 for each in blocks) / 4)
    assert sm_use(BASE, 27) == pytest.approx((1 + 18 / 27 + 1 + 1) / 4)
