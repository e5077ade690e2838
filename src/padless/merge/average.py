"""The mean of weights: each tensor a weighted sum in fp64, rounded once."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from padless.errors import ConfigError
from padless.model.tensor_shapes import DECODER, EMBEDDING


def shares_of(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Return the share of each of ``count`` checkpoints in their mean; they sum to 1.

    Args:
        weights: proportions; None for equal shares.
        count: of checkpoints.

    Raises:
        ConfigError: another number of weights, or one that is not above 0.
    """
    if weights is None:
        return (1 / count,) * count
    if len(weights) != count:
        raise ConfigError(
            f"weights has {len(weights)} values for {count} checkpoints", "give one for each, in the same order"
        )
    wrong = next((weight for weight in weights if not (weight > 0 and math.isfinite(weight))), None)
    if wrong is not None:
        raise ConfigError(
            f"weights has {wrong:g}, and the weights of a mean are above 0",
            "give each checkpoint a share, or leave it out; they are divided by their sum",
        )
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


class WeightedMean:
    """A mean that is summed up one checkpoint at a time, so that only one of them is in memory."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._types: dict[str, torch.dtype] = {}

    def add(self, weights: Mapping[str, Tensor], share: float) -> None:
        """Add one checkpoint's weights, by Hugging Face names; all have the same names and shapes."""
        for name, tensor in weights.items():
            if name == DECODER:  # tied to the embeddings
                continue
            if name not in self._sums:
                self._sums[name] = torch.zeros(tensor.shape, dtype=torch.float64)
                self._types[name] = tensor.dtype
            self._sums[name].add_(tensor.to(torch.float64), alpha=share)

    def result(self) -> dict[str, Tensor]:
        """Return the mean in the type of the first checkpoint's tensors, the decoder tied to the embeddings."""
        weights = {name: total.to(self._types[name]) for name, total in self._sums.items()}
        return {**weights, DECODER: weights[EMBEDDING]}
