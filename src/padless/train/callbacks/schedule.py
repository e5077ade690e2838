"""Learning rate, weight decay and dropout seed of each step, as functions of the clock.

Composer's own schedulers step one batch late and its random state is not restored in the middle of an epoch, so neither
is used: nothing here has a state.
"""

import random

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger

from padless.optim.build import set_schedule
from padless.train.callbacks.record import StepRecord, step_number


class ApplySchedule(Callback):
    """Sets the optimizer's values and the random seed before each step.

    Args:
        record: the step record, filled by the batch-size warmup before.
        seed: seed of the run.
        rank: this rank; each has its own dropout.
    """

    def __init__(self, record: StepRecord, seed: int, rank: int) -> None:
        self._record, self._seed, self._rank = record, seed, rank

    def batch_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Apply the settings of the step that begins."""
        settings = self._record.settings
        if settings is None:
            raise RuntimeError("the batch-size warmup callback has to come before the schedule callback")
        for optimizer in state.optimizers:
            set_schedule(optimizer, settings.lr, self._record.plan.phase.lr.peak, settings.weight_decay)
        seed = int(np.random.SeedSequence([self._seed, step_number(state), self._rank]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (libraries below draw from the global generator)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would walk all devices, also those not in use
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(seed)
