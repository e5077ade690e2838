"""Names of the implementations and of model shapes, and the settings that all implementations share. Needs no torch.

``padless``       our model, packed
``sparse``        transformers, padded, ``sparse_prediction=True``: logits at masked positions alone
``dense``         transformers, padded, its default: logits at every position
``padded``        transformers' encoder, or attention alone, padded
"""

from dataclasses import replace

from padless.config.schema import ModelConfig, OptimizerConfig, RopeConfig
from padless.errors import ConfigError

PADLESS, SPARSE, DENSE, PADDED = "padless", "sparse", "dense", "padded"


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
OPTIMIZER = OptimizerConfig(kind="stable_adamw", beta1=0.9, beta2=0.98, eps=1e-6)
PEAK_LR = 8e-4
WEIGHT_DECAY = 1e-5


def shape_of(name: str) -> ModelConfig:
    """Return the shape of that name; ``6x384@8192`` is ``6x384`` with a vocabulary of 8,192.

    Raises:
        ConfigError: there is none.
    """
    known, separator, vocab_size = name.partition("@")
    if known not in SHAPES or (separator and not vocab_size.isdecimal()):
        raise ConfigError(
            f"shapes={name} is not a shape of the benches",
            f"choose from {', '.join(SHAPES)}, or with another vocabulary, such as 6x384@8192",
        )
    return replace(SHAPES[known], vocab_size=int(vocab_size)) if separator else SHAPES[known]
