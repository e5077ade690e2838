"""Loggers beside ``metrics.jsonl``: TensorBoard and wandb, by Composer's destinations, on one axis over all phases."""

import importlib.util
import os
import uuid
from pathlib import Path
from typing import Any

from composer.loggers import LoggerDestination, TensorboardLogger, WandBLogger

from padless.config.schema import Config
from padless.data.durable import write_durably
from padless.errors import ConfigError

_OWN_NAMES = ("padless/", "eval_")


class OwnFigures(LoggerDestination):
    """Lets through what padless logs, and not the clocks that Composer logs in every step (docs/log.md)."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Log the figures whose names are ours."""
        own = {name: value for name, value in metrics.items() if name.startswith(_OWN_NAMES)}
        if own:
            super().log_metrics(own, step)


class OwnTensorboard(OwnFigures, TensorboardLogger):
    """TensorBoard with our figures."""


class OwnWandB(OwnFigures, WandBLogger):
    """wandb with our figures."""


def build_loggers(config: Config, run_folder: Path, is_leader: bool) -> list[LoggerDestination]:
    """Return the destinations the config asks for.

    The wandb id is kept in the run folder, so that a resume continues the same curve. Only the leader logs: the other
    ranks' destinations stay silent and write no id.

    Raises:
        ConfigError: wandb is asked for and not installed.
    """
    loggers: list[LoggerDestination] = []
    if config.loggers.tensorboard:
        loggers.append(OwnTensorboard(log_dir=str(run_folder / "tensorboard"), flush_interval=100))
    if config.loggers.wandb_project is not None:
        os.environ["WANDB_MODE"] = config.loggers.wandb_mode
        if importlib.util.find_spec("wandb") is None:  # an extra
            raise ConfigError(
                f"loggers.wandb_project={config.loggers.wandb_project}, but wandb is not installed",
                'pip install "padless[wandb]", or unset loggers.wandb_project',
            )
        loggers.append(
            OwnWandB(
                project=config.loggers.wandb_project,
                name=config.run.name,
                init_kwargs={
                    "id": _wandb_id(run_folder) if is_leader else None,
                    "resume": "allow",
                    "dir": str(run_folder),
                },
            )
        )
    return loggers


def _wandb_id(run_folder: Path) -> str:
    path = run_folder / "wandb_id"
    if not path.exists():
        write_durably(path, uuid.uuid4().hex[:12].encode())
    return path.read_text().strip()
