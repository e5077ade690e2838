"""A Hugging Face folder as plain weights, checked against its config before anything uses it.

A folder may come from a stranger: safetensors, or where there are none a pickle that is followed without running it. A
shard's name may not lead out of the folder; names, types and shapes must be the config's before any weight is read,
values must be finite.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from padless.config.schema import ModelConfig, RopeConfig
from padless.data.durable import sha256_of_file
from padless.errors import ModelError
from padless.export.hf_config import DECODER_BIAS, HfModel, model_config_from_hf
from padless.export.other_layouts import name_layout
from padless.export.pickled_weights import PICKLED, entry_of, outline_of_weights, read_weights
from padless.export.safetensors_header import Entry, read_header
from padless.model.tensor_shapes import DECODER, EMBEDDING, check_state_dict, tensor_shapes

TOKENIZER_HASH = "tokenizer_sha256"  # in padless.json
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_INDEX_BYTES = 8 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class LoadedSource:
    """Weights to start from, with what is known about them."""

    state_dict: dict[str, Tensor]  # fp32, CPU, Hugging Face names
    model_config: ModelConfig
    rope: RopeConfig  # thetas they were trained with
    tokenizer_sha256: str | None
    tokens_seen: int | None
    moments_problem: str | None = None  # why there are no optimizer moments to go on with, said of the file

    @property
    def source_thetas(self) -> tuple[float, float]:
        """RoPE theta of global and of local layers."""
        return self.rope.global_theta, self.rope.local_theta


def load_hf_folder(path: Path) -> LoadedSource:
    """Return the weights and shape of a ``ModernBertForMaskedLM`` folder.

    Raises:
        ModelError: no weights, a pickle with anything but tensors in it, a shard outside the folder, corrupt, missing
            or absurdly large files, weights that do not fit the config (missing, extra, misshapen, not finite, untied),
            or a config padless cannot build.
    """
    if not path.is_dir():
        raise ModelError(f"{path} is not a folder", "give a folder with config.json and model.safetensors")
    model, rope, has_bias = _config(path)
    read = _read_pickled if is_pickled(path) else _read_safetensors
    state_dict = read(path, model, has_bias)
    add_missing_bias(state_dict, model)
    check_state_dict(state_dict, model, str(path))
    return LoadedSource(state_dict, model, rope, _tokenizer_hash(path), _tokens_seen(path))


def is_pickled(path: Path) -> bool:
    """Return whether the weights of a folder are a pickle, ``pytorch_model.bin``, and nothing else."""
    return (path / PICKLED).is_file() and not any((path / name).is_file() for name in (WEIGHTS, INDEX))


def _read_safetensors(path: Path, model: ModelConfig, has_bias: bool) -> dict[str, Tensor]:
    files = _weight_files(path)
    check_entries(_merge_headers({file: read_header(file) for file in files}), model, str(path), has_bias)
    state_dict: dict[str, Tensor] = {}
    for file in files:
        state_dict.update({name: tensor.to(torch.float32) for name, tensor in load_file(file).items()})
    return state_dict


def _read_pickled(path: Path, model: ModelConfig, has_bias: bool) -> dict[str, Tensor]:
    file = path / PICKLED
    outline = outline_of_weights(file)
    check_entries(
        {name: entry_of(name, each, str(file)) for name, each in outline.tree.items()}, model, str(path), has_bias
    )
    return {name: tensor.to(torch.float32) for name, tensor in read_weights(file, outline).items()}


def _config(path: Path) -> HfModel:
    file = path / "config.json"
    _refuse_large(file, _MAX_CONFIG_BYTES)
    try:
        return model_config_from_hf(path)
    except RecursionError as error:
        raise ModelError(
            f"{file} has a value of the wrong kind: {error}", "export the model again with save_pretrained"
        ) from error


def _merge_headers(headers: Mapping[Path, Mapping[str, Entry]]) -> dict[str, Entry]:
    """Return the tensors of all files by name; no name may be in two."""
    entries: dict[str, Entry] = {}
    for file, header in headers.items():
        for name, entry in header.items():
            if name in entries:
                raise ModelError(f"{file} holds {name!r:.80}, which another file has, too", "download the folder again")
            entries[name] = entry
    return entries


def check_entries(entries: Mapping[str, Entry], model: ModelConfig, what: str, has_decoder_bias: bool = True) -> None:
    """Refuse weights that are not those of ``model``, by their names, types and shapes, before any is read.

    Args:
        entries: the tensors by Hugging Face names, with or without the tied ``decoder.weight``.
        model: the shape that their config gives.
        what: the file or folder, for the message.
        has_decoder_bias: whether the config gives the decoder a bias.

    Raises:
        ModelError: a tensor is missing, unknown, misshapen or of another type; if its name tells what kind of model it
            belongs to, that is said.
    """
    for name, entry in entries.items():
        if entry.dtype not in _TYPES:
            raise ModelError(
                f"{what}: {name!r:.80} has type {entry.dtype}, weights have {', '.join(_TYPES)}",
                "use weights that are not quantized",
            )
    if model.num_layers > len(entries):  # before a name is made for every tensor of every layer
        raise ModelError(
            f"{what}: its config says {model.num_layers:_} layers, the weights are {len(entries)} tensors",
            "use weights and a config that belong together",
        )
    shapes = tensor_shapes(model)
    if not has_decoder_bias:
        del shapes[DECODER_BIAS]
    remedy = f"use weights and a config that belong together ({model.num_layers} layers x {model.hidden_size})"
    layout = name_layout(entries)
    unknown = next((name for name in entries if name not in shapes and name != DECODER), None)
    if unknown is not None:
        raise ModelError(
            f"{what} has tensors this model does not know: {unknown:.80}{layout and f'; {layout}'}",
            "choose masked-LM weights of the plain ModernBERT architecture" if layout else remedy,
        )
    missing = next((name for name in shapes if name not in entries), None)
    if missing is not None:
        raise ModelError(f"{what} lacks {missing}{layout and f'; {layout}'}", remedy)
    for name, shape in {**shapes, DECODER: shapes[EMBEDDING]}.items():
        if name in entries and entries[name].shape != shape:
            raise ModelError(f"{what}: {name} is {entries[name].shape!r:.80}, the config says {shape}", remedy)


def add_missing_bias(state_dict: dict[str, Tensor], model: ModelConfig) -> None:
    """Give weights of a decoder without a bias one of zeros, which computes the same."""
    state_dict.setdefault(DECODER_BIAS, torch.zeros(model.vocab_size))


def _refuse_large(file: Path, most_bytes: int) -> None:
    if file.is_file() and file.stat().st_size > most_bytes:
        raise ModelError(
            f"{file} has {file.stat().st_size:_} bytes, at most {most_bytes:_} are read",
            "do not use this folder: a plain export's is far smaller",
        )


def _weight_files(path: Path) -> list[Path]:
    if (path / INDEX).is_file():
        return [_shard(path, name) for name in _shard_names(path / INDEX)]
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    others = sorted(file.name for kind in ("*.bin", "*.pt", "*.safetensors") for file in path.glob(kind))
    found = f"only {', '.join(others)[:120]}" if others else "no weights"
    raise ModelError(
        f"{path} holds {found}; {WEIGHTS} is needed, or {PICKLED} in one piece",
        "load it with transformers where you trust it and write it with save_pretrained(..., safe_serialization=True)",
    )


def _shard_names(index: Path) -> list[str]:
    _refuse_large(index, _MAX_INDEX_BYTES)
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is not a safetensors index: {error}", "download or copy the file again") from error
    return names


def _shard(path: Path, name: object) -> Path:
    if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name or "\\" in name:
        raise ModelError(
            f"{path / INDEX} names {name!r}, which is not a safetensors file of that folder",
            "do not use this folder: a plain export never points outside itself",
        )
    if not (path / name).is_file():
        raise ModelError(f"{path / name} is missing, {INDEX} names it", "download the missing shard")
    return path / name


def recorded_facts(path: Path) -> dict[str, Any]:
    """Return what the ``padless.json`` of a folder says, empty where it says nothing.

    Raises:
        ModelError: the file is absurdly large.
    """
    file = path / "padless.json"
    _refuse_large(file, _MAX_CONFIG_BYTES)
    try:
        facts: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def recorded_hash(path: Path) -> str | None:
    """Return the hash of the tokenizer.json that a folder was written with, as its ``padless.json`` records it."""
    recorded = recorded_facts(path).get(TOKENIZER_HASH)
    return recorded if isinstance(recorded, str) and _SHA256.fullmatch(recorded) else None


def recorded_lr_peak(path: Path) -> float | None:
    """Return the peak learning rate of the phase that a folder's weights come from, None where none is recorded."""
    peak = recorded_facts(path).get("lr_peak")
    if not isinstance(peak, int | float) or isinstance(peak, bool) or not 0 < peak < 1:
        return None
    return float(peak)


def _tokenizer_hash(path: Path) -> str | None:
    """Return the hash of the tokenizer that weights were trained with: the recorded one, else that of the file."""
    file = path / "tokenizer.json"
    return recorded_hash(path) or (sha256_of_file(file) if file.is_file() else None)


def _tokens_seen(path: Path) -> int | None:
    """Return the tokens our own exports state in their ``padless.json``."""
    tokens = recorded_facts(path).get("clock_tokens")
    return tokens if type(tokens) is int and tokens >= 0 else None
