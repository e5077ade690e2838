"""The rules of a run's first weights: random, tiled, continued at clock 0, or branched off a run at its clock."""

from padless.config.schema import Config, InitConfig, StartConfig
from padless.errors import ConfigError

KEEPS = (("weights",), ("weights", "optimizer"), ("weights", "optimizer", "clock"))


def check_beginning(config: Config) -> None:
    """Check ``init`` and ``start``.

    Raises:
        ConfigError: both give the first weights, a source is missing, or a setting would have no effect.
    """
    init, start = config.init, config.start
    if init.kind == "tiled":
        _check_tiled(config)
    else:
        _check_random(init)
    if init.kind == "tiled" and start.source is not None:
        raise ConfigError(
            f"init=tiled and start.source={start.source!r} both give the first weights",
            "use init=tiled to grow a smaller model, or start.source to continue one of this shape",
        )
    _check_keep(start)


def _check_random(init: InitConfig) -> None:
    if init.source is not None:
        raise ConfigError(f"init.source={init.source!r} has no effect with init.kind=random", "use init=tiled")
    if init.allow_theta_change:
        raise ConfigError("init.allow_theta_change=true has no effect with init.kind=random", "remove it")
    without_effect = {
        "scale": (init.scale, "fan_in"),
        "mode": (init.mode, "wrap"),
        "layer_map": (init.layer_map, None),
        "repeated_layers": (init.repeated_layers, "copied"),
        "symmetry_noise_std": (init.symmetry_noise_std, 0.0),
        "tile_moments": (init.tile_moments, False),
    }
    for name, (value, default) in without_effect.items():
        if value != default:
            raise ConfigError(f"init.{name}={_text(value)} has no effect without init=tiled", "remove it")


def _check_tiled(config: Config) -> None:
    init, num_layers = config.init, config.model.num_layers
    if init.source is None:
        raise ConfigError("init=tiled has no source", "set init.source=<checkpoint file or Hugging Face folder>")
    if not 0 <= init.symmetry_noise_std <= 1:
        raise ConfigError(
            f"init.symmetry_noise_std={init.symmetry_noise_std:g} is not a share of a tensor's own deviation",
            "use a value from 0 (off) to 1, e.g. 0.1",
        )
    if init.mode == "centre" and init.scale != "fan_in":
        raise ConfigError(
            f"init.scale={init.scale} has no effect with init.mode=centre, which duplicates nothing",
            "remove it, or use init.mode=wrap",
        )
    if init.mode == "centre" and init.symmetry_noise_std > 0:
        raise ConfigError(
            f"init.symmetry_noise_std={init.symmetry_noise_std:g} has no effect with init.mode=centre, which "
            "duplicates nothing",
            "remove it, or use init.mode=wrap",
        )
    if init.layer_map is not None and len(init.layer_map) != num_layers:
        raise ConfigError(
            f"init.layer_map has {len(init.layer_map)} entries, the model {num_layers} layers",
            "give the source layer of each layer, or null for the default map",
        )


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


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
