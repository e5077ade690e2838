"""The one conversion from composed YAML to :class:`Config`, and back to plain data.

Strict both ways: every key of the tree must be a field of the dataclasses and every field must have a value of its
type. Nothing is corrected; an error names the full key, the value and what to write. ``data.streams.<name>.remote`` is
the one key that may be left out (None).
"""

import dataclasses
import difflib
import hashlib
import json
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from padless.config.schema import Config, StreamConfig
from padless.errors import ConfigError
from padless.units import format_tokens, parse_tokens

MISSING = "???"
_DEFAULTS: dict[type, dict[str, Any]] = {StreamConfig: {"remote": None}}


def load_config(tree: DictConfig | Mapping[str, Any]) -> Config:
    """Return the typed configuration of a composed tree (or of a plain dict from :func:`to_plain`).

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type, an unresolvable ``${...}``.
    """
    if isinstance(tree, DictConfig):
        try:
            tree = cast("Mapping[str, Any]", OmegaConf.to_container(tree, resolve=True, throw_on_missing=False))
        except OmegaConfBaseException as error:
            first = str(error).splitlines()[0]
            raise ConfigError(f"the configuration does not resolve: {first}", "mend the ${...} it names") from None
    missing = missing_values(tree)
    if len(missing) > 1:
        raise ConfigError(
            f"{', '.join(missing)} have no value", f"give each one, e.g. {missing[0]}=... {missing[1]}=..."
        )
    return cast("Config", _dataclass(Config, tree, ""))


def missing_values(tree: Any, path: str = "") -> list[str]:
    """Return the full names of all values of a plain tree that are still to be given."""
    if isinstance(tree, Mapping):
        return [name for key, item in tree.items() for name in missing_values(item, _join(path, key))]
    return [path] if isinstance(tree, str) and tree == MISSING else []


def to_plain(config: Config) -> dict[str, Any]:
    """Return the configuration as JSON-able dicts, lists and numbers; :func:`load_config` reads it back equal."""
    return cast("dict[str, Any]", _lists(dataclasses.asdict(config)))


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML in the order of the dataclasses, large token counts as ``1.7T``."""
    return yaml.safe_dump(_readable(to_plain(config)), sort_keys=False, allow_unicode=True, width=120)


def results_part(config: Config) -> dict[str, Any]:
    """Return the settings that change what a run computes, as plain data.

    Left out: names and folders, where data lies, loader workers, loggers, hardware, intervals of checkpoints and
    evaluation, export, where a source of initial weights lies, and branches: each is a run with results of its own.
    """
    plain = to_plain(config)
    phases = {name: phase_results(plain["phases"][name]) for name in plain["phase_order"]}
    data = {key: plain["data"][key] for key in ("block_tokens", "shuffle", "num_canonical_nodes")}
    start = {"from_source": config.start.source is not None, "keep": list(config.start.keep)}
    return {
        "run": {"seed": config.run.seed},
        "model": plain["model"],
        "data": {**data, "streams": sorted(plain["data"]["streams"])},
        "phase_order": plain["phase_order"],
        "phases": phases,
        "optimizer": plain["optimizer"],
        "loss": plain["loss"],
        "init": {key: value for key, value in plain["init"].items() if key not in ("source", "allow_theta_change")},
        "start": start,
    }


def phase_results(phase: Mapping[str, Any]) -> dict[str, Any]:
    """Return a phase's settings that change what it computes, from its plain form."""
    free = {"save_every_tokens", "keep_every_tokens", "eval_every_tokens", "allow_short_documents"}
    return {key: value for key, value in phase.items() if key not in free}


def config_hash(config: Config) -> str:
    """Return 16 hex digits over :func:`results_part`: equal hashes train the same weights on the same data."""
    text = json.dumps(results_part(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def nearest_key(key: str, valid: Sequence[str]) -> str | None:
    """Return the valid key that ``key`` most likely meant, or None."""
    found = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return found[0] if found else None


def unknown_word(word: str, known: Sequence[str], remedy: str) -> ConfigError:
    """Return the error for a ``key=value`` word of a command line whose key is none of ``known``."""
    key, _, value = word.partition("=")
    nearest = nearest_key(key, known)
    hint = f", did you mean {nearest}={value}" if nearest else ""
    return ConfigError(f"unknown setting {word}{hint}", remedy)


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _readable(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _readable(item, name) for name, item in value.items()}
    is_large_count = isinstance(value, int) and _is_tokens(key) and value >= 10**6
    return format_tokens(value) if is_large_count else value


def _is_tokens(key: str) -> bool:
    return key == "tokens" or key.endswith("_tokens")


def _dataclass(kind: type, tree: Any, path: str) -> object:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path}={tree!r} is not a section", f"give it the keys {', '.join(_fields(kind))}")
    fields, hints = _fields(kind), get_type_hints(kind)
    for key in tree:
        if key not in fields:
            raise _unknown(_join(path, key), str(key), fields)
    values = {}
    for name in fields:
        full = _join(path, name)
        value = tree[name] if name in tree else _DEFAULTS.get(kind, {}).get(name, MISSING)
        values[name] = _value(hints[name], value, full)
    return kind(**values)


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _unknown(full: str, key: str, valid: Sequence[str]) -> ConfigError:
    nearest = nearest_key(key, valid)
    parent = full[: -len(key)]
    hint = f"did you mean {parent}{nearest}? " if nearest else ""
    return ConfigError(f"unknown setting {full}", f"{hint}remove it or use one of: {', '.join(valid)}")


def _value(hint: Any, value: Any, path: str) -> object:
    """Return ``value`` as the type ``hint`` of the field at ``path``."""
    if isinstance(value, str) and value == MISSING:
        raise ConfigError(f"{path} has no value", f"give one: {path}=...  ({_describe(hint, path)})")
    if dataclasses.is_dataclass(hint):
        return _dataclass(cast("type", hint), value, path)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return None if value is None else _value(inner, value, path)
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _value(arguments[1], item, _join(path, key)) for key, item in value.items()}
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_value(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if origin is Literal:
        return _choice(arguments, value, path)
    return _scalar(hint, value, path)


def _choice(known: tuple[Any, ...], value: Any, path: str) -> object:
    if value in known:
        return value
    words = list(map(str, known))
    nearest = nearest_key(str(value), words)
    hint = f"did you mean {nearest}? " if nearest else ""
    raise ConfigError(f"{path}={value!r} is none of {', '.join(words)}", f"{hint}write one of them")


def _scalar(hint: Any, value: Any, path: str) -> object:
    if hint is int and _is_tokens(path.rpartition(".")[2]) and isinstance(value, str | int | float):
        return _tokens(value, path)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{path}={value!r} has the wrong type", f"write {_describe(hint, path)}")


def _tokens(value: str | int | float, path: str) -> int:
    try:
        if isinstance(value, bool):
            raise ConfigError(f"{value!r} is not a number of tokens", 'write whole tokens such as 3_000 or "50B"')
        return parse_tokens(value if isinstance(value, str | int) else f"{value!r}")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.cause}", error.remedy) from None


def _describe(hint: Any, path: str) -> str:
    """Say in words what may stand at ``path``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return f"{_describe(inner, path)}, or null"
    if dataclasses.is_dataclass(hint):
        return f"the keys {', '.join(_fields(cast('type', hint)))}"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return "a list such as [a,b]"
    if origin is dict:
        return "a mapping of names such as {a: ...}"
    if hint is int and _is_tokens(path.rpartition(".")[2]):
        return 'whole tokens such as 3_000, "50B" or "1.7T"'
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[hint]
