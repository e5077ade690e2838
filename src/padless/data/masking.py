"""Masked-language-model masking: a pure function of its key, drawn in the main process as a step is assembled.

A training mask depends on (seed, phase, step, stream and block, occurrence of the block in the global step) and on
nothing else, so it is the same for every number of ranks, workers and microbatches, and after every resume; a block
that an upsampled mix repeats gets another mask. A validation mask depends on (seed, stream and block) alone.
The 80/10/10 rule is that of BERT (Devlin et al. 2019, section 3.1).

Legend: T tokens of one block, M masked positions, V vocabulary.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TRAIN, _VALIDATION = 0, 1


@dataclass(frozen=True)
class MaskingRule:
    """What may be masked and by what it is replaced."""

    mask_id: int
    maskable_V: NDArray[np.bool_]  # False for special ids: never masked, never drawn as a replacement
    mask_share: float  # share of the chosen tokens that become [MASK]
    random_share: float  # share that becomes a random token; the rest stays

    @classmethod
    def build(
        cls, vocab_size: int, mask_id: int, special_ids: list[int], mask_share: float, random_share: float
    ) -> "MaskingRule":
        """Return the rule for a vocabulary of ``vocab_size`` entries with the given special ids."""
        maskable_V = np.ones(vocab_size, dtype=np.bool_)
        maskable_V[special_ids] = False
        return cls(mask_id, maskable_V, mask_share, random_share)


def _stream_number(stream: str) -> int:
    return zlib.crc32(stream.encode("utf-8"))


def training_generator(
    seed: int, phase_index: int, step: int, stream: str, block: int, occurrence: int
) -> np.random.Generator:
    """Return the generator of one block's mask in one training step (docs/design.md, 4).

    Args:
        seed: seed of the run.
        phase_index: position of the phase in the recipe.
        step: optimizer step of the run, counted over all phases.
        stream: name of the stream the block comes from.
        block: index of the block in that stream.
        occurrence: how often this block came earlier in the same global step.
    """
    return np.random.default_rng([_TRAIN, seed, phase_index, step, _stream_number(stream), block, occurrence])


def validation_generator(seed: int, stream: str, block: int) -> np.random.Generator:
    """Return the generator of one validation block's mask: the same in every phase and at every step."""
    return np.random.default_rng([_VALIDATION, seed, _stream_number(stream), block])


def mask_tokens(
    tokens_T: NDArray[np.integer], rate: float, rule: MaskingRule, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mask one block.

    Args:
        tokens_T: original ids, any integer type.
        rate: share of maskable tokens on which loss falls.
        rule: what may be masked and by what it is replaced.
        generator: from :func:`training_generator` or :func:`validation_generator`.

    Returns:
        ``input_ids_T`` with the replacements, and ``positions_M``, the chosen positions in ascending order.
    """
    input_ids_T = tokens_T.astype(np.int64)
    chosen_T = generator.random(tokens_T.shape[0], dtype=np.float32) < rate
    positions_M = np.flatnonzero(chosen_T & rule.maskable_V[input_ids_T])
    fate_M = generator.random(positions_M.shape[0], dtype=np.float32)
    replacements = np.flatnonzero(rule.maskable_V)
    random_M = replacements[generator.integers(0, replacements.shape[0], positions_M.shape[0])]
    becomes_mask_M = fate_M < rule.mask_share
    becomes_random_M = ~becomes_mask_M & (fate_M < rule.mask_share + rule.random_share)
    input_ids_T[positions_M[becomes_mask_M]] = rule.mask_id
    input_ids_T[positions_M[becomes_random_M]] = random_M[becomes_random_M]
    return input_ids_T, positions_M
