"""Our model config as Hugging Face's ``ModernBertConfig`` and back, in both of its dialects.

transformers 4.48 to 4.57 reads ``global_rope_theta``, ``local_rope_theta`` and ``global_attn_every_n_layers`` and
ignores the rest; 5.x reads ``rope_parameters`` (nested by kind of layer) and ``layer_types`` and fails on a null local
theta. What is written holds both and they agree. When reading, the nested form wins; a local theta of null or -1, as
the published phase-1 trainer configs have it, means "as global".

padless decoders always have a bias: a model without one is read with zeros, and zeros are written as none.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from padless.config.schema import ModelConfig, RopeConfig
from padless.errors import ModelError
from padless.export.config_numbers import positive, share, whole
from padless.model.block import is_global_layer

GLOBAL, LOCAL = "full_attention", "sliding_attention"
DECODER_BIAS = "decoder.bias"
# What padless models are by design; absent from a config means transformers' default, which is this value.
_FIXED: dict[str, Any] = {
    "attention_bias": False,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "hidden_activation": "gelu",
    "mlp_bias": False,
    "norm_bias": False,
    "tie_word_embeddings": True,
}


class HfModel(NamedTuple):
    """What a ``config.json`` describes."""

    model: ModelConfig
    rope: RopeConfig
    has_decoder_bias: bool


def hf_config(
    model: ModelConfig,
    rope: RopeConfig,
    max_position_tokens: int,
    special_ids: Mapping[str, int],
    has_decoder_bias: bool = True,
) -> dict[str, Any]:
    """Return the content of ``config.json``.

    Attention dropout is written as 0: transformers would also apply it to attention probabilities, where pretraining
    has none.

    Args:
        model: shape.
        rope: thetas of the phase the weights come from.
        max_position_tokens: longest segment trained on.
        special_ids: ids of ``cls``, ``sep``, ``pad`` and ``mask``.
        has_decoder_bias: whether the weights have a ``decoder.bias``.
    """
    layer_types = [GLOBAL if is_global_layer(model, layer) else LOCAL for layer in range(model.num_layers)]
    return {
        "architectures": ["ModernBertForMaskedLM"],
        "model_type": "modernbert",
        **_FIXED,
        "attention_dropout": 0.0,
        "bos_token_id": special_ids["cls"],
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "cls_token_id": special_ids["cls"],
        "decoder_bias": has_decoder_bias,
        "deterministic_flash_attn": False,
        "embedding_dropout": model.embedding_dropout,
        "eos_token_id": special_ids["sep"],
        "global_attn_every_n_layers": model.global_every_layers,
        "global_rope_theta": rope.global_theta,
        "hidden_size": model.hidden_size,
        "initializer_cutoff_factor": model.init_cutoff_factor,
        "initializer_range": model.init_std,
        "intermediate_size": model.intermediate_size,
        "layer_types": layer_types,
        "local_attention": model.local_window_tokens,
        "local_rope_theta": rope.local_theta,
        "mask_token_id": special_ids["mask"],
        "max_position_embeddings": max_position_tokens,
        "mlp_dropout": model.mlp_dropout,
        "norm_eps": model.norm_eps,
        "num_attention_heads": model.num_heads,
        "num_hidden_layers": model.num_layers,
        "pad_token_id": special_ids["pad"],
        "rope_parameters": {
            GLOBAL: {"rope_type": "default", "rope_theta": rope.global_theta},
            LOCAL: {"rope_type": "default", "rope_theta": rope.local_theta},
        },
        "sep_token_id": special_ids["sep"],
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "torch_dtype": "float32",
        "vocab_size": model.vocab_size,
    }


def model_config_from_hf(folder: Path) -> HfModel:
    """Return what a Hugging Face folder's ``config.json`` describes.

    Dropouts and initialisation are as in the file; they do not matter to weights that exist.

    Raises:
        ModelError: no config.json, not ModernBERT, a value missing, or a variant that padless does not have.
    """
    return describe_hf(_read(folder), f"{folder}/config.json")


def describe_hf(config: Mapping[str, Any], where: str) -> HfModel:
    """Return what the content of a ``config.json`` describes.

    Args:
        config: the content.
        where: where it was read, for messages.

    Raises:
        ModelError: a value is missing, or a variant that padless does not have.
    """
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise ModelError(
                f"{where} has {key}={config[key]!r}, padless models have {value!r}",
                "choose a model of the plain ModernBERT architecture",
            )
    try:
        rope = _rope(config, where)
        every = _global_every(config, where)
    except (AttributeError, TypeError) as error:
        raise ModelError(
            f"{where} has a value of the wrong kind: {error}", "export the model again with save_pretrained"
        ) from error
    model = ModelConfig(
        num_layers=whole(config, "num_hidden_layers", None, where, least=1),
        hidden_size=whole(config, "hidden_size", None, where, least=1),
        num_heads=whole(config, "num_attention_heads", None, where, least=1),
        intermediate_size=whole(config, "intermediate_size", None, where, least=1),
        vocab_size=whole(config, "vocab_size", None, where, least=1),
        global_every_layers=every,
        local_window_tokens=whole(config, "local_attention", 128, where, least=2) // 2 * 2,  # as transformers halves it
        norm_eps=positive(config, "norm_eps", 1e-5, where),
        attention_out_dropout=share(config, "attention_dropout", 0.0, where),
        mlp_dropout=share(config, "mlp_dropout", 0.0, where),
        embedding_dropout=share(config, "embedding_dropout", 0.0, where),
        init_std=positive(config, "initializer_range", 0.02, where),
        init_cutoff_factor=positive(config, "initializer_cutoff_factor", 2.0, where),
    )
    if model.hidden_size % (2 * model.num_heads):
        raise ModelError(
            f"{where} gives hidden_size={model.hidden_size} and num_attention_heads={model.num_heads}, "
            "whose head width is not an even number",
            "choose a model whose heads have an even width",
        )
    return HfModel(model, rope, bool(config.get("decoder_bias", True)))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}", "give a Hugging Face folder with config.json and model.safetensors"
        ) from error
    kind = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if kind != "modernbert":
        raise ModelError(f"{path} describes a {kind!r} model, not 'modernbert'", "choose a ModernBERT-style model")
    return config


def _global_every(config: Mapping[str, Any], where: str) -> int:
    """Return the period of global layers; a list of layer types must be periodic from layer 0 on."""
    layer_types, key = config.get("layer_types"), "global_attn_every_n_layers"
    stated = None if config.get(key) is None else whole(config, key, None, where, least=1)
    if layer_types is None:
        return stated or 3
    layers = whole(config, "num_hidden_layers", None, where, least=1)
    if len(layer_types) != layers:
        raise ModelError(
            f"{where} has {len(layer_types)} layer_types and num_hidden_layers={layers}",
            "give one of layer_types for each layer, as save_pretrained writes them",
        )
    places = [layer for layer, kind in enumerate(layer_types) if kind == GLOBAL]
    every = places[1] if len(places) > 1 else layers
    if len(places) == 1 and stated is not None and stated >= every:
        every = stated  # one global layer at most fits: both spellings mean the same model
    if layer_types != [LOCAL if layer % every else GLOBAL for layer in range(layers)]:
        raise ModelError(
            f"{where} has layer_types that are not 'global every n layers from layer 0 on'",
            "choose a model with ModernBERT's alternation",
        )
    return every


def _rope(config: Mapping[str, Any], where: str) -> RopeConfig:
    nested = config.get("rope_parameters") or {}
    if "rope_theta" in nested:
        raise ModelError(
            f"{where} has rope_parameters for all layers as one, which transformers does not read for this model",
            f"give them by kind of layer: {GLOBAL} and {LOCAL}",
        )
    by_kind = {kind: nested.get(kind) or {} for kind in (GLOBAL, LOCAL)}
    for parameters in (*by_kind.values(), config.get("rope_scaling") or {}):
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            raise ModelError(
                f"{where} scales RoPE by {kind!r}, padless has plain RoPE only",
                "choose a model without rope scaling",
            )
    if by_kind[GLOBAL].get("rope_theta") is None:
        global_theta = positive(config, "global_rope_theta", 160_000.0, where)
    else:
        global_theta = positive(by_kind[GLOBAL], "rope_theta", None, f"{where} (rope_parameters.{GLOBAL})")
    if "rope_theta" in by_kind[LOCAL]:
        local_theta = _local_theta(by_kind[LOCAL], "rope_theta", f"{where} (rope_parameters.{LOCAL})")
    else:
        local_theta = _local_theta(config, "local_rope_theta", where)
    return RopeConfig(global_theta, local_theta or global_theta)


def _local_theta(settings: Mapping[str, Any], key: str, where: str) -> float | None:
    """Return the theta of local layers, None where null or -1 says that it is the global one."""
    value = settings.get(key, 10_000.0)
    if value is None or (type(value) in (int, float) and value == -1):
        return None
    return positive(settings, key, 10_000.0, where)
