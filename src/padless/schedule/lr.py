"""Learning rate as a function of tokens since the phase began.

The value of a step is the function at the tokens consumed before it, so with a warmup the very first step has learning
rate 0 (it fills the optimizer's moments and moves nothing); at the published sizes that is one of 365,000 steps. With
``warmup_tokens=0`` the first step has the peak.

    peak   /-----------\\            warmup, then one of the shapes over the rest of the phase;
          /             \\__         warmup_stable_decay holds the peak until ``decay_tokens`` before the end
    0    /                 floor*peak
"""

import math

from padless.config.schema import LrConfig


def lr_at(lr: LrConfig, phase_tokens: int, tokens_in_phase: int) -> float:
    """Return the learning rate of the step that begins ``tokens_in_phase`` tokens into a phase.

    Linear warmup from 0 over ``warmup_tokens``, then: ``constant``; ``linear``, ``cosine`` and ``one_minus_sqrt``
    (1 - sqrt(progress), Hägele et al. 2024) from the peak down to ``floor * peak`` over the rest of the phase;
    ``warmup_stable_decay``: constant, then 1 - sqrt over the last ``decay_tokens``. Beyond the end: the value there.

    Args:
        lr: the phase's setting.
        phase_tokens: nominal length of the phase.
        tokens_in_phase: tokens consumed since the phase began.
    """
    if tokens_in_phase < lr.warmup_tokens:
        return lr.peak * (tokens_in_phase / lr.warmup_tokens)
    if lr.shape == "constant":
        return lr.peak
    decay_start = lr.warmup_tokens
    if lr.shape == "warmup_stable_decay":
        decay_start = max(decay_start, phase_tokens - (lr.decay_tokens or 0))
    decay_tokens = phase_tokens - decay_start
    if decay_tokens <= 0:
        return lr.peak
    progress = min(max((tokens_in_phase - decay_start) / decay_tokens, 0.0), 1.0)
    return lr.peak * (lr.floor + (1.0 - lr.floor) * _remaining(lr.shape, progress))


def _remaining(shape: str, progress: float) -> float:
    """Return the share of the decay still to come, 1 at progress 0 and 0 at progress 1."""
    if shape == "linear":
        return 1.0 - progress
    if shape == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - math.sqrt(progress)
