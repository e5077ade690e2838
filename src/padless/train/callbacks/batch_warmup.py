"""Batch-size warmup: before each step, tell the loader how many microbatches it has and how much to mask.

Batch size and mask rate are functions of the clock (``padless.schedule``), the same on all ranks, so a resume in the
middle of the ramp needs no state. Composer asks for the next batch right after this event.
"""

import time

from composer.core import Callback, State
from composer.loggers import Logger

from padless.data.loader import StepLoader
from padless.schedule.step import settings_at
from padless.train.callbacks.record import StepRecord, clock_tokens, step_number


class BatchWarmup(Callback):
    """Sets the size and the mask rate of each step.

    Args:
        record: the step record; gets the step's settings.
        loader: the loader of this phase.
        cut_blocks: blocks that all ranks compute at once, ranks x microbatch_blocks; divides every batch size.
    """

    def __init__(self, record: StepRecord, loader: StepLoader, cut_blocks: int) -> None:
        self._record, self._loader = record, loader
        self._cut_blocks = cut_blocks
        self._asked_at_s = 0.0

    def before_dataloader(self, state: State, logger: Logger) -> None:  # noqa: ARG002  (Composer's signature)
        """Announce the step that begins at the present clock."""
        settings = settings_at(self._record.plan, clock_tokens(state))
        self._record.settings = settings
        self._loader.begin_step(step_number(state), settings.batch_blocks // self._cut_blocks, settings.mask_rate)
        self._asked_at_s = time.perf_counter()

    def after_dataloader(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Note how long the step waited for data."""
        self._record.data_wait_s = time.perf_counter() - self._asked_at_s
