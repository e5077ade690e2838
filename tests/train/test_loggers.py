"""Loggers beside metrics.jsonl get our figures and not Composer's clocks."""

import pytest
from composer.loggers import LoggerDestination

from padless.train.loggers import OwnFigures

pytestmark = pytest.mark.composer


class Keeps(LoggerDestination):
    def __init__(self):
        self.kept = []

    def log_metrics(self, metrics, step=None):
        self.kept.append((metrics, step))


class OwnKeeps(OwnFigures, Keeps):
    """As TensorBoard's and wandb's: the filter before the destination."""


def test_figures_of_padless_pass_and_composers_do_not():
    logger = OwnKeeps()
    logger.log_metrics({"padless/loss": 2.0, "time/batch": 3, "eval_loss": 1.5}, 7)
    logger.log_metrics({"time/batch": 4}, 8)
    assert logger.kept == [({"padless/loss": 2.0, "eval_loss": 1.5}, 7)]
