"""Is a tokenizer the one that weights were trained with? Told by its ids, or by the hash that an export recorded.

A token's id is the row of the embeddings that was trained for it: with other ids every text is read as another one, and
nothing else shows it.
"""

import json
from collections.abc import Mapping
from typing import Any

from padless.errors import ModelError
from padless.export.tokenizer_files import TOKENIZER, TokenizerFiles

_REMEDY = "leave tokenizer= out, since the source brings its own; other ids need weights that were trained with them"
_SHOWN_DIGITS = 12


def refuse_other_ids(given: TokenizerFiles, own: TokenizerFiles, given_name: str, own_name: str) -> None:
    """Refuse a tokenizer that has another id for a token of the source's own, or other special ones.

    Tokens may be more: ids that the source's own does not use mean nothing to it.

    Raises:
        ModelError: an id differs; the first one is named.
    """
    others = [(place, token) for token, place in own.ids.items() if given.ids.get(token) != place]
    if others:
        place, token = min(others)
        there = f"has {token!r:.60} as {given.ids[token]}" if token in given.ids else f"lacks {token!r:.60}"
        raise ModelError(
            f"{given_name} {there}, in {own_name} it is {place}; {len(others):_} of {len(own.ids):_} tokens differ",
            _REMEDY,
        )
    for name, place in own.special_ids.items():
        if given.special_ids[name] != place:
            raise ModelError(
                f"{given_name} has {given.special_ids[name]} as the id of {name}, {own_name} has {place}", _REMEDY
            )


def refuse_other_hash(files: TokenizerFiles, name: str, recorded: str) -> None:
    """Refuse a tokenizer.json that is not the one whose SHA-256 an export recorded.

    Raises:
        ModelError: it is another file.
    """
    if files.sha256 != recorded:
        raise ModelError(
            f"{name} (SHA-256 {files.sha256[:_SHOWN_DIGITS]}) is not the tokenizer that padless.json records "
            f"({recorded[:_SHOWN_DIGITS]})",
            "give the file that the weights were exported with; if this one differs in form alone, delete "
            "tokenizer_sha256 from padless.json",
        )


def refuse_other_specials(given: TokenizerFiles, given_name: str, config: Mapping[str, Any], vocab_size: int) -> None:
    """Refuse a tokenizer whose special ids are not those that a config.json states.

    Ids beyond the vocabulary are not looked at: transformers writes its defaults where a model has none.

    Raises:
        ModelError: one differs.
    """
    for name, place in given.special_ids.items():
        stated = config.get(f"{name}_token_id")
        if type(stated) is int and 0 <= stated < vocab_size and stated != place:
            raise ModelError(
                f"{given_name} has {place} as the id of {name}, the source's config.json says {name}_token_id={stated}",
                "give the tokenizer it was trained with, or correct config.json where that is wrong",
            )


def name_other_reading(given: TokenizerFiles, own: TokenizerFiles) -> str:
    """Return the parts by which two tokenizers of the same ids cut texts in other ways, empty where there are none."""
    ours, theirs = (json.loads(each.files[TOKENIZER]) for each in (given, own))
    return ", ".join(part for part in ("normalizer", "pre_tokenizer") if ours.get(part) != theirs.get(part))
