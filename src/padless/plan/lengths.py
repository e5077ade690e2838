"""How long the segments of a phase are: from the manifests of its streams, or an assumption that the plan states.

Attention grows with the square of a segment's length, so a plan needs the distribution and not only the cap. Here it is
a list of segments with weights, a few hundred that stand for all. Standard library only.

    documents of n content tokens, weighted          a law's quantiles, or a manifest's histogram
       | cut at max_seq_len - 2, as data/packing.py cuts
    segments with weights
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from padless.config.schema import ModelConfig
from padless.plan.flops import attention_flops

_SPECIALS_PER_SEGMENT = 2  # [CLS] and [SEP]
_QUANTILES = 400
_PLACES_A_BIN = 16
_MOST_LEAN, _HALVINGS = 8.0, 30
_SHORT_CAP = 2048  # caps up to here are planned with web-like documents, larger ones with long documents


@dataclass(frozen=True)
class Law:
    """A log-normal distribution of content lengths; the same figures as the benches of speed use.

    Args:
        name: as it is asked for.
        says: what it stands for.
        mean_tokens: mean content length of a document before it is cut.
        spread: standard deviation of the logarithm.
    """

    name: str
    says: str
    mean_tokens: int
    spread: float


LAWS = {
    law.name: law
    for law in (
        Law("web", "assumed: web-like documents, log-normal, 660 tokens on average", 660, 1.0),
        Law("long", "assumed: long documents, log-normal, 3,000 tokens on average", 3_000, 0.5),
    )
}
FULL = "full"  # every segment as long as the cap allows


@dataclass(frozen=True)
class Segments:
    """Segments that stand for all of a phase: lengths with specials, how often each occurs, and where that is from."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...]
    says: str

    @property
    def tokens(self) -> float:
        """Tokens of all segments, by weight."""
        return sum(length * weight for length, weight in zip(self.lengths, self.weights, strict=True))

    @property
    def mean_tokens(self) -> float:
        """Mean length of a segment."""
        return self.tokens / sum(self.weights)

    def attention_flops_a_token(self, model: ModelConfig) -> float:
        """Return the forward pass's operations of attention a token: exact for each segment and for the window."""
        pairs = zip(self.lengths, self.weights, strict=True)
        return sum(weight * attention_flops(model, (length,)) for length, weight in pairs) / self.tokens


def assume_segments(max_seq_len: int, name: str | None = None) -> Segments:
    """Return the assumption for a cap: ``web``, ``long`` or ``full``; None takes web up to 2048 and long above."""
    if name == FULL:
        return Segments((max_seq_len,), (1.0,), "assumed: full rows")
    law = LAWS[name or ("web" if max_seq_len <= _SHORT_CAP else "long")]
    draw = NormalDist(math.log(law.mean_tokens) - law.spread**2 / 2, law.spread).inv_cdf
    contents = [max(1, round(math.exp(draw((place + 0.5) / _QUANTILES)))) for place in range(_QUANTILES)]
    return cut_documents(((content, 1.0) for content in contents), max_seq_len, law.says)


def segments_of_histogram(
    histogram: Mapping[str, int], most_tokens: int, total_tokens: int, max_seq_len: int, says: str
) -> Segments:
    """Return the segments of a manifest's documents.

    Args:
        histogram: documents by content tokens; a key is the upper bound of its bin, a power of two. Within a bin,
            logarithms of lengths lean to one side, in all bins alike, so that the documents have their known total.
        most_tokens: content of the longest document.
        total_tokens: content of all documents.
        max_seq_len: cap on a segment.
        says: where this is from.
    """
    lean_low, lean_high = -_MOST_LEAN, _MOST_LEAN
    for _ in range(_HALVINGS):
        lean = (lean_low + lean_high) / 2
        documents = _spread(histogram, most_tokens, lean)
        is_too_long = sum(content * weight for content, weight in documents) > total_tokens
        lean_low, lean_high = (lean_low, lean) if is_too_long else (lean, lean_high)
    return cut_documents(_spread(histogram, most_tokens, lean_low), max_seq_len, says)


def _spread(histogram: Mapping[str, int], most_tokens: int, lean: float) -> list[tuple[int, float]]:
    """Return (content tokens, weight) of documents spread over each bin, more of them at its upper end for lean > 0."""
    shares = [math.exp(lean * (place + 0.5) / _PLACES_A_BIN) for place in range(_PLACES_A_BIN)]
    documents: list[tuple[int, float]] = []
    for key, count in histogram.items():
        upper = int(key)
        least, most = upper / 2, min(upper, max(most_tokens, upper / 2))
        for place, share in enumerate(shares):
            content = max(1, round(least * (most / least) ** ((place + 0.5) / _PLACES_A_BIN)))
            documents.append((content, count * share / sum(shares)))
    return documents


def cut_documents(documents: Iterable[tuple[int, float]], max_seq_len: int, says: str) -> Segments:
    """Return the segments of documents given as (content tokens, weight): full ones, and the last with an eighth."""
    cap = max_seq_len - _SPECIALS_PER_SEGMENT
    found: dict[int, float] = {}
    for content, weight in documents:
        for length, number in _cut(content, cap):
            found[length] = found.get(length, 0.0) + weight * number
    lengths = sorted(found)
    return Segments(
        tuple(length + _SPECIALS_PER_SEGMENT for length in lengths), tuple(found[each] for each in lengths), says
    )


def mix_segments(parts: Sequence[tuple[Segments, float]], says: str) -> Segments:
    """Return the segments of several streams, each with its share of the tokens."""
    found: dict[int, float] = {}
    for segments, share in parts:
        for length, weight in zip(segments.lengths, segments.weights, strict=True):
            found[length] = found.get(length, 0.0) + weight * share / segments.tokens
    return Segments(tuple(sorted(found)), tuple(found[length] for length in sorted(found)), says)


def _cut(content: int, cap: int) -> list[tuple[int, int]]:
    """Return (content tokens of a segment, how many such) of one document."""
    if content <= cap:
        return [(content, 1)]
    full, last = divmod(content, cap)
    if last == 0:
        return [(cap, full)]
    missing = max(cap // 8 - last, 0)
    if missing == 0:
        return [(cap, full), (last, 1)]
    return [(cap, full - 1), (cap - missing, 1), (last + missing, 1)]
