"""The rules of what a run keeps and how it is guarded: checkpoints, shard caches, bad steps, accepted changes."""

import dataclasses

from padless.config.load import nearest_key
from padless.config.schema import Config, GuardConfig
from padless.errors import ConfigError

_FIXED = ("model", "init", "start", "phase_order", "data.block_tokens")
_FIXED_IN_PHASES = ("tokens", "batch", "rope", "max_seq_len")


def check_keeping(config: Config) -> None:
    """Check retention, the cache limit, the guard and ``run.accept_changes``.

    Raises:
        ConfigError: a setting would delete an only copy, would have no effect, or is impossible.
    """
    newest = config.run.keep_newest_checkpoints
    if newest is not None and newest < 1:
        raise ConfigError(
            f"run.keep_newest_checkpoints={newest} would delete the checkpoint a resume needs", "use 1 or more, or null"
        )
    for name, phase in config.phases.items():
        kept, saved = phase.keep_every_tokens, phase.save_every_tokens
        if kept is not None and (kept <= 0 or kept % saved):
            raise ConfigError(
                f"phases.{name}.keep_every_tokens={kept:_} is not a multiple of save_every_tokens={saved:_}",
                f"use e.g. {max(1, kept // saved) * saved:_}",
            )
        if kept is not None and newest is None:
            raise ConfigError(
                f"phases.{name}.keep_every_tokens={kept:_} has no effect with run.keep_newest_checkpoints=null",
                "remove it, or say how many of the others are kept",
            )
    _check_cache(config)
    _check_guard(config.guard)
    for change in config.run.accept_changes:
        _check_setting_exists(config, change)
        if not may_be_accepted(change):
            raise ConfigError(
                f"run.accept_changes names {change}, and a run cannot go on with another value of it",
                "choose another run.name for a new run, or start.source=<checkpoint> to branch off",
            )


def may_be_accepted(setting: str) -> bool:
    """Return whether a run can go on with another value of ``setting``: not if weights or clock meant another thing."""
    parts = setting.split(".")
    if parts[0] in ("phases", "branches"):
        return len(parts) > 2 and parts[2] not in _FIXED_IN_PHASES
    return not any(setting == fixed or setting.startswith(f"{fixed}.") for fixed in _FIXED) or "dropout" in parts[-1]


def _check_setting_exists(config: Config, setting: str) -> None:
    here: object = config
    for depth, part in enumerate(setting.split(".")):
        if dataclasses.is_dataclass(here):
            names = [field.name for field in dataclasses.fields(here)]
        elif isinstance(here, dict):
            names = list(here)
        else:
            names = []
        is_last = depth == setting.count(".")
        if part not in names and not (isinstance(here, dict) and is_last):  # a stream may have been taken out since
            parent = setting.rpartition(f".{part}")[0] if depth else ""
            nearest = nearest_key(part, names)
            hint = f"did you mean {f'{parent}.' if parent else ''}{nearest}? " if nearest else ""
            raise ConfigError(
                f"run.accept_changes names {setting}, which is no setting", f"{hint}use a name as the refusal gives it"
            )
        here = here.get(part) if isinstance(here, dict) else getattr(here, part)


def _check_cache(config: Config) -> None:
    limit = config.data.cache_limit_bytes
    if limit is None:
        return
    if limit <= 0:
        raise ConfigError(f"data.cache_limit_bytes={limit} is not above 0", "give bytes, or null")
    local_only = [name for name, stream in config.data.streams.items() if stream.remote is None]
    if local_only:
        raise ConfigError(
            f"data.cache_limit_bytes={limit:_} would delete shards of stream {local_only[0]!r}, which has no remote: "
            "they are the only copy",
            "set it to null, or give every stream a remote",
        )


def _check_guard(guard: GuardConfig) -> None:
    for key in ("window_steps", "max_in_a_row"):
        if getattr(guard, key) < 1:
            raise ConfigError(f"guard.{key}={getattr(guard, key)} is less than 1", "use 1 or more")
    if guard.window_steps < 8:
        raise ConfigError(f"guard.window_steps={guard.window_steps} is less than 8, too few for a median", "use 64")
    for key in ("spike_deviations", "spike_min_nats"):
        if getattr(guard, key) <= 0:
            raise ConfigError(f"guard.{key}={getattr(guard, key):g} is not above 0", "10 and 0.5 are good values")
