"""Validation loss on fixed blocks with fixed masks: one number on 1, 2 or 4 ranks, and the same in every phase.

Block i is computed by rank i mod ranks, alone, and the sums of all blocks are added in block order on every rank, so
the result does not depend on how many ranks there are (docs/design.md, 4). Masks are keyed by (seed, stream, block).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from padless.data.batch import PackedBatch
from padless.data.collate import Block, MaskedBlock, collate
from padless.data.masking import MaskingRule, mask_tokens, validation_generator
from padless.data.mds import ValidationBlocks
from padless.events import reached
from padless.model.masked_lm import MaskedLM
from padless.train.hardware import Compute
from padless.train.world import World


@dataclass(frozen=True)
class ValidationRules:
    """How validation blocks are masked and laid out."""

    block_tokens: int
    max_seq_len: int
    pad_id: int
    masking: MaskingRule
    mask_rate: float
    seed: int
    max_blocks: int | None


class Validation:
    """Evaluates a model on the validation splits of one or more streams.

    Args:
        splits: validation blocks by stream.
        rules: masking and layout.
        world: the ranks.
        compute: device and precision.
    """

    def __init__(
        self, splits: Sequence[ValidationBlocks], rules: ValidationRules, world: World, compute: Compute
    ) -> None:
        self._splits, self._rules, self._world, self._compute = splits, rules, world, compute
        rounds = max((len(split) for split in splits), default=0)
        places = [(split, index) for index in range(rounds) for split in splits if index < len(split)]
        self._places = places[: rules.max_blocks]  # by turns, so that a limit takes blocks of every stream

    def masked_block(self, block: Block) -> MaskedBlock:
        """Return the block with its fixed mask."""
        generator = validation_generator(self._rules.seed, block.stream, block.index)
        return MaskedBlock(block, *mask_tokens(block.tokens_T, self._rules.mask_rate, self._rules.masking, generator))

    def masked_blocks(self) -> list[MaskedBlock]:
        """Return all validation blocks with their masks, in order."""
        return [self.masked_block(split[index]) for split, index in self._places]

    def evaluate(self, model: MaskedLM, *, with_accuracy: bool = False) -> dict[str, float]:
        """Return ``eval_loss`` (nats a masked token), the same by stream, and the masked tokens it is a mean over.

        Empty if there is nothing to evaluate on (``eval.streams=[]``).

        Args:
            model: the encoder with its head.
            with_accuracy: also return ``eval_accuracy``, the share of masked tokens whose likeliest guess is right;
                that is a forward pass more.
        """
        if not self._places:
            return {}
        was_training = model.training
        model.eval()
        own: list[tuple[int, str, float, int]] = []
        own_right = 0
        with torch.no_grad():
            for number in range(self._world.rank, len(self._places), self._world.size):
                split, index = self._places[number]
                reached("evaluation")
                block = self.masked_block(split[index])
                own.append((number, split.name, *self._block_sums(model, block)))
                own_right += self._count_right(model, block) if with_accuracy else 0
        model.train(was_training)
        rows = sorted(row for rank_rows in self._world.gather(own) for row in rank_rows)
        figures = {"eval_loss": _mean(rows), "eval_masked_tokens": float(sum(row[3] for row in rows))}
        if with_accuracy:
            figures["eval_accuracy"] = sum(self._world.gather(own_right)) / max(1.0, figures["eval_masked_tokens"])
        if len(self._splits) > 1:
            for split in self._splits:
                named = [row for row in rows if row[1] == split.name]
                if named:
                    figures[f"eval_loss_{split.name}"] = _mean(named)
        return figures

    def _block_sums(self, model: MaskedLM, masked: MaskedBlock) -> tuple[float, int]:
        batch = self._batch(masked)
        if batch.num_masked == 0:
            return 0.0, 0
        with self._compute.autocast():
            loss_sum = model.loss_sum(batch.to(self._compute.device))
        return float(loss_sum), batch.num_masked

    def _count_right(self, model: MaskedLM, masked: MaskedBlock) -> int:
        batch = self._batch(masked)
        if batch.num_masked == 0:
            return 0
        batch = batch.to(self._compute.device)
        with self._compute.autocast():
            guesses_M = model.logits_at(batch).argmax(dim=-1)
        return int((guesses_M == batch.labels_M).sum())

    def _batch(self, masked: MaskedBlock) -> PackedBatch:
        rules = self._rules
        return collate([masked], rules.block_tokens, rules.max_seq_len, rules.pad_id)


def _mean(rows: Sequence[tuple[int, str, float, int]]) -> float:
    return sum(row[2] for row in rows) / max(1, sum(row[3] for row in rows))


def unigram_cross_entropy(train: Sequence[Block], validation: Sequence[MaskedBlock], vocab_size: int) -> float:
    """Return the loss of guessing by token frequency alone: what a model has to beat to have learned from context.

    Args:
        train: blocks whose tokens give the frequencies (one is added to each count).
        validation: blocks whose masked tokens are guessed.
        vocab_size: entries of the vocabulary.

    Returns:
        Mean nats a masked token.
    """
    counts_V = np.ones(vocab_size)
    for block in train:
        counts_V += np.bincount(block.tokens_T, minlength=vocab_size)
    log_share_V = np.log(counts_V / counts_V.sum())
    targets = np.concatenate([masked.block.tokens_T[masked.positions_M] for masked in validation])
    return float(-log_share_V[targets].mean())
