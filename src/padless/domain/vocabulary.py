"""Terms into a tokenizer.json, so that nothing else is tokenised otherwise than before.

A byte-level BPE model may take a whole word that is in its vocabulary as it is, before it merges (``ignore_merges``).
Terms are added to the vocabulary without merges: they are found as whole words and nowhere else, and words that only
contain one stay as they are. That changes no other text if the merges make every old entry by themselves, which is
checked. (Added tokens would be cut out of the middle of words; new merges would change other words.)
"""

import copy
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from padless.domain.terms import Term
from padless.errors import DataError

VOCAB_MULTIPLE = 64


def check_extensible(tree: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer whose vocabulary cannot be extended this way.

    Args:
        tree: content of the tokenizer.json.
        tokenizer: the same, loaded.

    Raises:
        DataError: it is not byte-level BPE, or has entries that its merges do not make.
    """
    kind = tree["model"].get("type")
    cutters = [tree.get("pre_tokenizer") or {}, *((tree.get("pre_tokenizer") or {}).get("pretokenizers") or [])]
    if kind != "BPE" or not any(cutter.get("type") == "ByteLevel" for cutter in cutters):
        raise DataError(
            f"this is a {kind} with pre-tokenizer {cutters[0].get('type')}; terms are added to byte-level BPE only",
            "continue with the tokenizer as it is: terms are then learned from their pieces",
        )
    if tree["model"].get("ignore_merges"):
        return
    added = {token["content"] for token in tree["added_tokens"]}
    odd = [
        token
        for token in tree["model"]["vocab"]
        if token not in added and [piece.value for piece in tokenizer.model.tokenize(token)] != [token]
    ]
    if odd:
        raise DataError(
            f"{len(odd)} entries of the vocabulary are not made by its merges (first: {odd[0]!r}), so other texts "
            "would be tokenised otherwise",
            "continue with the tokenizer as it is: terms are then learned from their pieces",
        )


def extend_vocabulary(tree: dict[str, Any], terms: Sequence[Term]) -> tuple[dict[str, Any], list[int]]:
    """Return a tokenizer.json with the terms, and their ids, which follow the largest one so far."""
    extended = copy.deepcopy(tree)
    vocabulary: dict[str, int] = extended["model"]["vocab"]
    for token in extended["added_tokens"]:  # an entry keeps its id when the vocabulary grows only if it is part of it
        vocabulary.setdefault(token["content"], token["id"])
    first = max(vocabulary.values()) + 1
    ids = list(range(first, first + len(terms)))
    vocabulary.update(zip((term.token for term in terms), ids, strict=True))
    extended["model"]["ignore_merges"] = True
    return extended, ids
