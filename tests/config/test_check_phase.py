"""What a refusal of a ramp offers does work."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padless.config.batch_sizes import level_steps, ramp_tokens
from padless.config.check_phase import check_phase
from padless.config.compose import compose
from padless.config.schema import BatchConfig, BatchWarmupConfig
from padless.errors import ConfigError
from padless.schedule.batch_warmup import batch_levels

SMOKE = compose(["recipe=smoke"])
BLOCK = SMOKE.data.block_tokens
ramps = st.builds(
    lambda quantum, first, rise, levels, tokens, equal: BatchConfig(
        (first + rise * levels) * quantum, quantum, "exact", BatchWarmupConfig(first * quantum, tokens, levels, equal)
    ),
    st.just(2), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(1, 10**6),
    st.sampled_from(["steps", "tokens"]),
)  # fmt: skip


def check_short(batch, tokens):
    phase = dataclasses.replace(SMOKE.phases["short"], batch=batch, tokens=tokens)
    lr = dataclasses.replace(phase.lr, warmup_tokens=0)
    phases = {**SMOKE.phases, "short": dataclasses.replace(phase, lr=lr)}
    check_phase("short", dataclasses.replace(SMOKE, phases=phases))


def refusal(batch, tokens):
    try:
        check_short(batch, tokens)
    except ConfigError as error:
        return error
    return None


@given(ramps, st.integers(10_000, 10**6))
def test_a_ramp_that_does_not_fit_is_refused_with_a_length_that_does(batch, tokens):
    error = refusal(batch, tokens)
    if error is None:
        assert ramp_tokens(batch, BLOCK) < tokens
        return
    assert "the ramp never ends" in error.cause
    longer = int(re.search(r"give the phase more than ([\d_]+) tokens", error.remedy).group(1))
    assert refusal(batch, longer + 1) is None
    offered = re.search(r"warmup\.tokens=([\d_]+),", error.remedy)
    if offered:
        shorter = dataclasses.replace(batch.warmup, tokens=int(offered.group(1)))
        assert refusal(dataclasses.replace(batch, warmup=shorter), tokens) is None


@given(ramps)
def test_a_ramp_takes_the_tokens_of_its_levels(batch):
    levels = batch_levels(batch, BLOCK)
    assert ramp_tokens(batch, BLOCK) == levels[-1][0] * BLOCK
    assert len(level_steps(batch, BLOCK)) == len(levels) - 1


def test_a_ramp_that_only_rounding_makes_too_long_is_refused():
    batch = BatchConfig(8, 2, "exact", BatchWarmupConfig(2, 1_000, 3, "steps"))  # 2 + 4 + 6 blocks: 3_072 tokens
    with pytest.raises(ConfigError, match=r"in whole steps it takes 3_072\n.*use fewer or smaller levels"):
        check_short(batch, 3_072)
    check_short(batch, 3_073)


def test_a_phase_without_a_ramp_has_no_ramp_tokens():
    batch = BatchConfig(4, 2, "exact", None)
    assert (level_steps(batch, BLOCK), ramp_tokens(batch, BLOCK)) == ((), 0)
