"""The encoder as Composer wants it: forward gives the loss, a mean over the microbatch's masked tokens.

The trainer weights each microbatch and rank by its masked tokens, which makes the step's loss the mean over all masked
tokens of the global batch, exactly.
"""

from collections.abc import Sequence
from typing import cast

from composer.models import ComposerModel
from torch import Tensor, nn

from padless.data.batch import PackedBatch
from padless.model.masked_lm import MaskedLM
from padless.train.hardware import Compute


class ComposerMaskedLM(ComposerModel):
    """Wraps :class:`MaskedLM` for the Trainer.

    Args:
        masked_lm: the encoder with its head.
        compute: device and precision.
    """

    def __init__(self, masked_lm: MaskedLM, compute: Compute) -> None:
        super().__init__()
        self.masked_lm = masked_lm
        self._compute = compute

    def forward(self, batch: PackedBatch) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the mean over the masked positions of one microbatch: cross-entropy, and z-loss where there is one."""
        with self._compute.autocast():
            return self.masked_lm.loss(batch.to(self._compute.device))

    def loss(self, outputs: Tensor, batch: PackedBatch) -> Tensor:  # noqa: ARG002  # pyright: ignore
        """Return what forward computed."""
        return outputs


def row_losses(model: nn.Module) -> Tensor | None:
    """Return the losses of the rows of the last forward pass (fp32 [M], detached).

    Args:
        model: a :class:`ComposerMaskedLM`, wrapped by DDP or not.
    """
    inner = cast("ComposerMaskedLM", getattr(model, "module", model))
    return inner.masked_lm.last_row_losses_M


def cross_entropy_of(model: nn.Module) -> Tensor:
    """Return the mean cross-entropy of the last forward pass (fp32 scalar, detached), without any z-loss.

    Args:
        model: a :class:`ComposerMaskedLM`, wrapped by DDP or not; it has done a forward pass.
    """
    inner = cast("ComposerMaskedLM", getattr(model, "module", model))
    return cast(Tensor, inner.masked_lm.last_cross_entropy)


def split_step(step: list[PackedBatch], microbatch_size: int | float) -> list[PackedBatch]:  # noqa: ARG001
    """Return the microbatches of a step: the loader has cut them already."""
    return step


def _as_list(batch: PackedBatch | Sequence[PackedBatch]) -> Sequence[PackedBatch]:
    return [batch] if isinstance(batch, PackedBatch) else batch


def count_tokens(batch: PackedBatch | Sequence[PackedBatch]) -> dict[str, int]:
    """Return nominal tokens, which the clock counts, and masked tokens, which the loss is weighted by."""
    batches = _as_list(batch)
    return {
        "total": sum(each.input_ids_T.shape[0] for each in batches),
        "loss_generating": sum(each.num_masked for each in batches),
    }


def count_segments(batch: PackedBatch | Sequence[PackedBatch]) -> int:
    """Return the segments of a step; Composer only logs it."""
    return sum(len(each.segment_lengths) for each in _as_list(batch))
