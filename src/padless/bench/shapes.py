"""Model shapes of the benches, and the settings that all implementations share."""

from padless.config.schema import ModelConfig, OptimizerConfig, RopeConfig
from padless.errors import ConfigError


def _shape(num_layers: int, hidden_size: int, num_heads: int, intermediate_size: int, vocab_size: int) -> ModelConfig:
    return ModelConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        intermediate_size=intermediate_size,
        vocab_size=vocab_size,
        global_every_layers=3,
        local_window_tokens=128,
        norm_eps=1e-5,
        attention_out_dropout=0.0,
        mlp_dropout=0.0,
        embedding_dropout=0.0,
        init_std=0.02,
        init_cutoff_factor=2.0,
    )


SHAPES = {
    "6x384": _shape(6, 384, 6, 576, 50_368),
    "nano": _shape(4, 256, 4, 384, 8_192),
    "base": _shape(22, 768, 12, 1_152, 50_368),
    "tiny": _shape(2, 64, 2, 96, 2_048),
}
ROPE = RopeConfig(global_theta=160_000.0, local_theta=10_000.0)
OPTIMIZER = OptimizerConfig(beta1=0.9, beta2=0.98, eps=1e-6)
PEAK_LR = 8e-4
WEIGHT_DECAY = 1e-5


def shape_of(name: str) -> ModelConfig:
    """Return the shape of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SHAPES:
        raise ConfigError(f"shapes={name} is not a shape of the benches", f"choose from {', '.join(SHAPES)}")
    return SHAPES[name]
