"""Masked-language-model masking: a pure function of its key, drawn in the main process as a step is assembled.

A training mask depends on (seed, phase, step, stream and block, occurrence of the block in the global step) and on
nothing else, so it is the same for every number of ranks, workers and microbatches, and after every resume; a block
that an upsampled mix repeats gets another mask. A validation mask depends on (seed, stream and block) alone.
The 80/10/10 rule is that of BERT (Devlin et al. 2019, section 3.1).

Legend: T tokens of one block, C chosen positions, M masked positions, V vocabulary, R ids that may be masked.
"""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TRAIN, _VALIDATION = 0, 1
_WORD = 2**32 - 1


@dataclass(frozen=True)
class MaskingRule:
    """What may be masked and by what it is replaced."""

    mask_id: int
    maskable_V: NDArray[np.bool_]  # False for special ids: never masked, never drawn as a replacement
    mask_share: float  # share of the chosen tokens that become [MASK]
    random_share: float  # share that becomes a random token; the rest stays
    replacements_R: NDArray[np.int64]  # the ids that may be masked: what a random token is drawn from

    @classmethod
    def build(
        cls, vocab_size: int, mask_id: int, special_ids: list[int], mask_share: float, random_share: float
    ) -> "MaskingRule":
        """Return the rule for a vocabulary of ``vocab_size`` entries with the given special ids."""
        maskable_V = np.ones(vocab_size, dtype=np.bool_)
        maskable_V[special_ids] = False
        return cls(mask_id, maskable_V, mask_share, random_share, np.flatnonzero(maskable_V))


def _generator(key: Sequence[int]) -> np.random.Generator:
    """Return ``np.random.default_rng(key)`` in half the time, which numpy spends on making one array of the key."""
    words: list[int] = []
    for number in key:
        while number > _WORD:
            words.append(number & _WORD)
            number >>= 32
        words.append(number)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(np.array(words, np.uint32))))


@functools.cache
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
    return _generator((_TRAIN, seed, phase_index, step, _stream_number(stream), block, occurrence))


def validation_generator(seed: int, stream: str, block: int) -> np.random.Generator:
    """Return the generator of one validation block's mask: the same in every phase and at every step."""
    return _generator((_VALIDATION, seed, _stream_number(stream), block))


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
    chosen_C = np.flatnonzero(generator.random(tokens_T.shape[0], dtype=np.float32) < rate)
    originals_C = tokens_T[chosen_C]
    is_maskable_C = rule.maskable_V.take(originals_C)
    positions_M = chosen_C[is_maskable_C]
    fate_M = generator.random(positions_M.shape[0], dtype=np.float32)
    random_M = rule.replacements_R[generator.integers(0, rule.replacements_R.shape[0], positions_M.shape[0])]
    changed_M = np.where(fate_M < rule.mask_share + rule.random_share, random_M, originals_C[is_maskable_C])
    input_ids_T = tokens_T.astype(np.int64)
    input_ids_T[positions_M] = np.where(fate_M < rule.mask_share, rule.mask_id, changed_M)
    return input_ids_T, positions_M
