"""``key=value`` arguments for the scripts in ``data_prep/``: the keys are a function's parameters, and nothing else."""

import difflib
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from padless.errors import ConfigError, PadlessError

NOT_FROM_A_COMMAND_LINE = ("console", "settings")


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(function)
    return {name: entry for name, entry in signature.parameters.items() if name not in NOT_FROM_A_COMMAND_LINE}


def parse_arguments(function: Callable[..., Any], argv: Sequence[str]) -> dict[str, Any]:
    """Return keyword arguments for ``function`` from ``key=value`` words, converted to the parameters' types.

    Understood are text, whole numbers (``8_192``), fractions, true/false, ``null`` and lists (``1024,8192``).

    Raises:
        ConfigError: a word is not key=value, a key is unknown, given twice or missing, or a value has another type.
    """
    parameters = _parameters(function)
    values: dict[str, Any] = {}
    for word in argv:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not key=value", f"keys are {', '.join(parameters)}")
        if key not in parameters:
            nearest = difflib.get_close_matches(key, parameters, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown key {key!r}", f"did you mean {nearest}? keys are {', '.join(parameters)}")
        if key in values:
            raise ConfigError(f"key {key!r} is given twice", "give it once")
        values[key] = _convert(key, text, str(parameters[key].annotation))
    for name, entry in parameters.items():
        if entry.default is inspect.Parameter.empty and name not in values:
            raise ConfigError(f"{name} is missing", f"give {name}=...")
    return values


def _convert(key: str, text: str, annotation: str) -> Any:
    if text == "null" and "None" in annotation:
        return None
    try:
        if "Sequence[int]" in annotation:
            return tuple(int(part) for part in text.strip("[]()").split(",") if part.strip())
        if "bool" in annotation:
            return {"true": True, "false": False}[text.lower()]
        if "int" in annotation:
            return int(text)
        if "float" in annotation:
            return float(text)
    except (ValueError, KeyError):
        kinds = {"Sequence": "whole numbers such as 1024,8192", "bool": "true or false", "int": "a whole number"}
        kind = next((words for name, words in kinds.items() if name in annotation), "a number")
        raise ConfigError(f"{key}={text} is not understood", f"give {kind}") from None
    return text


def run_script(function: Callable[..., Any], argv: Sequence[str]) -> int:
    """Call ``function`` with ``key=value`` words and return the exit code: 0 done, 2 the user's to mend."""
    if any(word in ("-h", "--help") for word in argv):
        _print_help(function)
        return 0
    try:
        function(**parse_arguments(function, argv))
    except PadlessError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; the same command goes on from here", highlight=False)
        return 130
    return 0


def _print_help(function: Callable[..., Any]) -> None:
    keys = [
        f"{name}=..." if entry.default is inspect.Parameter.empty else f"[{name}={entry.default}]"
        for name, entry in _parameters(function).items()
    ]
    text = f"python {sys.argv[0]} {' '.join(keys)}\n\n{inspect.getdoc(function)}"
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
