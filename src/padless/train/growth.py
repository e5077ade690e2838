"""The growth a run begins with: the smaller model it is tiled from, and what later starts of the run know of it.

init.source -> shape, weights, moments -> plan of the growth -> judged before any data is opened (first start only)
                                       -> and with the data's tokenizer -> TiledInit
growth.json in the run folder          -> distances of twins at every validation (every start)
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from padless.checkpoint.named import whole_checkpoints
from padless.config.schema import Config, ModelConfig
from padless.data.durable import write_durably
from padless.errors import CheckpointError, PadlessError
from padless.export.importer import LoadedSource
from padless.model.growth import Growth, plan_growth
from padless.model.masked_lm import MaskedLM
from padless.model.twins import twin_distances
from padless.run_files import GROWTH
from padless.schedule.phases import PhasePlan, plan_phases
from padless.train.handover import check_theta, check_tokenizer, load_source


@dataclass(frozen=True)
class GrowthSource:
    """What a run grows from."""

    loaded: LoadedSource
    moments: dict[str, Any] | None  # the source's optimizer state; None where it is not to be tiled
    growth: Growth


def judge_growth(config: Config, run_folder: Path) -> None:
    """Refuse a growth that cannot be, before any data is opened; where the run has a checkpoint, it has grown already.

    Raises:
        CheckpointError: there is no such source, or its moments are asked for and it has none.
        ModelError: another theta, a weight that is not finite, or sizes and layers that cannot be tiled.
    """
    if config.init.kind == "tiled" and not whole_checkpoints(run_folder):
        _read_source(config, plan_phases(config)[0])


def open_growth(config: Config, first_phase: PhasePlan, tokenizer_sha256: str) -> GrowthSource:
    """Return the source of ``init=tiled``, judged against the model that is to grow from it.

    Raises:
        CheckpointError: as :func:`judge_growth`.
        ModelError: as :func:`judge_growth`, or another tokenizer than the data's.
    """
    source = _read_source(config, first_phase)
    check_tokenizer(source.loaded, config.init.source or "", tokenizer_sha256)
    return source


def _read_source(config: Config, first_phase: PhasePlan) -> GrowthSource:
    init = config.init
    source = init.source or ""
    loaded, moments = load_source(source)
    check_theta(loaded, first_phase, init.allow_theta_change)
    thetas = (loaded.rope, first_phase.phase.rope)
    growth = plan_growth(
        loaded.model_config,
        config.model,
        init.scale,
        init.mode,
        init.layer_map,
        may_cross_kinds=all(rope.global_theta == rope.local_theta for rope in thetas),
        repeated=init.repeated_layers,
    )
    if init.tile_moments and moments is None:
        raise CheckpointError(
            f"init.tile_moments=true, but {source} has no optimizer moments",
            "give a checkpoint from a padless run's checkpoints/ folder, or set init.tile_moments=false",
        )
    return GrowthSource(loaded, moments if init.tile_moments else None, growth)


def write_growth(folder: Path, growth: Growth, facts: dict[str, Any]) -> None:
    """Write how the run's model was grown, with what was found right after, into its folder."""
    plain = {
        "source_model": asdict(growth.source),
        "scale": growth.scale,
        "mode": growth.mode,
        "layer_map": list(growth.layer_map),
        **facts,
    }
    write_durably(folder / GROWTH, (json.dumps(plain, indent=1) + "\n").encode())


def read_growth(folder: Path, target: ModelConfig) -> Growth | None:
    """Return how the run in ``folder`` was grown, but for silent layers; None where nothing says so.

    Raises:
        CheckpointError: the file that says so is damaged.
    """
    path = folder / GROWTH
    if not path.is_file():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        source = ModelConfig(**plain["source_model"])
        return plan_growth(source, target, plain["scale"], plain["mode"], plain["layer_map"], may_cross_kinds=True)
    except PadlessError as error:
        raise _damaged(path, error.cause) from error
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} does not say how the run was grown: {what.splitlines()[0][:120]}",
        "restore it from a backup; without it, training goes on and distances of twins are not measured",
    )


def watch_twins(
    config: Config, folder: Path, model: MaskedLM, own: GrowthSource | None, say: Callable[[str], None]
) -> Callable[[], dict[str, float]] | None:
    """Return what measures the distances of twins for a line of validation; None where the run was not grown.

    Args:
        config: the run's.
        folder: the run's, where an earlier start has said how the model was grown.
        model: the one in training.
        own: the source, on the first start.
        say: is told where that cannot be read.
    """
    if config.init.kind != "tiled":
        return None
    try:
        growth = own.growth if own is not None else read_growth(folder, config.model)
    except CheckpointError as error:
        say(f"note: {error.cause}; {error.remedy}")
        return None
    if growth is None or not growth.has_copies:
        return None

    def measure() -> dict[str, float]:
        distances = twin_distances(model.state_dict(), growth)
        return {f"eval_twin_distance_{kind}": round(value, 6) for kind, value in distances.items()}

    return measure
