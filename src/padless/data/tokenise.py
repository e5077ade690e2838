"""Texts to content tokens, with the tokenizer.json that the model will be exported with.

Two implementations read that file: ``gigatoken``, about a hundred times faster, and ``tokenizers``, which defines what
is right. gigatoken gets what it is known to agree on: a tokenizer that it supports, text that is NFC-normalised and
does not spell out a special token. ``tokenizers`` does the rest, and a sample of everything a second time; one token of
difference is an error, not a statistic.

A document that contains the characters "[SEP]" gets the tokens of those characters: a text cannot forge a border.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import gigatoken
import numpy as np
import tokenizers
from numpy.typing import NDArray

from padless.data.durable import sha256_of_file
from padless.errors import DataError

SPECIALS = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
ORACLE_EVERY = 256  # one document of so many is tokenised twice, and the first of every task
TRAIN_REMEDY = "train one with data_prep/train_tokenizer.py, or add them to tokenizer.json and resize the model"

TokenArray = NDArray[np.uint32]


@dataclass(frozen=True)
class TokenizerFacts:
    """What the rest of the data path needs to know about a tokenizer."""

    sha256: str
    vocab_size: int  # largest id + 1, added tokens included
    special_ids: dict[str, int]  # unk, cls, sep, pad, mask
    all_special_ids: tuple[int, ...]  # sorted; never masked

    @property
    def dtype(self) -> str:
        """Return the smallest dtype that holds every id."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"


def tokenizer_file(tokenizer: str | Path) -> Path:
    """Return the tokenizer.json that ``tokenizer`` (the file or its folder) names.

    Raises:
        DataError: it does not exist.
    """
    path = Path(tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"tokenizer {path} does not exist", "give a tokenizer.json, or train one with data_prep/train_tokenizer.py"
        )
    return path


def load_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer, set to read special tokens in a text as plain characters.

    Raises:
        DataError: the file is not a tokenizer.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise DataError(
            f"{path} is not a tokenizer: {error}", "give a tokenizer.json of the `tokenizers` library"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokenizer_facts(path: Path) -> TokenizerFacts:
    """Return what is known about a tokenizer, after checking that a model can be pretrained with it.

    Raises:
        DataError: one of the five special tokens is missing, or the template does not add [CLS] and [SEP].
    """
    tokenizer = load_tokenizer(path)
    found = {name: tokenizer.token_to_id(token) for name, token in SPECIALS.items()}
    missing = [SPECIALS[name] for name, token_id in found.items() if token_id is None]
    if missing:
        raise DataError(f"tokenizer {path} has no {', '.join(missing)}", TRAIN_REMEDY)
    special_ids = {name: int(token_id) for name, token_id in found.items() if token_id is not None}
    ids = tokenizer.encode("a").ids
    if len(ids) < 2 or (ids[0], ids[-1]) != (special_ids["cls"], special_ids["sep"]):
        raise DataError(
            f"tokenizer {path} encodes a text without [CLS] in front and [SEP] behind",
            "give it the post-processor template `[CLS] $A [SEP]`: segments have it, the exported model needs it",
        )
    added = tokenizer.get_added_tokens_decoder()
    special = {token_id for token_id, token in added.items() if token.special} | set(special_ids.values())
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    return TokenizerFacts(sha256_of_file(path), vocab_size, special_ids, tuple(sorted(special)))


class Tokeniser:
    """Texts to content tokens (no specials), checked against ``tokenizers`` on a sample.

    Args:
        path: tokenizer.json.
        fast: use gigatoken where it can be.
    """

    def __init__(self, path: Path, *, fast: bool = True) -> None:
        self._oracle = load_tokenizer(path)
        self._fast = _load_fast(path) if fast else None
        added = self._oracle.get_added_tokens_decoder().values()
        self._spells_special = _finder([token.content for token in added if token.special])
        self._seen = 0
        self.num_fast = 0
        self.num_checked = 0

    @property
    def is_fast(self) -> bool:
        """Whether gigatoken reads this tokenizer."""
        return self._fast is not None

    def encode(self, texts: Sequence[str], ids: Sequence[str]) -> list[TokenArray]:
        """Return the tokens of each text.

        Args:
            texts: documents.
            ids: what the documents are called in an error.

        Raises:
            DataError: the two implementations differ on a document.
        """
        fast = [place for place, text in enumerate(texts) if self._is_safe(text)] if self._fast else []
        tokens: dict[int, TokenArray] = dict(zip(fast, self._encode_fast([texts[i] for i in fast]), strict=True))
        sample = [place for place in fast if (self._seen + place) % ORACLE_EVERY == 0]
        if fast and self.num_checked == 0 and not sample:
            sample = fast[:1]
        for place, expected in zip(sample, self._encode_oracle([texts[i] for i in sample]), strict=True):
            _require_equal(tokens[place], expected, ids[place])
        rest = [place for place in range(len(texts)) if place not in tokens]
        tokens.update(zip(rest, self._encode_oracle([texts[i] for i in rest]), strict=True))
        self._seen += len(texts)
        self.num_fast += len(fast)
        self.num_checked += len(sample)
        return [tokens[place] for place in range(len(texts))]

    def _is_safe(self, text: str) -> bool:
        return unicodedata.is_normalized("NFC", text) and not self._spells_special(text)

    def _encode_fast(self, texts: list[str]) -> list[TokenArray]:
        if not texts or self._fast is None:
            return []
        ragged = self._fast.encode_batch(texts)
        flat = np.asarray(ak.flatten(ragged), dtype=np.uint32)
        return np.split(flat, np.cumsum(np.asarray(ak.num(ragged)))[:-1])

    def _encode_oracle(self, texts: list[str]) -> list[TokenArray]:
        encodings = self._oracle.encode_batch_fast(texts, add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype=np.uint32) for encoding in encodings]


def _finder(wanted: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that says whether a text contains one of many strings.

    A vocabulary may have thousands of [unused0] [unused1] ... To look for each of them takes a hundred times as long as
    to tokenise; what they begin with, up to the first digit, is few strings and seldom occurs.
    """
    beginnings = {text[:1] + re.split(r"\d", text[1:], maxsplit=1)[0] for text in wanted}
    begins = re.compile("|".join(map(re.escape, sorted(beginnings))))
    return lambda text: begins.search(text) is not None and any(each in text for each in wanted)


def _load_fast(path: Path) -> gigatoken.Tokenizer | None:
    """Return gigatoken's reading of the file, or None if it does not support this kind of tokenizer."""
    content = path.read_text(encoding="utf-8")
    if json.loads(content)["model"].get("ignore_merges"):  # read without a word, and not obeyed: gigatoken 0.10
        return None
    try:
        return gigatoken.Tokenizer.from_json(content)
    except (ValueError, RuntimeError, NotImplementedError):
        return None


def _require_equal(tokens: TokenArray, expected: TokenArray, document_id: str) -> None:
    if np.array_equal(tokens, expected):
        return
    shorter = min(tokens.size, expected.size)
    differing = np.flatnonzero(tokens[:shorter] != expected[:shorter])
    place = int(differing[0]) if differing.size else shorter
    raise DataError(
        f"gigatoken and tokenizers differ on document {document_id!r} from token {place} on "
        f"({tokens.size} and {expected.size} tokens)",
        "prepare with fast=false (tokenizers only), and report the document to gigatoken",
    )
