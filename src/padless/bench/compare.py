"""Are two runs the same run? Figures of every step and the last checkpoint, to the last bit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from padless.bench.figures import newest_whole, read_figures
from padless.checkpoint import load_checkpoint

STEP_KEYS = (
    "tokens", "step", "phase", "loss", "grad_norm", "lr", "batch_blocks", "mask_rate", "blocks", "real_tokens",
)  # fmt: skip


def differences(expected: Path, found: Path) -> list[str]:
    """Return where the run in ``found`` differs from the one in ``expected``, one line each; empty if it is equal."""
    return [*figure_differences(read_figures(expected), read_figures(found)), *state_differences(expected, found)]


def figure_differences(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[str]:
    """Compare lines of metrics, times on the wall left out; the first difference of steps and its key are named."""
    for number, (line, other) in enumerate(zip(expected, found, strict=False), 1):
        wanted, got = _timeless(line), _timeless(other)
        for key in [*wanted, *(key for key in got if key not in wanted)]:
            if json.dumps(wanted.get(key)) != json.dumps(got.get(key)):
                place = f"metrics line {number} (step {line.get('step')})"
                return [f"{place}: {key} is {got.get(key)!r}, expected {wanted.get(key)!r}"]
    return [] if len(expected) == len(found) else [f"{len(found)} lines of metrics, expected {len(expected)}"]


def _timeless(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key in STEP_KEYS or key.startswith("eval_")}


def state_differences(expected: Path, found: Path) -> list[str]:
    """Compare clock, weights, moments and counters in the last checkpoints of two run folders."""
    (expected_tokens, expected_path), (found_tokens, found_path) = newest_whole(expected), newest_whole(found)
    if expected_path is None or found_path is None or expected_tokens != found_tokens:
        return [f"the last checkpoint is at {found_tokens:_} tokens, expected {expected_tokens:_}"]
    one, other = load_checkpoint(expected_path), load_checkpoint(found_path)
    wanted = {"model": one.model, "optimizer": one.optimizer}
    got = {"model": other.model, "optimizer": other.optimizer}
    return tree_differences(wanted, got, found_path.name)


def tree_differences(expected: Any, found: Any, path: str) -> list[str]:
    """Return the places where two trees of tensors and plain values differ in any bit."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if expected.keys() != found.keys():
            return [f"{path}: other keys, {sorted(map(str, expected.keys() ^ found.keys()))}"]
        return [line for key in expected for line in tree_differences(expected[key], found[key], f"{path}/{key}")]
    if isinstance(expected, Tensor) and isinstance(found, Tensor):
        return [] if _equal_bits(expected, found) else [f"{path}: bits differ"]
    return [] if type(expected) is type(found) and expected == found else [f"{path}: {found!r}, expected {expected!r}"]


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    as_bytes = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(as_bytes[0], as_bytes[1])
