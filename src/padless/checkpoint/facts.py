"""The facts in a checkpoint, judged before anybody relies on them: a stranger or another version may have written them.

A checkpoint that is whole as a file can still say nonsense of itself. Here every fact that a resume, a branch, a
continued run or an export uses has its type and range checked, and the weights are those of the config beside them.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from padless.checkpoint.contents import Checkpoint
from padless.checkpoint.load import load_checkpoint
from padless.config.schema import Config
from padless.config.stored import load_stored
from padless.errors import CheckpointError, ConfigError, ModelError
from padless.model.tensor_shapes import check_state_dict

_REMEDY = "give a checkpoint that a padless run wrote"
_MOST_BLOCKS = 1 << 62


def open_checkpoint(path: Path) -> tuple[Checkpoint, Config]:
    """Return a checkpoint, and the configuration it was trained with, after checking that it makes sense.

    Raises:
        CheckpointError: it cannot be read, or a fact is missing or is not what it should be.
    """
    saved = load_checkpoint(path)
    facts = saved.meta
    for name, (is_right, words) in _FACTS.items():
        if not is_right(facts.get(name, _DEFAULTS.get(name))):
            found = f"{name}={facts[name]!r:.60}" if name in facts else f"no {name}"
            raise CheckpointError(f"{path} has {found}, where {words} belongs", _REMEDY)
    try:
        config = load_stored(facts["config"])
        check_state_dict(saved.model, config.model, "its weights")
    except (ConfigError, ModelError) as error:
        raise CheckpointError(f"{path}: {error.cause}", _REMEDY) from error
    if facts["phase"] not in config.phases:
        raise CheckpointError(
            f"{path} is from phase {facts['phase']!r}, its config has {', '.join(config.phase_order)}", _REMEDY
        )
    return saved, config


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def is_stretch(value: Any) -> bool:
    """Return whether ``value`` is a stretch of blocks left out: phase, first block, number of blocks."""
    if type(value) not in (list, tuple) or len(value) != 3 or type(value[0]) is not str:
        return False
    first, count = value[1:]
    return type(first) is int and type(count) is int and 0 <= first < _MOST_BLOCKS and 0 < count < _MOST_BLOCKS


def _is_list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: type(value) in (list, tuple) and all(is_right(each) for each in value)


def _is_text_by_name(value: Any) -> bool:
    return type(value) is dict and all(type(each) is str for each in value.values())


def _is_loss_scale(value: Any) -> bool:
    if type(value) not in (list, tuple) or len(value) != 2:
        return False
    factor, good_steps = value
    return _is_number(factor) and factor >= 1 and type(good_steps) is int and good_steps >= 0


def _is_parent(value: Any) -> bool:
    return type(value) is dict and type(value.get("path")) is str and _is_number(value.get("share"))


_DEFAULTS: dict[str, Any] = {  # earlier versions had none of these
    "skipped": [],
    "recent_losses": [],
    "eval_loss": None,
    "loss_scale": None,
    "merged_from": [],
}
_FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "config": (lambda value: type(value) is dict, "a configuration"),
    "data": (_is_text_by_name, "a hash by stream"),
    "tokenizer_sha256": (lambda value: type(value) is str and len(value) == 64, "a SHA-256"),
    "tokenizer_folder": (lambda value: type(value) is str, "a folder"),
    "train_seconds": (lambda value: _is_number(value) and value >= 0, "a number of seconds"),
    "eval_loss": (lambda value: value is None or _is_number(value), "a loss"),
    "skipped": (_is_list_of(is_stretch), "a list of blocks left out"),
    "recent_losses": (_is_list_of(_is_number), "a list of losses"),
    "loss_scale": (lambda value: value is None or _is_loss_scale(value), "a loss scale and its good steps"),
    "merged_from": (_is_list_of(_is_parent), "a list of merged checkpoints"),
}
