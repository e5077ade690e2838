"""Optimizer moments of a Composer checkpoint as ours: by our names, with one step counter for both of our groups."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from padless.checkpoint.outline import Outline, TensorOutline
from padless.checkpoint.records import dtype_of, read_tensors
from padless.export.composer_layout import our_name
from padless.model.tensor_shapes import DECODER, EMBEDDING

_MOMENTS = ("exp_avg", "exp_avg_sq")
_GROUPS = ("0", "1")  # with decay, without


@dataclass(frozen=True)
class MomentsOutline:
    """Where the moments are, and how many steps made them."""

    tensors: dict[str, TensorOutline]  # by "<our name>/<moment>"
    step: int | TensorOutline


def outline_moments(
    state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[MomentsOutline | None, str | None]:
    """Return where the moments of every tensor are, or why they cannot be taken over, said of the file.

    Args:
        state: the checkpoint's ``state``.
        shapes: of our tensors, by name.
    """
    optimizers = state.get("optimizers")
    if not isinstance(optimizers, dict) or not optimizers:
        return None, None
    if len(optimizers) > 1:
        return None, f"has {len(optimizers)} optimizers, padless has one"
    ((kind, saved),) = optimizers.items()
    by_parameter = saved.get("state") if isinstance(saved, dict) else None
    if not isinstance(by_parameter, dict) or not by_parameter:
        return None, f"has an optimizer ({kind:.40}) that has not stepped yet"
    if not all(isinstance(name, str) for name in by_parameter):
        return None, f"has moments ({kind:.40}) by number, which do not say whose they are"
    found = {our_name(name): each for name, each in by_parameter.items()}
    found.setdefault(EMBEDDING, found.get(DECODER))  # tied: saved under either name
    tensors: dict[str, TensorOutline] = {}
    for name, shape in shapes.items():
        for key in _MOMENTS:
            each = found[name].get(key) if isinstance(found.get(name), dict) else None
            if not isinstance(each, TensorOutline) or each.shape != shape or not dtype_of(each).is_floating_point:
                return None, f"has no {key} of {name} in its optimizer ({kind:.40})"
            tensors[f"{name}/{key}"] = each
    step = _step(found[EMBEDDING], saved.get("param_groups"))
    if step is None:
        return None, f"does not say how many steps its optimizer ({kind:.40}) took"
    return MomentsOutline(tensors, step), None


def read_moments(path: Path, outline: Outline, moments: MomentsOutline) -> dict[str, dict[str, Any]]:
    """Return the moments in the form of :func:`padless.optim.build.optimizer_state`, fp32.

    Raises:
        RefusedError: a record is gone, short or damaged.
        OSError: it cannot be read.
    """
    wanted = dict(moments.tensors)
    if isinstance(moments.step, TensorOutline):
        wanted["step"] = moments.step
    tensors = read_tensors(path, outline, wanted)
    step = moments.step if isinstance(moments.step, int) else int(tensors.pop("step"))
    by_name: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        by_name.setdefault(name, {})[moment] = tensor.to(torch.float32)
    return {"moments": by_name, "group_steps": {group: torch.tensor(step, dtype=torch.int32) for group in _GROUPS}}


def _step(of_parameter: Mapping[str, Any], groups: object) -> int | TensorOutline | None:
    """Return the counter, which torch keeps with each parameter and torch-optimi with each group."""
    first = groups[0] if isinstance(groups, list) and groups and isinstance(groups[0], dict) else {}
    for step in (of_parameter.get("step"), first.get("step")):
        if isinstance(step, TensorOutline) and step.shape in ((), (1,)):
            return step
        if isinstance(step, (int, float)):
            return int(step)
    return None
