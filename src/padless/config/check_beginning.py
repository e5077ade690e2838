"""The rules of a run's first weights: random, tiled, continued at clock 0, or branched off a run at its clock."""

from padless.config.schema import Config, StartConfig
from padless.errors import ConfigError

KEEPS = (("weights",), ("weights", "optimizer"), ("weights", "optimizer", "clock"))


def check_beginning(config: Config) -> None:
    """Check ``init`` and ``start``.

    Raises:
        ConfigError: both give the first weights, a source is missing, or a setting would have no effect.
    """
    init, start = config.init, config.start
    if init.kind == "tiled" and init.source is None:
        raise ConfigError("init=tiled has no source", "set init.source=<checkpoint file or Hugging Face folder>")
    if init.kind == "random" and init.source is not None:
        raise ConfigError(f"init.source={init.source!r} has no effect with init.kind=random", "use init=tiled")
    if init.kind == "random" and init.allow_theta_change:
        raise ConfigError("init.allow_theta_change=true has no effect with init.kind=random", "remove it")
    if init.kind == "random" and init.scale != "fan_in":
        raise ConfigError(f"init.scale={init.scale} has no effect without init=tiled", "remove it")
    if init.kind == "tiled" and start.source is not None:
        raise ConfigError(
            f"init=tiled and start.source={start.source!r} both give the first weights",
            "use init=tiled to grow a smaller model, or start.source to continue one of this shape",
        )
    _check_keep(start)


def _check_keep(start: StartConfig) -> None:
    if set(start.keep) not in [set(keep) for keep in KEEPS] or len(set(start.keep)) != len(start.keep):
        raise ConfigError(
            f"start.keep=[{','.join(start.keep)}] is not something a run can go on with",
            "use [weights], [weights,optimizer], or [weights,optimizer,clock] to branch off a run, its data going on",
        )
    if start.source is None and set(start.keep) != {"weights"}:
        raise ConfigError(
            f"start.keep=[{','.join(start.keep)}] has no effect without start.source", "set start.source or remove it"
        )
