"""What the manifests of a phase's streams say, where they are on disk: blocks, fill, lengths. No array library."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padless.config.schema import Config, PhaseConfig, StreamConfig
from padless.data.json_file import read_json
from padless.errors import DataError
from padless.plan.lengths import Segments, assume_segments, mix_segments, segments_of_histogram

_MANIFEST = "manifest.json"
_ASSUMED_FILL = 0.999  # what packing reaches on web-like documents (docs/data.md)


@dataclass(frozen=True)
class StreamFacts:
    """One stream of a phase.

    Args:
        name: key under data.streams.
        share: of the phase's blocks.
        needed_blocks: that the phase reads of it.
        num_blocks: on disk at the phase's max_seq_len; None where that is not known.
        why_unknown: why it is not; None where it is.
    """

    name: str
    share: float
    needed_blocks: int
    num_blocks: int | None
    why_unknown: str | None

    @property
    def epochs(self) -> float | None:
        """How often the phase reads each of its blocks."""
        return self.needed_blocks / self.num_blocks if self.num_blocks else None


@dataclass(frozen=True)
class PhaseData:
    """Streams, segments and fill of a phase."""

    streams: tuple[StreamFacts, ...]
    segments: Segments
    fill: float  # real tokens of nominal ones
    fill_is_known: bool


def data_of_phase(config: Config, phase: PhaseConfig, phase_blocks: int, lengths: str | None = None) -> PhaseData:
    """Return what a phase reads.

    Args:
        config: for folders.
        phase: the phase.
        phase_blocks: blocks of all its steps.
        lengths: an assumption about lengths that is to be used instead of the manifests; None prefers these.

    Raises:
        DataError: a manifest is there and cannot be read.
    """
    total = sum(phase.streams.values())
    facts, parts, fills = [], [], []
    for name, proportion in phase.streams.items():
        share = proportion / total
        tree, why = _read(config.data.streams[name], phase.max_seq_len)
        split = {} if tree is None else tree["blocks"][str(phase.max_seq_len)]["train"]
        blocks = None if tree is None else int(split["num_blocks"])
        facts.append(StreamFacts(name, share, math.ceil(share * phase_blocks), blocks, why))
        if tree is not None:
            content, most = sum(tree["tokens"].values()), tree["max_document_tokens"]
            segments = segments_of_histogram(tree["length_histogram"], most, content, phase.max_seq_len, "")
            parts.append((segments, share))
            fills.append((float(split["fill"]), share))
    known = len(parts) == len(facts)
    if lengths is not None or not known:
        segments = assume_segments(phase.max_seq_len, lengths)
    else:
        segments = mix_segments(parts, "from the manifests' histograms of document lengths")
    fill = sum(each * share for each, share in fills) if known else _ASSUMED_FILL
    return PhaseData(tuple(facts), segments, fill, known)


def _read(stream: StreamConfig, max_seq_len: int) -> tuple[dict[str, Any] | None, str | None]:
    """Return a stream's manifest if it has blocks for the cap, or None and why not."""
    path = Path(stream.local) / _MANIFEST
    if not path.is_file():
        return None, f"no {path}"
    try:
        tree = read_json(path)
        caps = list(tree["blocks"])
        if str(max_seq_len) not in caps:
            return None, f"{stream.local} is prepared for max_seq_len {', '.join(caps)}, not {max_seq_len}"
        train = tree["blocks"][str(max_seq_len)]["train"]
        numbers = [
            train["num_blocks"],
            train["fill"],
            tree["max_document_tokens"],
            *tree["length_histogram"].values(),
            *tree["tokens"].values(),
        ]
        if not all(isinstance(number, int | float) for number in numbers) or not tree["length_histogram"]:
            raise ValueError("numbers are missing")
        if any(not key.isdecimal() for key in tree["length_histogram"]):
            raise ValueError("bounds of the histogram are not whole numbers")
        if min(numbers) < 0:
            raise ValueError("a number is negative")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a manifest: {type(error).__name__}: {error}",
            "prepare the folder again (data_prep/prepare.py), or point data.streams elsewhere",
        ) from error
    contents = (
        train["num_blocks"],
        train["fill"],
        sum(tree["tokens"].values()),
        sum(tree["length_histogram"].values()),
    )
    if not all(contents):
        raise DataError(
            f"{path} has no documents to train on at max_seq_len {max_seq_len}",
            "prepare the folder from documents that are not empty, or point data.streams elsewhere",
        )
    return tree, None
