"""Numbers of a config that comes from elsewhere: of the right kind and within what a model can have, or named.

JSON and YAML let NaN, text, ``true`` and 64.7 stand where a number belongs. None of them is rounded or replaced: what
is not there has its default, what is there must be usable.
"""

import math
from collections.abc import Mapping
from typing import Any

from padless.errors import ModelError

_REMEDY = "correct it there, or download the file again"


def number(config: Mapping[str, Any], key: str, default: float | None, where: str) -> float:
    """Return a finite number.

    Args:
        config: the settings.
        key: the one wanted.
        default: what it is where it is not there; None if it must be.
        where: where they were read, for messages.

    Raises:
        ModelError: it is missing, no number, or not finite.
    """
    value = _present(config, key, default, where)
    if type(value) not in (int, float):
        raise ModelError(f"{where} has {key}={value!r:.60}, not a number", _REMEDY)
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise ModelError(f"{where} has {key}={as_float}, not a finite number", _REMEDY)
    return as_float


def positive(config: Mapping[str, Any], key: str, default: float | None, where: str) -> float:
    """Return a number above 0.

    Raises:
        ModelError: it is none.
    """
    value = number(config, key, default, where)
    if value <= 0:
        raise ModelError(f"{where} has {key}={value:g}, which is not above 0", _REMEDY)
    return value


def share(config: Mapping[str, Any], key: str, default: float, where: str) -> float:
    """Return a dropout: from 0 up to, but not, 1.

    Raises:
        ModelError: it is none.
    """
    value = number(config, key, default, where)
    if not 0 <= value < 1:
        raise ModelError(f"{where} has {key}={value:g}, which is not from 0 up to 1", _REMEDY)
    return value


def whole(config: Mapping[str, Any], key: str, default: int | None, where: str, least: int) -> int:
    """Return a whole number of at least ``least``; nothing is rounded.

    Raises:
        ModelError: it is missing, not whole, or less.
    """
    value = _present(config, key, default, where)
    if type(value) is not int:
        raise ModelError(f"{where} has {key}={value!r:.60}, not a whole number", _REMEDY)
    if value < least:
        raise ModelError(f"{where} has {key}={value}, at least {least} is needed", _REMEDY)
    return value


def _present(config: Mapping[str, Any], key: str, default: float | None, where: str) -> Any:
    value = config.get(key) if default is None else config.get(key, default)
    if value is None and default is None:
        raise ModelError(f"{where} lacks {key}", "export the model again with save_pretrained")
    return value
