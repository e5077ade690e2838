"""The layout of AnswerDotAI's and Ettin's trainers (``FlexBert``): its tensor names and settings as ours.

    theirs                                        ours (Hugging Face's names)
    bert.embeddings.tok_embeddings.weight         model.embeddings.tok_embeddings.weight      [V, D]
    bert.embeddings.norm.weight                   model.embeddings.norm.weight                [D]
    bert.encoder.layers.N.attn_norm.weight        model.layers.N.attn_norm.weight             [D], none in layer 0
    bert.encoder.layers.N.attn.Wqkv.weight        model.layers.N.attn.Wqkv.weight             [3 D, D]
    bert.encoder.layers.N.attn.Wo.weight          model.layers.N.attn.Wo.weight               [D, D]
    bert.encoder.layers.N.mlp_norm.weight         model.layers.N.mlp_norm.weight              [D]
    bert.encoder.layers.N.mlp.Wi.weight           model.layers.N.mlp.Wi.weight                [2 I, D]
    bert.encoder.layers.N.mlp.Wo.weight           model.layers.N.mlp.Wo.weight                [D, I]
    bert.final_norm.weight                        model.final_norm.weight                     [D]
    head.dense.weight, head.norm.weight           the same                                    [D, D], [D]
    decoder.weight, decoder.bias                  the same, the first tied to the embeddings  [V, D], [V]

Composer's wrapper puts ``model.`` in front, torch.compile ``_orig_mod.`` and DDP ``module.`` anywhere. Padded and
unpadded variants have the same names. Tensors do not tell activations, kinds of norm, thetas or the window: those are
settings. A local theta of -1, or none, means "as global".
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from padless.config.schema import ModelConfig, RopeConfig
from padless.errors import ModelError
from padless.export.config_numbers import number, positive, share
from padless.export.other_layouts import name_layout
from padless.export.safetensors_header import Entry
from padless.model.tensor_shapes import EMBEDDING

_WRAPPERS = ("_orig_mod", "module")
_LAYER = re.compile(r"model\.layers\.(\d{1,6})\.")
_FIRST_MLP = "model.layers.0.mlp.Wo.weight"
_HEAD_WIDTH = 64  # of every published model
# What padless can build, and what their trainer takes for a setting that is not given.
_BUILT: dict[str, tuple[tuple[Any, ...], Any]] = {
    "attention_layer": (("rope", "padded_rope", "unpadded_rope"), "base"),
    "bert_layer": (("prenorm", "padded_prenorm", "unpadded_prenorm", "unpadded_compile_prenorm"), "prenorm"),
    "causal_mask": ((False, None), False),
    "embedding_layer": (("sans_pos",), "absolute_pos"),
    "head_pred_act": (("gelu",), "silu"),
    "hidden_act": (("gelu",), "gelu"),
    "initial_attention_layer": ((None,), None),
    "initial_bert_layer": ((None,), None),
    "initial_mlp_layer": ((None,), None),
    "mlp_layer": (("glu",), "mlp"),
    "normalization": (("layernorm", "triton_layernorm"), "rmsnorm"),
    "rotary_emb_interleaved": ((False,), False),
    "rotary_emb_scale_base": ((None,), None),
    "tie_word_embeddings": ((True,), True),
}


def our_name(theirs: str) -> str:
    """Return the Hugging Face name of a tensor, or of what is left of its own where it has none."""
    parts = [part for part in theirs.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "model":
        parts = parts[1:]
    name = ".".join(parts)
    if name.startswith("bert."):
        return "model." + name.removeprefix("bert.").replace("encoder.layers.", "layers.", 1)
    return f"model.{name}" if name.startswith(("embeddings.", "layers.", "final_norm.")) else name


def by_our_names(theirs: Iterable[str], what: str) -> dict[str, str]:
    """Return their names by ours.

    Raises:
        ModelError: two of theirs are the same tensor.
    """
    found: dict[str, str] = {}
    for name in theirs:
        ours = our_name(name)
        if ours in found:
            raise ModelError(
                f"{what} holds {found[ours]:.80} and {name:.80}, which are one tensor by their names",
                "save the checkpoint again from one model",
            )
        found[ours] = name
    return found


def model_from_layout(
    entries: Mapping[str, Entry], settings: Mapping[str, Any], what: str, where: str
) -> tuple[ModelConfig, RopeConfig]:
    """Return the model that tensors and settings describe: sizes from the tensors, everything else from the settings.

    Args:
        entries: tensors by our names.
        settings: of their trainer (``model.model_config``).
        what: the checkpoint, for messages.
        where: where the settings were read, for messages.

    Raises:
        ModelError: a tensor that says a size is missing, a setting contradicts a tensor or has no usable value, or
            the model is one that padless does not have.
    """
    hidden, vocab = _matrix(entries, EMBEDDING, what)[::-1]
    intermediate = _matrix(entries, _FIRST_MLP, what)[1]
    layers = _num_layers(entries)
    heads = _whole(settings, "num_attention_heads", max(hidden // _HEAD_WIDTH, 1), where)
    stated = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    for key, size in stated.items():
        if _whole(settings, key, size, where) != size:
            raise ModelError(
                f"{where} says {key}={settings[key]}, the tensors of {what} say {size}",
                "put the settings beside the checkpoint that it was trained with",
            )
    _refuse_other_models(settings, where)
    if heads < 1 or hidden % (2 * heads):
        raise ModelError(
            f"{where} gives num_attention_heads={heads}, the width of {what} is {hidden}",
            "give the number of heads that it was trained with",
        )
    every, window = _attention(settings, where)
    _refuse_partial_rotation(settings, hidden // heads, where)
    numbers, norm = _with_numbers(settings), settings.get("norm_kwargs")
    norm = _with_numbers(norm if isinstance(norm, Mapping) else {})
    model = ModelConfig(
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        intermediate_size=intermediate,
        vocab_size=vocab,
        global_every_layers=every,
        local_window_tokens=window,
        norm_eps=positive(norm, "eps", 1e-5, f"{where} (norm_kwargs)"),
        attention_out_dropout=share(numbers, "attn_out_dropout_prob", 0.0, where),
        mlp_dropout=share(numbers, "mlp_dropout_prob", 0.0, where),
        embedding_dropout=share(numbers, "embed_dropout_prob", 0.0, where),
        init_std=positive(numbers, "init_std", 0.02, where),
        init_cutoff_factor=positive(numbers, "init_cutoff_factor", 2.0, where),
    )
    return model, _rope(settings, where)


def _matrix(entries: Mapping[str, Entry], name: str, what: str) -> tuple[int, int]:
    if name not in entries:
        layout = name_layout(entries)
        raise ModelError(
            f"{what} lacks {name}{layout and f'; {layout}'}",
            "choose masked-LM weights of the plain ModernBERT architecture",
        )
    shape = entries[name].shape
    if len(shape) != 2 or 0 in shape:
        raise ModelError(f"{what}: {name} is {shape!r:.80}, not a matrix", "save the checkpoint again")
    return shape


def _num_layers(names: Collection[str]) -> int:
    return 1 + max(int(match.group(1)) for match in map(_LAYER.match, names) if match)


def _refuse_other_models(settings: Mapping[str, Any], where: str) -> None:
    for key, (built, default) in _BUILT.items():
        value = settings.get(key, default)
        if not any(type(value) is type(each) and value == each for each in built):
            said = f"has {key}={value!r:.60}" if key in settings else f"leaves {key} at its default, {value!r}"
            raise ModelError(
                f"{where} {said}; padless models have {built[0]!r}",
                "choose a checkpoint of the plain ModernBERT architecture",
            )


def _attention(settings: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Return the period of global layers and the window of the others."""
    window = _whole(settings, "sliding_window", -1, where)
    every = _whole(settings, "global_attn_every_n_layers", -1, where)
    if window == -1 and every == -1:
        return 1, 128  # no layer is local
    if window < 2 or every < 1:
        raise ModelError(
            f"{where} has sliding_window={window}, global_attn_every_n_layers={every}; padless models have both, or "
            "neither (-1)",
            "choose a checkpoint of the plain ModernBERT architecture",
        )
    return every, window // 2 * 2


