"""The growth a run begins with: the smaller model it is tiled from, and what later starts of the run know of it.

init.source -> shape, weights, moments -> plan of the growth -> TiledInit (first start only)
growth.json in the run folder          -> distances of twins at every validation (every start)
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from padless.config.schema import Config, ModelConfig
from padless.data.durable import write_durably
from padless.errors import CheckpointError, PadlessError
from padless.export.importer import LoadedSource
from padless.model.growth import Growth, plan_growth
from padless.model.masked_lm import MaskedLM
from padless.model.twins import twin_distances
from padless.schedule.phases import PhasePlan
from padless.train.handover import check_theta, check_tokenizer, load_source

_FILE = "growth.json"


@dataclass(frozen=True)
class GrowthSource:
    """What a run grows from."""

    loaded: LoadedSource
    moments: dict[str, Any] | None  # the source's optimizer state; None where it is not to be tiled
    growth: Growth


def open_growth(config: Config, first_phase: PhasePlan, tokenizer_sha256: str) -> GrowthSource:
    """Return the source of ``init=tiled``, judged against the model that is to grow from it.

    Raises:
        CheckpointError: there is no such source, or its moments are asked for and it has none.
        ModelError: another tokenizer or theta, or sizes and layers that cannot be tiled.
    """
    init = config.init
    source = init.source or ""
    loaded, moments = load_source(source)
    check_tokenizer(loaded, source, tokenizer_sha256)
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
    write_durably(folder / _FILE, (json.dumps(plain, indent=1) + "\n").encode())


def read_growth(folder: Path, target: ModelConfig) -> Growth | None:
    """Return how the run in ``folder`` was grown, but for silent layers; None where nothing whole says so."""
    try:
        plain = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        source = ModelConfig(**plain["source_model"])
        return plan_growth(source, target, plain["scale"], plain["mode"], plain["layer_map"], may_cross_kinds=True)
    except (OSError, ValueError, KeyError, TypeError, PadlessError):
        return None


def watch_twins(
    config: Config, folder: Path, model: MaskedLM, own: GrowthSource | None
) -> Callable[[], dict[str, float]] | None:
    """Return what measures the distances of twins for a line of validation; None where the run was not grown.

    Args:
        config: the run's.
        folder: the run's, where an earlier start has said how the model was grown.
        model: the one in training.
        own: the source, on the first start.
    """
    if config.init.kind != "tiled":
        return None
    growth = own.growth if own is not None else read_growth(folder, config.model)
    if growth is None or not growth.has_copies:
        return None

    def measure() -> dict[str, float]:
        distances = twin_distances(model.state_dict(), growth)
        return {f"eval_twin_distance_{kind}": round(value, 6) for kind, value in distances.items()}

    return measure
