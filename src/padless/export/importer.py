"""A Hugging Face folder as plain weights: safetensors only, checked against its config before anything uses it.

A folder may come from a stranger: no pickle is opened, a shard's name may not lead out of the folder, shapes must be
the config's, values must be finite.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from padless.config.schema import ModelConfig, RopeConfig
from padless.data.durable import sha256_of_file
from padless.errors import ModelError
from padless.export.hf_config import model_config_from_hf
from padless.model.tensor_shapes import check_state_dict

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class LoadedSource:
    """Weights to start from, with what is known about them."""

    state_dict: dict[str, Tensor]  # fp32, CPU, Hugging Face names
    model_config: ModelConfig
    rope: RopeConfig  # thetas they were trained with
    tokenizer_sha256: str | None
    tokens_seen: int | None

    @property
    def source_thetas(self) -> tuple[float, float]:
        """RoPE theta of global and of local layers."""
        return self.rope.global_theta, self.rope.local_theta


def load_hf_folder(path: Path) -> LoadedSource:
    """Return the weights and shape of a ``ModernBertForMaskedLM`` folder.

    Raises:
        ModelError: no safetensors, a shard outside the folder, corrupt or missing files, weights that do not fit the
            config (missing, extra, misshapen, not finite, untied), or a config padless cannot build.
    """
    if not path.is_dir():
        raise ModelError(f"{path} is not a folder", "give a folder with config.json and model.safetensors")
    model, rope = model_config_from_hf(path)
    state_dict: dict[str, Tensor] = {}
    for file in _weight_files(path):
        try:
            part = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read: {error}", "download or copy the file again") from error
        state_dict.update({name: tensor.to(torch.float32) for name, tensor in part.items()})
    check_state_dict(state_dict, model, str(path))
    tokenizer = path / "tokenizer.json"
    return LoadedSource(
        state_dict, model, rope, sha256_of_file(tokenizer) if tokenizer.is_file() else None, _tokens_seen(path)
    )


def _weight_files(path: Path) -> list[Path]:
    if (path / INDEX).is_file():
        return [_shard(path, name) for name in _shard_names(path / INDEX)]
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    pickles = sorted(file.name for file in path.glob("*.bin"))
    found = f"only {', '.join(pickles)}, a pickle that could run code" if pickles else "no weights"
    raise ModelError(
        f"{path} holds {found}; {WEIGHTS} is needed",
        "load it with transformers where you trust it and write it with save_pretrained(..., safe_serialization=True)",
    )


def _shard_names(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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


def _tokens_seen(path: Path) -> int | None:
    """Return the tokens our own exports state in their ``padless.json``."""
    try:
        return int(json.loads((path / "padless.json").read_text(encoding="utf-8"))["clock_tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
