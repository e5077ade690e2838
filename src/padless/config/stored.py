"""Configurations that are read back: from checkpoints and run folders, also those of earlier versions and strangers.

YAML here is data only: tags, aliases and files of more than 1 MB are refused, so reading runs no code and takes no more
memory than the file's size allows. Settings that a stored configuration is too old to know get the value that the
program had before the setting existed.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from padless.config.load import load_config
from padless.config.plain_yaml import without_aliases
from padless.config.schema import PROFILE_FROM_STEP, Config, InitConfig
from padless.errors import ConfigError

_MAX_BYTES = 1 << 20
_OLD_KEEP = {"weights": ["weights"], "weights_and_optimizer": ["weights", "optimizer"]}
_BEFORE = {
    "run": {
        "keep_newest_checkpoints": None,
        "accept_changes": [],
        "profile_steps": None,
        "profile_from_step": PROFILE_FROM_STEP,
        "branch": None,
    },
    "optimizer": {"kind": "stable_adamw"},
    "loss": {"z_loss": 0.0},
    "branches": {},
    "init": {
        "mode": "wrap",
        "layer_map": None,
        "repeated_layers": "copied",
        "symmetry_noise_std": 0.0,
        "tile_moments": False,
    },
    "data": {"verify": "off", "cache_limit_bytes": None},
    "hardware": {"rank_timeout_s": 600.0, "compile": "off"},
    "guard": {
        "on_non_finite": "stop",
        "on_spike": "report",
        "window_steps": 64,
        "spike_deviations": 10.0,
        "spike_min_nats": 0.5,
        "max_in_a_row": 5,
    },
}


def load_stored(tree: Mapping[str, Any]) -> Config:
    """Return the configuration that a run stored, from the plain form of :func:`padless.config.load.to_plain`.

    Raises:
        ConfigError: it has settings that this version does not know, or values of the wrong type.
    """
    plain = copy.deepcopy(dict(tree))
    for section, values in _BEFORE.items():
        if isinstance(plain.get(section, {}), dict):
            plain[section] = {**values, **plain.get(section, {})}
    for phase in plain.get("phases", {}).values() if isinstance(plain.get("phases"), dict) else ():
        if isinstance(phase, dict):
            phase.setdefault("keep_every_tokens", None)
    start = plain.get("start")
    if isinstance(start, dict) and isinstance(start.get("keep"), str):
        start["keep"] = _OLD_KEEP.get(start["keep"], start["keep"])
    return load_config(plain)


def random_init() -> InitConfig:
    """Return the settings of fresh weights; those of tiling are what they are where nobody asks for tiling."""
    values: dict[str, Any] = dict(_BEFORE["init"])
    return InitConfig(kind="random", source=None, scale="fan_in", allow_theta_change=False, **values)


_DataLoader = without_aliases(yaml.SafeLoader)  # no tags of any language either


def read_stored_yaml(path: Path) -> Config:
    """Return the configuration in a run's ``config.yaml``.

    Raises:
        ConfigError: missing, too large, not plain YAML, or not a configuration.
    """
    remedy = "give a run folder that padless wrote"
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise ConfigError(f"{path} has {size:_} bytes, a configuration has at most {_MAX_BYTES:_}", remedy)
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_DataLoader)  # a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{path} cannot be read: {reason}", remedy) from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is not a configuration", remedy)
    return load_stored(tree)
