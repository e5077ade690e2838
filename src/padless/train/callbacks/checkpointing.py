"""Save at every ``save_every_tokens`` of a phase and at its end."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from torch import Tensor, nn

from padless.checkpoint import Checkpoint, checkpoint_path, save_checkpoint
from padless.errors import TrainingError
from padless.train.callbacks.record import StepRecord, clock_tokens, is_due, step_number
from padless.train.optimizer import optimizer_state
from padless.train.world import World


class SaveCheckpoint(Callback):
    """Writes the full state on rank 0; the other ranks wait, so that none runs ahead of what is on disk.

    Args:
        record: the step record.
        model: the encoder with its head, unwrapped; its state has Hugging Face names.
        run_folder: folder of the run.
        meta: facts that every checkpoint of the phase carries (config, tokenizer folder, data hashes).
        config_hash: hash of what changes results.
        world: the ranks.
        end_tokens: clock at which fitting ends; a checkpoint is always written there.
        trained_s: seconds of training before this phase.
        say: prints one line.
    """

    def __init__(
        self,
        record: StepRecord,
        model: nn.Module,
        *,
        run_folder: Path,
        meta: dict[str, Any],
        config_hash: str,
        world: World,
        end_tokens: int,
        trained_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._record, self._model, self._run_folder, self._meta = record, model, run_folder, meta
        self._config_hash, self._world, self._end_tokens, self._say = config_hash, world, end_tokens, say
        self._began_s = time.perf_counter() - trained_s
        self.last_path: Path | None = None

    def batch_end(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Save if an interval was crossed or the phase has ended."""
        if is_due(self._record, state, self._record.plan.phase.save_every_tokens, self._end_tokens):
            self._save(state)

    def _save(self, state: State) -> None:
        phase, clock = self._record.plan.name, clock_tokens(state)
        path = checkpoint_path(self._run_folder, phase, clock)
        if self._world.is_leader:
            weights = {name: tensor.detach().cpu() for name, tensor in self._model.state_dict().items()}
            _check_finite(weights, phase, clock)
            facts = {
                "phase": phase,
                "clock_tokens": clock,
                "step": step_number(state),
                "train_seconds": time.perf_counter() - self._began_s,
                "eval_loss": self._record.eval_loss,
            }
            checkpoint = Checkpoint(
                weights,
                optimizer_state(self._model, state.optimizers[0]),
                {**self._meta, **facts},
            )
            sidecar = save_checkpoint(path, checkpoint, self._config_hash)
            self._say(f"checkpoint {path.relative_to(self._run_folder)} ({sidecar.size_bytes / 1e6:.1f} MB)")
        self._world.barrier()
        self.last_path = path


def _check_finite(weights: dict[str, Tensor], phase: str, clock: int) -> None:
    """Refuse to save what a resume could not use: a finite gradient can still throw a weight out of range."""
    bad = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise TrainingError(
            f"{bad[0]} is not finite at clock {clock:_} of phase {phase!r} ({len(bad)} of {len(weights)} tensors)",
            f"the last checkpoint is whole: start the same command with a lower phases.{phase}.lr.peak",
        )
