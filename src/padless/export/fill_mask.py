"""Filled masks from an exported folder, through transformers alone: what its users will see."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from padless.errors import ModelError

_SENTENCE = "The capital of France is {mask}."
_SHOWN = 3


@dataclass(frozen=True)
class FilledMask:
    """The best tokens for the first mask of a text."""

    text: str
    guesses: tuple[tuple[str, float], ...]  # token and its probability, best first

    def as_line(self) -> str:
        """Return ``text  ->  a 31 %, b 12 %`` on one line."""
        guesses = ", ".join(f"{token.strip() or repr(token)} {probability:.0%}" for token, probability in self.guesses)
        return f"{' '.join(self.text.split())}  ->  {guesses}"


def fill_masks(folder: Path, texts: Sequence[str], top_k: int) -> list[FilledMask]:
    """Return the ``top_k`` best tokens for the first mask of each text.

    Args:
        folder: an exported folder.
        texts: each holds the mask token, [MASK], within the model's longest segment.
        top_k: guesses a text.

    Raises:
        ModelError: the folder does not load, or a text has no mask token.
    """
    tokenizer, network = _load(folder)
    return [_fill(tokenizer, network, text, top_k) for text in texts]


def fill_example(folder: Path) -> FilledMask | None:
    """Return what an exported folder makes of a short sentence; of a mask alone where its segments are shorter.

    Raises:
        ModelError: the folder does not load.
    """
    tokenizer, network = _load(folder)
    for text in (_SENTENCE.format(mask=tokenizer.mask_token), tokenizer.mask_token):
        if len(tokenizer(text).input_ids) <= tokenizer.model_max_length:
            return _fill(tokenizer, network, text, _SHOWN)
    return None


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        network = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True, reference_compile=False)
    except Exception as error:  # a stranger's tokenizer settings raise anything
        raise ModelError(
            f"{folder} does not load in transformers: {(str(error) or type(error).__name__).splitlines()[0]}",
            "give a folder that padless exported, or the tokenizer that belongs to the weights",
        ) from error
    return tokenizer, network.eval()


def _fill(tokenizer: Any, network: Any, text: str, top_k: int) -> FilledMask:
    inputs = tokenizer(text, return_tensors="pt", truncation=True)
    places = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not places:
        raise ModelError(
            f"no {tokenizer.mask_token} within the first {tokenizer.model_max_length} tokens of {text[:60]!r}",
            f"write {tokenizer.mask_token} where a token is to be guessed",
        )
    with torch.no_grad():
        logits_V = network(**inputs).logits[0, places[0]]
    best = logits_V.softmax(-1).topk(top_k)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return FilledMask(text, tuple((tokenizer.decode([token]), value) for token, value in pairs))
