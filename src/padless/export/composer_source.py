"""A checkpoint of another Composer trainer as plain weights: nothing in it runs, and torch does not open it.

    state.model                               tensors, see :mod:`padless.export.composer_layout`
    state.integrations.huggingface.model      the model's settings, where the trainer wrapped it as AnswerDotAI's does
    state.timestamp.Timestamp.token           tokens of the run, or of its last phase where the trainer sets it back
    state.optimizers                          moments by parameter name

The file is judged by its pickle's outline. What Composer puts into every checkpoint besides tensors and plain values
(durations, versions, states of random generators) is never made; any other name is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from padless.checkpoint.archive import outline_of_archive
from padless.checkpoint.outline import Outline, RefusedError
from padless.checkpoint.records import read_tensors
from padless.config.plain_yaml import without_aliases
from padless.errors import CheckpointError, ModelError
from padless.export.composer_layout import by_our_names, model_from_layout
from padless.export.composer_moments import outline_moments, read_moments
from padless.export.hf_config import HfModel, describe_hf
from padless.export.importer import LoadedSource, add_missing_bias, check_entries
from padless.export.lfs import refuse_lfs_pointer
from padless.export.pickled_weights import entry_of
from padless.export.safetensors_header import Entry
from padless.model.tensor_shapes import check_state_dict, tensor_shapes

INERT = frozenset(
    (
        "_codecs.encode",
        "datetime.timedelta",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
        "numpy.ndarray",
        "torch.Size",
        "torch.device",
        "torch.torch_version.TorchVersion",
    )
)
# Composer saves the tokenizer's vocabulary and merges in the pickle: a few MB, tens with 256,000 entries.
_MAX_PICKLE_BYTES = 64 << 20
_MAX_YAML_BYTES = 1 << 20
_REMEDY = "give a .pt file of padless or Composer, or a Hugging Face folder"


def outline_of_checkpoint(path: Path) -> Outline:
    """Return what a checkpoint file holds, padless's or another Composer trainer's; no tensor is read.

    Raises:
        CheckpointError: it is neither, it is damaged, or it would run something, which is named.
        ModelError: it is a Git LFS pointer.
    """
    try:
        refuse_lfs_pointer(path)
        return outline_of_archive(path, INERT, _MAX_PICKLE_BYTES)
    except (RefusedError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {error}; nothing in it was run", _REMEDY
        ) from error


def is_composer_checkpoint(outline: Outline) -> bool:
    """Return whether an outline has Composer's envelope."""
    return isinstance(_at(outline.tree, "state", "model"), dict)


def refuse_sharded(folder: Path) -> None:
    """Refuse a folder that Composer wrote in shards, which looks like neither a file nor a Hugging Face folder.

    Raises:
        CheckpointError: it is one.
    """
    if any(folder.glob("*.distcp")):
        raise CheckpointError(
            f"{folder} is a sharded Composer checkpoint, one part a rank",
            "save it in one file (state_dict_type: full), or give another checkpoint",
        )


def load_composer_checkpoint(path: Path, outline: Outline) -> tuple[LoadedSource, dict[str, Any] | None]:
    """Return weights, shape and thetas of a Composer checkpoint, and its moments if they can be taken over.

    Args:
        path: the file.
        outline: what :func:`outline_of_checkpoint` said of it.

    Raises:
        CheckpointError: it is damaged, or changed while it was read.
        ModelError: settings are missing, or it is a model that padless does not have; tensor or setting are named.
    """
    state = outline.tree["state"]
    names = by_our_names(state["model"], str(path))
    tensors = {ours: state["model"][theirs] for ours, theirs in names.items()}
    entries = {name: entry_of(name, each, str(path)) for name, each in tensors.items()}
    _refuse_moving_theta(state, path)
    model, rope, has_bias = _describe(state, entries, path)
    check_entries(entries, model, str(path), has_bias)
    shapes = tensor_shapes(model)
    moments, problem = outline_moments(state, shapes)
    try:
        weights = {name: each.to(torch.float32) for name, each in read_tensors(path, outline, tensors).items()}
        kept = None if moments is None else read_moments(path, outline, moments)
    except (RefusedError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}", _REMEDY) from error
    add_missing_bias(weights, model)
    check_state_dict(weights, model, str(path))
    return LoadedSource(_in_order(weights, shapes), model, rope, None, _tokens_seen(state), problem), kept


def _at(tree: Any, *keys: str) -> Any:
    """Return what lies under ``keys``, None where there is nothing."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _refuse_moving_theta(state: Mapping[str, Any], path: Path) -> None:
    algorithms = state.get("algorithms")
    for each in algorithms if isinstance(algorithms, list) else []:
        if isinstance(each, tuple) and each and each[0] == "FlexBertRopeSchedule":
            raise ModelError(
                f"{path}: its trainer moved RoPE's theta from step to step (FlexBertRopeSchedule), so that no setting "
                "says which one these weights have",
                "choose a checkpoint of a phase with fixed thetas",
            )


def _describe(state: Mapping[str, Any], entries: Mapping[str, Entry], path: Path) -> HfModel:
    """Return shape and thetas, and whether the decoder has a bias."""
    settings, where = _settings(state, path)
    if settings.get("model_type") == "modernbert":  # transformers' own model under Composer
        return describe_hf(settings, where)
    model, rope = model_from_layout(entries, settings, str(path), where)
    return HfModel(model, rope, bool(settings.get("decoder_bias", True)))


def _settings(state: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Any], str]:
    """Return the model's settings and where they were: in the checkpoint, else in its trainer's YAML beside it."""
    own = _at(state.get("integrations"), "huggingface", "model", "config", "content")
    if isinstance(own, dict):
        return own, f"the config in {path.name}"
    file = _yaml_beside(path)
    if file is None:
        raise ModelError(
            f"{path} does not say what its tensors cannot: activations, RoPE thetas, the window",
            f"put its trainer's YAML (with model.model_config) beside it, as {path.stem}.yaml or config.yaml",
        )
    if file.stat().st_size > _MAX_YAML_BYTES:
        raise ModelError(f"{file} has {file.stat().st_size:_} bytes", f"at most {_MAX_YAML_BYTES:_} are read")
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), without_aliases(yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ModelError(f"{file} cannot be read: {str(error).splitlines()[0]}", "correct the file") from error
    settings = _at(tree, "model", "model_config")
    if not isinstance(settings, dict):
        raise ModelError(f"{file} has no model.model_config", "give the YAML that the trainer was started with")
    return settings, str(file)


def _yaml_beside(path: Path) -> Path | None:
    candidates = (path.with_suffix(".yaml"), path.with_suffix(".yml"), path.with_name("config.yaml"))
    return next((file for file in candidates if file.is_file()), None)


def _tokens_seen(state: Mapping[str, Any]) -> int | None:
    tokens = _at(state.get("timestamp"), "Timestamp", "token")
    return tokens if type(tokens) is int and tokens >= 0 else None


def _in_order(weights: Mapping[str, Tensor], shapes: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in the model's order, the tied decoder left out."""
    return {name: weights[name] for name in shapes}
