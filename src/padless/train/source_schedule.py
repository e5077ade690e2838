"""Whether the weights that a run continues from are annealed, as far as that is known.

A decayed learning rate gains its loss by settling into a place that a re-warmed rate leaves again at once, so an
earlier checkpoint is the better source. What is known, and from what:

    a checkpoint of a run                the run's config.yaml and the checkpoint's sidecar beside it
    a folder that padless exported       lr_share in its padless.json
    a folder that padless imported       the published model that its padless.json says it is
    a name of a published model          its stage: @stable and @extended come before the decay, all others after
    anything else                        nothing, and that is said
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padless.checkpoint.sidecar import read_sidecar
from padless.config.schema import Config
from padless.config.stored import read_stored_yaml
from padless.errors import CheckpointError, ConfigError
from padless.export.known_models import KNOWN, HubSource, hub_source
from padless.export.source import ResolvedSource
from padless.run_files import CONFIG
from padless.schedule.decay import ANNEALED_BELOW, lr_share_at

_MAX_BYTES = 1 << 20
_BEFORE_DECAY = ("@stable", "@extended")


@dataclass(frozen=True)
class SourceSchedule:
    """What is known of a source's learning rate.

    Attributes:
        lr_share: at its last step, over its phase's peak; None if not known.
        phase: of the run it comes from, if known.
        earlier: what to take instead, if it is known.
    """

    lr_share: float | None
    phase: str | None = None
    earlier: str | None = None

    @property
    def is_annealed(self) -> bool:
        """Whether it is known to have decayed."""
        return self.lr_share is not None and self.lr_share < ANNEALED_BELOW


def schedule_of(source: ResolvedSource) -> SourceSchedule:
    """Return what is known of the learning rate of a source."""
    published = _published_name(source.hub)
    if published is not None:
        return _of_published(published)
    return _of_export(source.path) if source.path.is_dir() else _of_checkpoint(source.path)


def schedule_line(schedule: SourceSchedule, keeps_moments: bool, key: str = "start.source") -> str | None:
    """Return the line that a continued run says of its source; None where there is nothing to say.

    Args:
        schedule: from :func:`schedule_of`.
        keeps_moments: whether the optimizer's moments are kept, which re-warms nothing.
        key: the setting that names the source.
    """
    if schedule.lr_share is None:
        return "whether the source is annealed is not known; weights from before a decay continue better"
    if not schedule.is_annealed:
        return None
    where = f" in phase {schedule.phase!r}" if schedule.phase else ""
    raised = "raising it again" if keeps_moments else "re-warming it"
    better = f": {key}={schedule.earlier}" if schedule.earlier else ""
    return (
        f"the source is annealed: its learning rate came down to {schedule.lr_share:.3g} of its peak{where}; {raised} "
        f"loses what that gained, and a checkpoint from before the decay continues better{better}"
    )


def _published_name(hub: HubSource | None) -> str | None:
    return next((name for name, known in KNOWN.items() if known == hub), None)


def _published_parent(imported_from: Any) -> str | None:
    """Return the short name of what an imported folder came from, if it came from the hub."""
    name = imported_from.partition(" (")[0] if isinstance(imported_from, str) else ""
    try:
        return _published_name(hub_source(name)) if name else None
    except CheckpointError:
        return None


def _of_published(name: str) -> SourceSchedule:
    if name.endswith(_BEFORE_DECAY):
        return SourceSchedule(1.0)
    earlier = f"{name.partition('@')[0]}{_BEFORE_DECAY[-1]}"
    return SourceSchedule(0.0, None, earlier if earlier in KNOWN else None)


def _of_export(folder: Path) -> SourceSchedule:
    facts = _read_json(folder / "padless.json")
    share, phase = facts.get("lr_share"), facts.get("phase")
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        parent = _published_parent(facts.get("imported_from"))
        return _of_published(parent) if parent is not None else SourceSchedule(None)
    run_folder = folder.parent
    config = _config_of(run_folder)
    earlier = _newest_before_decay(run_folder, config) if config else None
    return SourceSchedule(float(share), phase if isinstance(phase, str) else None, earlier)


def _of_checkpoint(path: Path) -> SourceSchedule:
    run_folder = path.resolve().parent.parent.parent
    config = _config_of(run_folder)
    try:
        sidecar = read_sidecar(path.with_suffix(".json"))
    except CheckpointError:
        return SourceSchedule(None)
    if config is None or sidecar.phase not in config.phase_order:
        return SourceSchedule(None)
    share = lr_share_at(config, sidecar.phase, sidecar.clock_tokens)
    return SourceSchedule(share, sidecar.phase, _newest_before_decay(run_folder, config))


def _config_of(run_folder: Path) -> Config | None:
    try:
        return read_stored_yaml(run_folder / CONFIG) if (run_folder / CONFIG).is_file() else None
    except ConfigError:
        return None


def _newest_before_decay(run_folder: Path, config: Config) -> str | None:
    """Return the run's last checkpoint whose learning rate has not come down, if it is there."""
    found: list[tuple[int, Path]] = []
    for path in run_folder.glob("checkpoints/*/*.json"):
        try:
            sidecar = read_sidecar(path)
        except CheckpointError:
            continue
        is_of_run = sidecar.phase in config.phase_order and path.with_suffix(".pt").is_file()
        if is_of_run and lr_share_at(config, sidecar.phase, sidecar.clock_tokens) >= ANNEALED_BELOW:
            found.append((sidecar.clock_tokens, path.with_suffix(".pt")))
    return str(max(found)[1]) if found else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
