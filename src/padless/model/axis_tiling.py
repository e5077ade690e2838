"""Which position of the source each position of one axis of a larger tensor takes.

    source        a b c
    wrap    to 7  b c a b c a b      from the centre, with wrap-around: ModernBERT's (Warner et al. 2024, appendix A.3)
    centre  to 7  . . a b c . .      once, in the centre; what is . keeps its random initial value
    edge    to 7  a b c a b c a      repeated from position 0

Legend: N positions of the target's axis.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from padless.errors import ModelError

Mode = Literal["wrap", "centre", "edge"]
RANDOM = -1  # a position that takes nothing from the source


@dataclass(frozen=True)
class AxisTiling:
    """Which source position each position of one axis takes, and how often that source position is taken."""

    source_positions_N: Tensor  # int64 [N]; RANDOM where nothing is taken
    multiplicity_N: Tensor  # float64 [N]; 1 where nothing is taken

    @property
    def is_identity(self) -> bool:
        """Whether the axis keeps its size (and so its order)."""
        return bool((self.multiplicity_N == 1).all()) and not self.has_random

    @property
    def has_random(self) -> bool:
        """Whether some positions take nothing from the source."""
        return bool((self.source_positions_N == RANDOM).any())

    @property
    def is_random_N(self) -> Tensor:
        """Positions that take nothing from the source (bool [N])."""
        return self.source_positions_N == RANDOM

    @property
    def first_N(self) -> Tensor:
        """For each position the first that takes the same source position: itself, unless it is a further copy."""
        first: dict[int, int] = {}
        positions = [
            place if source == RANDOM else first.setdefault(source, place)
            for place, source in enumerate(self.source_positions_N.tolist())
        ]
        return torch.tensor(positions)

    @property
    def is_copy_N(self) -> Tensor:
        """Positions that take what an earlier one has taken (bool [N])."""
        return self.first_N != torch.arange(self.first_N.shape[0])

    @property
    def divides_evenly(self) -> bool:
        """Whether every source position is taken, and all equally often."""
        return not self.has_random and bool((self.multiplicity_N == self.multiplicity_N[0]).all())

    def repeat_units(self, unit: int) -> "AxisTiling":
        """Return the tiling of an axis whose every position is ``unit`` consecutive positions (a head's width)."""
        positions = self.source_positions_N[:, None] * unit + torch.arange(unit)
        positions = positions.masked_fill(self.is_random_N[:, None], RANDOM)
        return AxisTiling(positions.reshape(-1), self.multiplicity_N.repeat_interleave(unit))

    def stack_parts(self, parts: int, source_size: int) -> "AxisTiling":
        """Return the tiling of ``parts`` such axes one after the other (Q, K, V or the GeGLU halves), each apart."""
        stacked = [
            (self.source_positions_N + part * source_size).masked_fill(self.is_random_N, RANDOM)
            for part in range(parts)
        ]
        return AxisTiling(torch.cat(stacked), self.multiplicity_N.repeat(parts))


def tile_axis(source_size: int, target_size: int, mode: Mode = "wrap") -> AxisTiling:
    """Return the tiling of an axis of ``source_size`` to ``target_size`` positions (module docstring).

    Raises:
        ModelError: the target is smaller.
    """
    if target_size < source_size:
        raise ModelError(
            f"tiling cannot shrink a model: an axis of {source_size} would become {target_size}",
            "make every size of the target at least that of the source",
        )
    offset = 0 if mode == "edge" else (target_size - source_size) // 2
    positions = torch.arange(target_size) - offset
    if mode == "centre":
        positions = positions.masked_fill((positions < 0) | (positions >= source_size), RANDOM)
        return AxisTiling(positions, torch.ones(target_size, dtype=torch.float64))
    positions %= source_size
    counts = torch.bincount(positions, minlength=source_size)
    return AxisTiling(positions, counts[positions].to(torch.float64))


def extend_axis(source_size: int, target_size: int) -> AxisTiling:
    """Return the source's positions followed by ones that take nothing: new rows of a vocabulary."""
    positions = torch.arange(target_size)
    return AxisTiling(
        positions.masked_fill(positions >= source_size, RANDOM), torch.ones(target_size, dtype=torch.float64)
    )
