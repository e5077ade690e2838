"""The small model that tests build: a shape of the benches, smaller still. A test says only what it is about."""

from dataclasses import replace

from padless.bench.shapes import shape_of
from padless.config.schema import ModelConfig

_SMALL = replace(
    shape_of("tiny"),
    num_layers=4,
    hidden_size=32,
    intermediate_size=48,
    vocab_size=128,
    local_window_tokens=32,
)


def small_shape(**changes: int | float) -> ModelConfig:
    """4 layers of 32 with 2 heads, every third global, windows of 32, 128 words, no dropout, but for ``changes``."""
    return replace(_SMALL, **changes)
