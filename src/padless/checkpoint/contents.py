"""What a checkpoint holds, and the rules its content keeps: the same when it is saved and when it is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FORMAT_VERSION = 1
KEYS = ("format_version", "model", "optimizer", "meta")
_MAX_META_VALUES = 100_000
_MAX_META_DEPTH = 32


@dataclass(frozen=True)
class Checkpoint:
    """Full state of a run at one clock."""

    model: dict[str, Tensor]
    optimizer: dict[str, dict[str, Any]] | None  # moments by parameter name, and step counters by group
    meta: dict[str, Any]  # config (plain), data hashes, phase, clock_tokens, step, tokenizer, train_seconds, eval_loss

    @property
    def clock_tokens(self) -> int:
        """Nominal tokens consumed when it was written."""
        return int(self.meta["clock_tokens"])

    @property
    def step(self) -> int:
        """Optimizer steps done when it was written."""
        return int(self.meta["step"])


def problem_of_content(content: Mapping[str, Any], max_bytes: int | None) -> str | None:
    """Return what keeps ``content`` from being a checkpoint, or None. Whether weights are finite is not looked at.

    Args:
        content: the four parts by name, of this format version.
        max_bytes: most bytes that all tensors may take, None for any.
    """
    if set(content) != set(KEYS):
        return f"it holds {_some(content)} where {', '.join(KEYS)} belong"
    problem = _problem_of_model(content["model"]) or _problem_of_meta(content["meta"])
    if problem is None and content["optimizer"] is not None:
        problem = _problem_of_optimizer(content["optimizer"], content["model"])
    if problem is not None or max_bytes is None:
        return problem
    taken = bytes_of_tensors(content)
    return f"its tensors take {taken:_} bytes, the file has {max_bytes:_}" if taken > max_bytes else None


def bytes_of_tensors(content: Mapping[str, Any]) -> int:
    """Return the bytes of all weights and moments, memory that tensors share counted once."""
    tensors = list(content["model"].values())
    for state in (content["optimizer"] or {"moments": {}})["moments"].values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _problem_of_model(model: object) -> str | None:
    if not isinstance(model, dict):
        return f"its model is a {type(model).__name__}, not tensors by name"
    for name, tensor in model.items():
        if not isinstance(name, str):
            return f"its model has the key {name!r}, which is not a name"
        problem = _problem_of_tensor(f"model[{name!r}]", tensor)
        if problem is not None:
            return problem
    return None


def _problem_of_tensor(name: str, tensor: object) -> str | None:
    """Return what is wrong with a tensor: copying it must not take more memory than the file has for it."""
    if type(tensor) is not Tensor:
        return f"its {name} is a {type(tensor).__name__}, not a tensor"
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"its {name} is not a dense tensor"
    logical, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if logical > stored:
        return f"its {name} claims {tuple(tensor.shape)}, {logical:_} bytes, and holds {stored:_}"
    return None


def _problem_of_optimizer(optimizer: object, model: Mapping[str, Tensor]) -> str | None:
    if not isinstance(optimizer, dict) or set(optimizer) != {"moments", "group_steps"}:
        return "its optimizer does not hold moments and group_steps"
    moments, steps = optimizer["moments"], optimizer["group_steps"]
    if not isinstance(moments, dict) or not isinstance(steps, dict):
        return "its optimizer's moments or group_steps are not values by name"
    for name, step in steps.items():
        if not isinstance(name, str) or not (step is None or (_is_sound(step) and step.ndim == 0)):
            return f"its optimizer's group_steps[{name!r}] is not a counter"
    for name, state in moments.items():
        if name not in model or not isinstance(state, dict):
            return f"its optimizer has moments of {name!r}, which is no tensor of the model"
        for key, value in state.items():
            if not isinstance(key, str) or not (value is None or _is_moment(value, model[name])):
                return f"its optimizer's {key!r} of {name!r} is not a moment of that tensor"
    return None


def _is_sound(value: object) -> bool:
    return _problem_of_tensor("", value) is None


def _is_moment(value: Any, weight: Tensor) -> bool:
    return _is_sound(value) and (value.ndim == 0 or value.shape == weight.shape)


def _problem_of_meta(meta: object) -> str | None:
    if not isinstance(meta, dict):
        return f"its meta is a {type(meta).__name__}, not facts by name"
    if not isinstance(meta.get("phase"), str):
        return f"its meta has phase={meta.get('phase')!r}, not a name"
    for key in ("clock_tokens", "step"):
        if type(meta.get(key)) is not int or meta[key] < 0:
            return f"its meta has {key}={meta.get(key)!r}, not a count"
    values, levels = [meta], 0
    seen = 0
    while values:
        seen, levels = seen + len(values), levels + 1
        if seen > _MAX_META_VALUES or levels > _MAX_META_DEPTH:
            return f"its meta has more than {_MAX_META_VALUES:_} values or {_MAX_META_DEPTH} levels"
        inner: list[Any] = []
        for value in values:
            problem = _expand(value, inner.append)
            if problem is not None or len(inner) > _MAX_META_VALUES:
                return problem or f"its meta has more than {_MAX_META_VALUES:_} values"
        values = inner
    return None


def _expand(value: object, add: Callable[[Any], None]) -> str | None:
    """Hand the values inside ``value`` to ``add``; return what is not plain about it."""
    if type(value) is dict:
        strange = next((key for key in value if type(key) is not str), None)
        if strange is not None:
            return f"its meta has the key {strange!r}, which is not a name"
        for each in value.values():
            add(each)
    elif type(value) in (list, tuple):
        for each in value:  # pyright: ignore[reportGeneralTypeIssues]
            add(each)
    elif value is not None and type(value) not in (str, int, float, bool):
        return f"its meta holds a {type(value).__name__}, which is not a plain value"
    return None


def _some(names: Mapping[str, Any]) -> str:
    shown = [str(name)[:40] for name in names][:5]
    return ", ".join(shown) if shown else "nothing"
