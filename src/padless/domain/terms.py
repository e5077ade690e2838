"""Which words of a domain get a token of their own.

A term is a whole word with the space before it, as a byte-level tokenizer cuts texts before it looks at its vocabulary
(a "pre-token"). The best terms are those that save most tokens: how often the word occurs, times the pieces that it is
cut into beyond the first.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer

from padless.errors import DataError

LEAST_COUNT = 5  # ours: fewer occurrences do not train a row
LEAST_PIECES = 2
SPACE = "\u0120"  # how byte-level tokenizers write a space


@dataclass(frozen=True)
class Term:
    """A word that becomes one token."""

    token: str  # as the vocabulary writes it, with the space
    pieces: tuple[int, ...]  # ids that it is made of so far
    count: int  # occurrences in the documents

    @property
    def saved_tokens(self) -> int:
        """Tokens that the documents get shorter by."""
        return self.count * (len(self.pieces) - 1)


def count_words(texts: Iterable[str], tokenizer: Tokenizer) -> Counter[str]:
    """Return how often each pre-token of letters with a space before it occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        words = tokenizer.pre_tokenizer.pre_tokenize_str(normal)
        counts.update(token for token, (begin, end) in words if normal[begin:end].lstrip(" ").isalpha())
    return Counter({token: count for token, count in counts.items() if token.startswith(SPACE)})


def best_terms(counts: Counter[str], tokenizer: Tokenizer, most: int) -> list[Term]:
    """Return the ``most`` words that save most tokens, best first.

    Raises:
        DataError: no word is worth a token.
    """
    found = [term_of(token, count, tokenizer) for token, count in counts.items() if count >= LEAST_COUNT]
    worth = [term for term in found if len(term.pieces) >= LEAST_PIECES]
    if not worth:
        raise DataError(
            f"no word occurs {LEAST_COUNT} times and is cut into pieces: there is nothing to add",
            "give more documents, or keep the tokenizer as it is",
        )
    return sorted(worth, key=lambda term: (-term.saved_tokens, term.token))[:most]


def listed_terms(words: Iterable[str], counts: Counter[str], tokenizer: Tokenizer) -> tuple[list[Term], list[str]]:
    """Return the terms of a list that are not one token yet, and the words that are.

    Args:
        words: one a line of the user's; blank ones are left out, one that comes twice is taken once.
        counts: from :func:`count_words`.
        tokenizer: the source's.

    Raises:
        DataError: a line is not one word for this tokenizer.
    """
    terms: dict[str, Term] = {}  # two spellings of one word are one term once they are normalised
    already: list[str] = []
    for word in dict.fromkeys(line.strip() for line in words):
        if not word:
            continue
        normal = tokenizer.normalizer.normalize_str(word) if tokenizer.normalizer else word
        cut = tokenizer.pre_tokenizer.pre_tokenize_str(f" {normal}")
        if len(cut) != 1:
            raise DataError(
                f"{word!r} is not one word for this tokenizer, which cuts it into {len(cut)} before it looks at its "
                "vocabulary",
                "list single words; a term of several words is learned from its words",
            )
        term = term_of(cut[0][0], counts[cut[0][0]], tokenizer)
        if len(term.pieces) > 1:
            terms[term.token] = term
        else:
            already.append(word)
    return list(terms.values()), already


def term_of(token: str, count: int, tokenizer: Tokenizer) -> Term:
    """Return a pre-token with the pieces that the tokenizer's model cuts it into."""
    return Term(token, tuple(piece.id for piece in tokenizer.model.tokenize(token)), count)
