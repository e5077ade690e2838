"""The published training hours, and the fit of the efficiency model to them: ``python -m padless.plan.calibration``.

Two free constants (attention's share of the peak, traffic's share of the bandwidth) against six figures: the GPU-hours
of ModernBERT-base and -large in three phases on 8 H100, training alone [arXiv 2412.13663, table 3]. The lengths of
their segments are not published: :func:`padless.plan.lengths.assume_segments` stands for them, so attention's share
takes up what is wrong with that assumption.

Ettin's hours [JHU-CLSP/ettin-encoder-vs-decoder, pretraining/README.md] took no part in the fit and are the check:
other software, documents not packed, 4 H100, 1.7T tokens at 1024, 300B (1B: 100B) at 7999.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from padless.config.compose import compose
from padless.config.schema import ModelConfig
from padless.plan.devices import GPUS
from padless.plan.efficiency import FITTED, MATRIX_SHARE, Shares, Work, seconds_a_token, terms_s, work_a_token
from padless.plan.lengths import assume_segments

MASK_RATE = 0.3


@dataclass(frozen=True)
class Published:
    """GPU-hours of one published phase, or of phases together."""

    model: str  # a preset
    phase: str
    tokens_by_cap: tuple[tuple[int, float], ...]  # (max_seq_len, tokens)
    gpu_hours: float


MODERNBERT = tuple(
    Published(model, phase, ((cap, tokens),), hours)
    for model, by_phase in (("base", (1529, 290, 60)), ("large", (3363, 601, 123)))
    for (phase, cap, tokens), hours in zip(
        (("pretrain", 1024, 1.719e12), ("context", 8192, 250e9), ("anneal", 8192, 50e9)), by_phase, strict=True
    )
)
ETTIN = tuple(
    Published(model, "all", ((1024, 1.7e12), (7999, long_tokens)), 4 * hours)
    for model, long_tokens, hours in (
        ("17m", 300e9, 141),
        ("32m", 300e9, 212),
        ("68m", 300e9, 300),
        ("base", 300e9, 470),
        ("400m", 300e9, 950),
        ("1b", 100e9, 2170),  # its later phases had a third of the tokens
    )
)


@functools.cache
def preset(name: str) -> ModelConfig:
    """Return the shape of a preset under ``model=``."""
    return compose(["recipe=modernbert_base", f"model={name}"]).model


def work_of(published: Published) -> list[tuple[Work, float]]:
    """Return the work a token of each cap, and the tokens."""
    model = preset(published.model)
    return [(work_a_token(model, assume_segments(cap), MASK_RATE), tokens) for cap, tokens in published.tokens_by_cap]


def predict_gpu_hours(published: Published, shares: Shares = FITTED) -> float:
    """Return what the efficiency model says for a published figure."""
    h100 = GPUS["h100"]
    return sum(tokens * seconds_a_token(work, h100, shares) for work, tokens in work_of(published)) / 3600


def relative_errors(figures: Sequence[Published], shares: Shares = FITTED) -> list[float]:
    """Return predicted over published, less 1, of each figure."""
    return [predict_gpu_hours(each, shares) / each.gpu_hours - 1 for each in figures]


def fit_shares(figures: Sequence[Published] = MODERNBERT, matrix_share: float = MATRIX_SHARE) -> Shares:
    """Return the shares of attention and memory that make the squares of the relative errors least.

    The model is linear in the inverse shares, so these are two normal equations:
    published = matrix + attention x a + traffic x m, each divided by published.
    """
    rows = []
    for each in figures:
        sums = [0.0, 0.0, 0.0]
        for work, tokens in work_of(each):
            for place, term in enumerate(terms_s(work, GPUS["h100"])):
                sums[place] += tokens * term / 3600 / each.gpu_hours
        rows.append((sums[1], sums[2], 1 - sums[0] / matrix_share))
    aa, am, mm = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ya, ym = (sum(row[i] * row[2] for row in rows) for i in (0, 1))
    determinant = aa * mm - am * am
    return Shares(matrix_share, determinant / (ya * mm - ym * am), determinant / (ym * aa - ya * am))


def largest_error() -> float:
    """Return the largest relative error of the six figures, as a positive share."""
    return max(abs(error) for error in relative_errors(MODERNBERT))


def main() -> None:
    """Fit, and print the shares and all residuals."""
    console, shares = Console(), fit_shares()
    console.print(f"matrix {shares.matrix:.4f} (measured by others), ", end="")
    console.print(f"attention {shares.attention:.4f}, memory {shares.memory:.4f} (fitted)")
    for title, figures in (("fitted", MODERNBERT), ("not fitted", ETTIN)):
        for each, error in zip(figures, relative_errors(figures, shares), strict=True):
            predicted = predict_gpu_hours(each, shares)
            console.print(
                f"{title}: {each.model} {each.phase}: {each.gpu_hours:,.0f} published, {predicted:,.0f} ({error:+.1%})"
            )


if __name__ == "__main__":
    main()