def _refuse_partial_rotation(settings: Mapping[str, Any], head_width: int, where: str) -> None:
    for key in ("rotary_emb_dim", "local_attn_rotary_emb_dim"):
        if _whole(settings, key, head_width, where) != head_width:
            raise ModelError(
                f"{where} has {key}={settings[key]}, padless rotates all {head_width} of a head",
                "choose a checkpoint of the plain ModernBERT architecture",
            )


def _rope(settings: Mapping[str, Any], where: str) -> RopeConfig:
    numbers, local = _with_numbers(settings), "local_attn_rotary_emb_base"
    theta = positive(numbers, "rotary_emb_base", 10_000.0, where)
    return RopeConfig(theta, theta if numbers.get(local, -1) == -1 else positive(numbers, local, -1, where))


def _with_numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without nulls and with numbers as such: PyYAML reads ``1e-5``, which has no point, as text."""
    return {key: _as_number(value) for key, value in settings.items() if value is not None}


def _as_number(value: Any) -> Any:
    try:
        return float(value) if type(value) is str else value
    except ValueError:
        return value


def _whole(settings: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = number(_with_numbers(settings), key, default, where)
    if not value.is_integer():
        raise ModelError(f"{where} has {key}={value}, not a whole number", "correct the file")
    return int(value)
