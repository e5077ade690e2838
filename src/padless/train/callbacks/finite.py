"""Stop before a loss or gradient that is not finite reaches the weights."""

import math

import torch
from composer.core import Callback, State
from composer.loggers import Logger

from padless.data.loader import StepLoader
from padless.errors import TrainingError
from padless.train.callbacks.record import StepRecord, clock_tokens, step_number

_BLOCKS_NAMED = 16


class StopOnNonFinite(Callback):
    """Measures the gradient norm after all microbatches and ranks, and stops the run on every rank if it is not finite.

    Args:
        record: the step record; gets the gradient norm.
        loader: names the blocks of the step.
    """

    def __init__(self, record: StepRecord, loader: StepLoader) -> None:
        self._record, self._loader = record, loader

    def after_train_batch(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Check the averaged gradients, which are the same on all ranks."""
        gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
        self._record.grad_norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(self._record.grad_norm):
            raise TrainingError(
                f"gradient norm is {self._record.grad_norm} at step {step_number(state)} of phase "
                f"{self._record.plan.name!r} (clock {clock_tokens(state):_} tokens), blocks {self._blocks()}",
                "the weights of the last checkpoint are whole: start the same command with a lower "
                f"phases.{self._record.plan.name}.lr.peak or a longer warmup, or look at these blocks",
            )

    def _blocks(self) -> str:
        ids = sorted(self._loader.last_step.block_ids)
        named = ", ".join(f"{stream}:{index}" for stream, index in ids[:_BLOCKS_NAMED])
        return named if len(ids) <= _BLOCKS_NAMED else f"{named} and {len(ids) - _BLOCKS_NAMED} more"
