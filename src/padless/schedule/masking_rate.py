"""Mask rate as a function of tokens since the phase began.

Rates that fall during pretraining are from Ankner et al. 2023 (arXiv 2305.15096), who report a linear fall from 30 to
15 %; the code they published has cosine and step beside it. A rate may rise as well.
"""

import math

from padless.config.schema import MaskingConfig


def mask_rate_at(masking: MaskingConfig, phase_tokens: int, tokens_in_phase: int) -> float:
    """Return the share of tokens to mask in the step that begins ``tokens_in_phase`` tokens into a phase.

    ``constant``: ``rate``. ``linear`` and ``cosine`` (half a period): from ``rate`` at the beginning to ``end_rate`` at
    the phase's nominal end and after it. ``step``: ``end_rate`` from ``step_at_tokens`` on. ``end_rate`` and
    ``step_at_tokens`` are there whenever the shape uses them (``padless.config.check``).
    """
    if masking.shape == "constant" or masking.end_rate is None:
        return masking.rate
    if masking.shape == "step":
        has_stepped = masking.step_at_tokens is not None and tokens_in_phase >= masking.step_at_tokens
        return masking.end_rate if has_stepped else masking.rate
    progress = min(max(tokens_in_phase / phase_tokens, 0.0), 1.0)
    if masking.shape == "cosine":
        progress = 0.5 * (1.0 - math.cos(math.pi * progress))
    return masking.rate * (1.0 - progress) + masking.end_rate * progress
