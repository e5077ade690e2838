"""Do the exported folder, loaded by transformers, and our own model give the same logits?

Legend: T packed tokens, S segments, V vocabulary.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from padless.config.schema import ModelConfig, RopeConfig
from padless.data.batch import PackedBatch
from padless.errors import ModelError
from padless.model.masked_lm import MaskedLM
from padless.model.tensor_shapes import DECODER, EMBEDDING

# Ragged, with one token, both sides of the +/-64 window's edges, and longer than one window.
_LENGTHS = (1, 2, 3, 17, 64, 65, 66, 128, 129, 130, 200, 300)


@dataclass(frozen=True)
class ParityResult:
    """How far two sets of logits are apart."""

    max_abs_difference: float
    top1_agreement: float  # share of positions with the same best token


def compare_with_transformers(
    folder: Path,
    state_dict: Mapping[str, Tensor],
    model: ModelConfig,
    rope: RopeConfig,
    special_ids: Mapping[str, int],
    max_position_tokens: int,
    segment_tokens: tuple[int, ...] = _LENGTHS,
) -> ParityResult:
    """Return the difference between our logits and those of ``AutoModelForMaskedLM`` on one ragged batch, fp32 on CPU.

    Ours run unpadded in one row, transformers' padded, as its users will run it.

    Args:
        folder: what transformers loads.
        state_dict: our weights.
        model: their shape.
        rope: their thetas.
        special_ids: ids of ``cls``, ``sep``, ``pad`` and ``mask``.
        max_position_tokens: longest segment; longer ones are left out.
        segment_tokens: lengths of the segments to compare.

    Raises:
        ModelError: transformers cannot load the folder, or finds tensors missing, left over or misshapen.
    """
    lengths = tuple(length for length in segment_tokens if length <= max_position_tokens)
    ids_T = _draw_ids(lengths, model.vocab_size, special_ids)
    ours_TV = _our_logits(ids_T, lengths, state_dict, model, rope)
    theirs_TV = _their_logits(_load(folder), ids_T, lengths, special_ids["pad"])
    difference = (ours_TV - theirs_TV).abs().max().item()
    agreement = (ours_TV.argmax(-1) == theirs_TV.argmax(-1)).double().mean().item()
    return ParityResult(difference, agreement)


def _draw_ids(lengths: tuple[int, ...], vocab_size: int, special_ids: Mapping[str, int]) -> Tensor:
    """Return random ids between [CLS] and [SEP], every seventh one [MASK]; [PAD] never."""
    generator = torch.Generator().manual_seed(0)
    segments = []
    for length in lengths:
        ids = torch.randint(0, vocab_size, (length,), generator=generator)
        ids[ids == special_ids["pad"]] = special_ids["mask"]
        ids[3::7] = special_ids["mask"]
        ids[-1], ids[0] = special_ids["sep"], special_ids["cls"]
        segments.append(ids)
    return torch.cat(segments)


@torch.no_grad()
def _our_logits(
    ids_T: Tensor, lengths: tuple[int, ...], state_dict: Mapping[str, Tensor], model: ModelConfig, rope: RopeConfig
) -> Tensor:
    network = MaskedLM(model, rope, backend="sdpa")
    network.load_state_dict({DECODER: state_dict[EMBEDDING], **state_dict})
    nothing = torch.empty(0, dtype=torch.int64)
    borders = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    batch = PackedBatch(ids_T, borders, nothing, nothing, lengths, max(lengths), len(ids_T), 0)
    return network.eval().logits(batch).float()


def _load(folder: Path) -> Any:
    from transformers import AutoModelForMaskedLM

    try:
        network, info = AutoModelForMaskedLM.from_pretrained(
            folder, output_loading_info=True, local_files_only=True, reference_compile=False
        )
    except Exception as error:
        raise ModelError(
            f"transformers cannot load the export: {type(error).__name__}: {str(error).splitlines()[0]}",
            "this is likely a version of transformers that padless was not made for; report it",
        ) from error
    problems = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    problems = {key: names for key, names in problems.items() if names}
    if problems:
        raise ModelError(
            f"transformers does not take the exported tensors: {problems}", "export weights of this config, all of them"
        )
    return network.float().eval()


@torch.no_grad()
def _their_logits(network: Any, ids_T: Tensor, lengths: tuple[int, ...], pad_id: int) -> Tensor:
    segments = ids_T.split(lengths)
    padded = torch.nn.utils.rnn.pad_sequence(list(segments), batch_first=True, padding_value=pad_id)
    present = torch.arange(padded.shape[1])[None, :] < torch.tensor(lengths)[:, None]
    return network(input_ids=padded, attention_mask=present.to(torch.int64)).logits[present].float()
