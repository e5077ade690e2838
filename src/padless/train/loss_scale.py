"""Dynamic loss scaling for fp16: the loss is multiplied before the backward pass, gradients are divided after it.

A power of two, so scaling is exact. Gradients that overflow cost their step and halve the scale; many good steps in a
row double it. Known on the host, so nothing is read from a device for it; part of every checkpoint.
"""

from dataclasses import dataclass

FIRST_SCALE = 2.0**16
_GROWS_AFTER_STEPS = 2_000
_MAX_SCALE = 2.0**24


@dataclass(frozen=True)
class LossScale:
    """The factor, and the good steps since it last changed."""

    factor: float = FIRST_SCALE
    good_steps: int = 0

    @property
    def can_fall(self) -> bool:
        """Whether gradients that overflow may still be the scale's doing; at 1 they are the model's."""
        return self.factor > 1.0

    def after_good_step(self) -> "LossScale":
        """Return the scale of the next step: doubled after 2,000 good ones."""
        if self.good_steps + 1 < _GROWS_AFTER_STEPS:
            return LossScale(self.factor, self.good_steps + 1)
        return LossScale(min(2 * self.factor, _MAX_SCALE), 0)

    def after_overflow(self) -> "LossScale":
        """Return the scale of the step after one whose gradients were not finite."""
        return LossScale(max(self.factor / 2, 1.0), 0)
