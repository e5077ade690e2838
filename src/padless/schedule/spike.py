"""What counts as a bad step: a loss or gradient that is not finite, or a loss far above those of the steps before.

The measure is robust, so that one earlier outlier does not hide the next: median and median absolute deviation (times
1.4826, which makes it the standard deviation of a normal distribution) over a window of good steps of the phase.
"""

import math
import statistics
from collections.abc import Sequence

from padless.config.schema import GuardConfig
from padless.schedule.phases import PhasePlan

_NORMAL = 1.4826


def spike_limit(window: Sequence[float], guard: GuardConfig) -> float | None:
    """Return the loss above which a step is a spike, or None while the window is not full.

    Args:
        window: losses of the last good steps of the phase, in nats, oldest first.
        guard: how long the window is and how far above its median a spike lies.
    """
    if len(window) < guard.window_steps:
        return None
    median = statistics.median(window)
    deviation = _NORMAL * statistics.median(abs(loss - median) for loss in window)
    return median + max(guard.spike_min_nats, guard.spike_deviations * deviation)


def comparable_losses(window: Sequence[float], plan: PhasePlan, clock_tokens: int) -> Sequence[float]:
    """Return the losses of the window that a step at ``clock_tokens`` may be measured against.

    Where the mask rate jumps (``masking.shape=step``) the loss does too: only steps since then count.
    """
    masking = plan.phase.masking
    if masking.shape != "step" or masking.step_at_tokens is None:
        return window
    if plan.tokens_in_phase(clock_tokens) < masking.step_at_tokens:
        return window
    first_after = plan.step_at_clock(plan.start_tokens + masking.step_at_tokens - 1) + 1
    since = plan.step_at_clock(clock_tokens) - first_after
    return window[-since:] if since > 0 else ()


def name_bad_step(loss: float, grad_norm: float, window: Sequence[float], guard: GuardConfig) -> str | None:
    """Return what is wrong with a step, in words, or None.

    Args:
        loss: mean over the masked tokens of the global batch, nats.
        grad_norm: L2 norm of all averaged gradients together.
        window: as in :func:`spike_limit`.
        guard: limits.
    """
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"gradient norm is {grad_norm}"
    limit = spike_limit(window, guard)
    if limit is not None and loss > limit:
        median = statistics.median(window)
        return (
            f"loss {loss:.4f} is a spike: over {limit:.4f}, {len(window)} steps before it had a median of {median:.4f}"
        )
    return None
