"""Figures of a step's speed, and the warning of a lasting wait for data."""

from types import SimpleNamespace

import numpy as np
import pytest

from padless.config.compose import compose
from padless.data.collate import Block
from padless.data.loader import StepInfo
from padless.plan.flops import step_flops
from padless.train.throughput import DataWaitWatch, Speedometer, utilisation

MODEL = compose(["recipe=smoke"]).model


def step(lengths=((50, 200), (250,)), masked=60, real_tokens=500):
    blocks = [[Block("code", number, np.zeros(250, np.uint16), np.array(each, np.int32))]
              for number, each in enumerate(lengths)]  # fmt: skip
    batches = [SimpleNamespace(num_masked=masked // 2)] * 2  # all that is asked of a batch
    return StepInfo(1, [("code", 0), ("code", 1)], real_tokens, None, blocks, batches)


def test_utilisation_is_necessary_arithmetic_over_what_the_device_could_do():
    expected = step_flops(MODEL, [50, 200, 250], 60) / 0.5 / 1e12
    assert utilisation(MODEL, step(), 0.5, 1e12) == pytest.approx(expected)
    assert utilisation(MODEL, step(), 0.5, None) is None


def test_the_figures_of_a_step_count_real_tokens_only():
    figures = Speedometer(MODEL, 256, None, None, print).measure(step(), 2, 0.1, 0.5)
    assert figures == {"real_tokens_per_s": 1000.0, "mfu": None, "data_wait_share": 0.2, "fill": round(500 / 512, 5)}


def lines_of(watch, steps):
    """What a watch says of steps of (wait, whole) seconds, with the clock at which it did."""
    now_s, said = 0.0, []
    for wait_s, step_s in steps:
        now_s += step_s
        line = watch.note(wait_s, step_s, now_s)
        if line:
            said.append((now_s, line))
    return said


def test_a_lasting_wait_is_warned_of_once_in_ten_minutes_with_the_setting_to_raise():
    said = lines_of(DataWaitWatch(2, reads_remote=False), [(0.1, 1.0)] * 1_300)
    assert [now_s for now_s, _ in said] == [50.0, 650.0, 1250.0]
    assert said[0][1].startswith("warning: 10% of the last 50 steps' time went by waiting for data; ")
    assert "raise data.num_workers=2, or put the shards on a faster disk; padless bench loader" in said[0][1]


def test_with_a_remote_the_remedy_is_a_copy():
    (_, line), *_ = lines_of(DataWaitWatch(4, reads_remote=True), [(0.5, 1.0)] * 60)
    assert "raise data.num_workers=4, or copy the remote streams to a local disk" in line


@pytest.mark.parametrize(
    "steps",
    [
        [(0.05, 1.0)] * 300,  # not over 5 %
        [(0.5, 1.0)] * 49,  # not yet 50 steps
        [(0.05, 0.1)] * 299,  # 50 steps are 5 s
        [(2.0, 2.0), *[(0.0, 1.0)] * 300],  # once
    ],
)
def test_what_is_short_or_small_is_not_warned_of(steps):
    assert lines_of(DataWaitWatch(2, reads_remote=False), steps) == []


def test_the_warning_is_said():
    said = []
    speed = Speedometer(MODEL, 256, None, DataWaitWatch(0, reads_remote=False), said.append)
    for _ in range(50):
        speed.measure(step(), 2, 0.5, 1.0)
    assert len(said) == 1
