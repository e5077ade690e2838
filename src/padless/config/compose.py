"""Hydra composition without a Hydra application, and Hydra's errors as ours.

The YAML tree stands beside ``train.py`` in the repository; padless is installed from it in editable mode
(``pip install -e .``), so its place is known from this file.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from padless.config.load import load_config, nearest_key
from padless.config.plain_yaml import composing_without_aliases
from padless.config.schema import Config
from padless.errors import ConfigError

YAML_FOLDER = Path(__file__).parents[3] / "yamls"
ROOT = "pretrain"
_NO_LOGGING = {"version": 1, "root": None, "disable_existing_loggers": False}
_HYDRA_OWN: dict[str, object] = {  # what of Hydra's own settings can name code, as yamls/pretrain.yaml leaves it
    "callbacks": {},
    "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
    "sweeper": {
        "_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "max_batch_size": None,
        "params": None,
    },
    "job_logging": _NO_LOGGING,
    "hydra_logging": _NO_LOGGING,
}
_SEE_KEYS = "see the keys with: python train.py --cfg job"


def compose(overrides: Sequence[str]) -> Config:
    """Return the configuration that ``python train.py <overrides>`` trains.

    Args:
        overrides: Hydra overrides such as ``recipe=modernbert_base`` or ``phases.context.lr.peak=1e-4``.

    Raises:
        ConfigError: an override or the resulting tree is wrong; the remedy names the nearest valid key or choice.
    """
    return load_config(compose_tree(overrides))


def compose_tree(overrides: Sequence[str]) -> DictConfig:
    """Return the composed tree as it is, before it is typed: what is still to be given is ``???``.

    Args:
        overrides: as for :func:`compose`.

    Raises:
        ConfigError: an override is wrong.
    """
    if not (YAML_FOLDER / f"{ROOT}.yaml").exists():
        raise ConfigError(f"no configuration tree at {YAML_FOLDER}", "install from a checkout: pip install -e .")
    try:
        with initialize_config_dir(str(YAML_FOLDER), version_base="1.3"):
            return _compose_tree(overrides)
    except YAMLError as error:
        raise ConfigError(f"a YAML file cannot be read: {' '.join(str(error).split())}", "mend that line") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _as_config_error(error, overrides) from None


def _compose_tree(overrides: Sequence[str]) -> DictConfig:
    with composing_without_aliases():
        tree = hydra_compose(ROOT, overrides=list(overrides), return_hydra_config=True)
    _refuse_calls(tree.hydra)
    OmegaConf.set_struct(tree, False)
    del tree["hydra"]
    return tree


def _refuse_calls(hydra: DictConfig) -> None:
    """Refuse a tree in which Hydra itself would call what a file names: a recipe may come from a stranger."""
    for name, own in _HYDRA_OWN.items():
        found = OmegaConf.to_container(hydra[name], resolve=False)
        if found != own:
            raise ConfigError(
                f"hydra.{name}={found!r:.200} would have Hydra call what it names",
                "remove it from the YAML file or the command line that sets it; padless has no use for it",
            )


def _as_config_error(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Return the error in our form: cause, and the nearest thing that would have worked."""
    message = str(error)
    first = message.splitlines()[0].rstrip(".")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        choices = list(error.options or [])
        nearest = nearest_key(name, choices)
        hint = f"did you mean {group}={nearest}? " if nearest else ""
        return ConfigError(f"there is no {group} called {name!r}", f"{hint}available: {', '.join(choices)}")
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown:
        return _unknown_key(unknown.group(1), overrides)
    if isinstance(error, OverrideParseException):
        text = str(error.override)
        return ConfigError(f"cannot read the override {text!r}", "write key=value; quote values with spaces or braces")
    cause = f": {str(error.__cause__).splitlines()[0]}" if error.__cause__ else ""
    return ConfigError(f"{first}{cause}", _SEE_KEYS)


def _unknown_key(key: str, overrides: Sequence[str]) -> ConfigError:
    """Name the valid key nearest to ``key`` among those of the tree without the wrong override."""
    kept = [item for item in overrides if item.lstrip("+~").split("=")[0].split("@")[0] != key]
    try:
        with initialize_config_dir(str(YAML_FOLDER), version_base="1.3"):
            valid = [*_all_keys(_compose_tree(kept)), *_groups()]
    except (HydraException, OmegaConfBaseException):
        valid = _groups()
    parent, _, _ = key.rpartition(".")
    siblings = [name for name in valid if name.rpartition(".")[0] == parent]
    nearest = nearest_key(key, siblings) or nearest_key(key, valid)
    hint = f"did you mean {nearest}? " if nearest else ""
    hints = []
    if siblings:
        names = dict.fromkeys(name.rpartition(".")[2] for name in siblings)
        hints.append(f"keys of {parent or 'the root'}: {', '.join(names)}")
    if parent in ("data.streams", "phases") or parent.startswith("data.streams.") or parent.endswith(".streams"):
        hints.append(f"to add it: +{key}=...")
    return ConfigError(f"unknown setting {key}", hint + "; ".join(hints) or _SEE_KEYS)


def _all_keys(tree: DictConfig) -> list[str]:
    """Return the full names of all keys, sections included."""
    found: list[str] = []
    stack = [("", OmegaConf.to_container(tree, resolve=False))]
    while stack:
        prefix, section = stack.pop()
        if isinstance(section, dict):
            names = [f"{prefix}.{key}" if prefix else str(key) for key in section]
            found += names
            stack += list(zip(names, section.values(), strict=True))
    return found


def _groups() -> list[str]:
    return sorted(entry.name for entry in YAML_FOLDER.iterdir() if entry.is_dir())
