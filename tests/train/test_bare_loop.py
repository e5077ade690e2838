"""The bare loop computes what the trainer does: the bench compares the same work."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from runs import overrides, prepare_shared

from padless.config.compose import compose
from padless.train.bare_loop import train_bare


@pytest.mark.composer
def test_each_step_of_each_phase_is_timed_with_its_microbatches(tmp_path):
    prepare_shared()
    more = {f"phases.{name}.tokens": 4_096 for name in ("short", "context", "anneal")}
    few = {"phases.short.lr.warmup_tokens": 0, "phases.short.batch.warmup": "null", "phases.short.batch.blocks": 2}
    config = compose(overrides(tmp_path, **more, **few, **{"hardware.device": "cpu", "hardware.precision": "fp32"}))
    steps = train_bare(config)
    assert [(step["phase"], step["microbatches"]) for step in steps] == [
        *[("short", 2)] * 8,
        *[("context", 4)] * 4,
        *[("anneal", 4)] * 4,
    ]
    assert all(step["cpu_seconds"] > 0 and step["seconds"] > 0 for step in steps)
