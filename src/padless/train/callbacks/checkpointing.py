"""Save at every ``save_every_tokens`` of a phase, at its end, and when a signal asks the run to stop."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from torch import Tensor, nn

from padless.checkpoint import Checkpoint, apply_retention, checkpoint_path, save_checkpoint
from padless.data.loader import StepLoader
from padless.errors import TrainingError
from padless.optim.build import optimizer_state
from padless.train.callbacks.record import StepRecord, clock_tokens, crossed, is_due, previous_clock_tokens, step_number
from padless.train.world import World
from padless.units import approximate_tokens


class SaveCheckpoint(Callback):
    """Writes the full state on rank 0; the other ranks wait, so that none runs ahead of what is on disk.

    Args:
        record: the step record.
        loader: knows whether a rank was asked to stop.
        model: the encoder with its head, unwrapped; its state has Hugging Face names.
        run_folder: folder of the run.
        meta: facts that every checkpoint of the phase carries (config, tokenizer folder, data hashes).
        config_hash: hash of what changes results.
        world: the ranks.
        end_tokens: clock at which fitting ends; a checkpoint is always written there.
        trained_s: seconds of training before this phase.
        keep_newest: checkpoints that stay besides those kept for good; None keeps all.
        saved: is told phase, clock, step and file of each checkpoint.
        say: prints one line.
    """

    def __init__(
        self,
        record: StepRecord,
        loader: StepLoader,
        model: nn.Module,
        *,
        run_folder: Path,
        meta: dict[str, Any],
        config_hash: str,
        world: World,
        end_tokens: int,
        trained_s: float,
        keep_newest: int | None,
        saved: Callable[[str, int, int, Path], None],
        say: Callable[[str], None],
    ) -> None:
        self._record, self._model, self._run_folder, self._meta = record, model, run_folder, meta
        self._config_hash, self._world, self._end_tokens, self._say = config_hash, world, end_tokens, say
        self._loader, self._keep_newest, self._saved = loader, keep_newest, saved
        self._began_s = time.perf_counter() - trained_s
        self.last_path: Path | None = None

    def batch_end(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Save if an interval was crossed, the phase has ended, or the run is to stop; then end it."""
        stop = self._loader.last_step.stop is not None
        if stop or is_due(self._record, state, self._record.plan.phase.save_every_tokens, self._end_tokens):
            self._save(state)
        if stop:
            state.stop_training()

    def _kept_because(self, state: State) -> str | None:
        """Return why retention must not delete the checkpoint of this step."""
        plan, interval = self._record.plan, self._record.plan.phase.keep_every_tokens
        if clock_tokens(state) >= plan.end_tokens:
            return "phase end"
        before, now = plan.tokens_in_phase(previous_clock_tokens(state)), plan.tokens_in_phase(clock_tokens(state))
        if interval is not None and crossed(interval, max(before, 0), now):
            return f"every {approximate_tokens(interval)} tokens"
        return None

    def _save(self, state: State) -> None:
        phase, clock = self._record.plan.name, clock_tokens(state)
        path = checkpoint_path(self._run_folder, phase, clock)
        if self._world.is_leader:
            weights = _on_the_host(self._model)
            _check_finite(weights, phase, clock)
            facts = {
                "phase": phase,
                "clock_tokens": clock,
                "step": step_number(state),
                "train_seconds": time.perf_counter() - self._began_s,
                "eval_loss": self._record.eval_loss,
                "recent_losses": list(self._record.recent_losses),
                "loss_scale": dataclasses.astuple(scale) if (scale := self._record.loss_scale) else None,
            }
            checkpoint = Checkpoint(
                weights,
                optimizer_state(self._model, state.optimizers[0]),
                {**self._meta, **facts},
            )
            lr = self._record.settings.lr if self._record.settings else None
            sidecar = save_checkpoint(path, checkpoint, self._config_hash, lr=lr, kept=self._kept_because(state))
            self._say(f"checkpoint {path.relative_to(self._run_folder)} ({sidecar.size_bytes / 1e6:.1f} MB)")
            self._saved(phase, clock, step_number(state), path)
            apply_retention(self._run_folder, self._keep_newest, self._say)
        self._world.barrier()
        self.last_path = path


def _on_the_host(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights on the CPU; tied ones are one copy there, too."""
    copies: dict[int, Tensor] = {}
    state = model.state_dict()
    for tensor in state.values():
        if tensor.data_ptr() not in copies:
            copies[tensor.data_ptr()] = tensor.detach().cpu()
    return {name: copies[tensor.data_ptr()] for name, tensor in state.items()}


def _check_finite(weights: dict[str, Tensor], phase: str, clock: int) -> None:
    """Refuse to save what a resume could not use: a finite gradient can still throw a weight out of range."""
    bad = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise TrainingError(
            f"{bad[0]} is not finite at clock {clock:_} of phase {phase!r} ({len(bad)} of {len(weights)} tensors)",
            f"the last checkpoint is whole: go on from it with a lower rate, phases.{phase}.lr.peak=... "
            f"run.accept_changes=[phases.{phase}.lr.peak]",
        )
