"""How well a prediction ranks shapes: Spearman's rank correlation of predicted and measured times."""

import math
from collections.abc import Sequence


def rank_correlation(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Return Spearman's rho: 1 where both put all in the same order, -1 in the opposite; None where there is no order.

    Values that are alike share the mean of their ranks.

    Args:
        predicted: a value each.
        measured: a value each, in the same order.
    """
    a, b = _ranks(predicted), _ranks(measured)
    mean = (len(a) + 1) / 2
    together = math.fsum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in a) * math.fsum((y - mean) ** 2 for y in b))
    return together / spread if spread > 0 else None


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in list(values)]
