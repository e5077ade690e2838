"""``padless bench packing``: documents packed by best-fit decreasing, against a packer that packs as documents come.

The other side stands in for packers that work while a model trains: bounded-space online best fit, written here as
plainly as it goes. It keeps a number of rows open, puts each document into the fullest row with room for it, closes the
fullest row where there is none, and cuts documents off at the length of a row. Its Python loop a document is the point.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padless.bench.apart import in_turns, measure_apart
from padless.bench.command import at_least_one, settings_of, whole_number
from padless.bench.result import BenchResult, Figure, Ratio, publish
from padless.bench.step import speaker
from padless.data.packing import SPECIALS_PER_SEGMENT, cut, pack

MEAN_TOKENS, SPREAD = 660, 1.0  # log-normal, as web pages roughly are: content tokens, deviation of the logarithm
CASES = ((1024, 1024), (1024, 8192), (8192, 8192))  # max_seq_len, block_tokens
OPEN_ROWS = 64
PADLESS, ONLINE = "padless, best fit decreasing", "online best fit, truncating"
_LEAST_MILLION_A_SECOND, _LEAST_FILL = 10.0, 0.999
_HERE = "padless.bench.packing"


DEFAULTS = {
    "documents": "1_000_000",
    "online_documents": "50_000",
    "repeats": "3",
    "seeds": "0,1",
    "folder": "runs/bench/packing",
}


def bench(arguments: list[str], as_json: bool) -> None:
    """Measure and publish.

    Raises:
        ConfigError: a setting is wrong.
        TrainingError: a process failed.
    """
    told = settings_of(arguments, DEFAULTS)
    documents, online = (at_least_one(key, told[key]) for key in ("documents", "online_documents"))
    seeds = [whole_number("seeds", each) for each in told["seeds"].split(",")]
    folder = Path(told["folder"])
    result = run_packing(folder, documents, online, at_least_one("repeats", told["repeats"]), seeds, speaker(as_json))
    publish(result, folder, as_json)


def run_packing(
    folder: Path, documents: int, online_documents: int, repeats: int, seeds: list[int], say: Callable[[str], None]
) -> BenchResult:
    """Measure both sides by turns, in processes of their own.

    Args:
        folder: gets logs.
        documents: that padless packs at once.
        online_documents: that the online packer gets; fewer, because it is slow.
        repeats: of each side, for each case and seed.
        seeds: of the lengths.
        say: prints one line.
    """
    counts = {PADLESS: documents, ONLINE: online_documents}
    result = BenchResult("packing")
    for max_seq_len, block_tokens in CASES:
        case = f"{max_seq_len} in blocks of {block_tokens}"
        measured: dict[str, list[dict[str, float]]] = {PADLESS: [], ONLINE: []}
        for seed in seeds:
            for repeat, side in in_turns((PADLESS, ONLINE), repeats):
                function = f"{_HERE}:{'measure_padless' if side == PADLESS else 'measure_online'}"
                settings = {"documents": counts[side], "seed": seed, "cap": max_seq_len, "block_tokens": block_tokens}
                log = (
                    folder / "logs" / f"{max_seq_len}-{block_tokens}-{seed}-{repeat}-{function.rpartition('_')[2]}.txt"
                )
                measured[side].append(measure_apart(function, log, **settings))
            say(
                f"{case}, seed {seed}: {measured[PADLESS][-1]['rate'] / 1e6:.1f}M lengths/s, fill "
                f"{measured[PADLESS][-1]['fill']:.2%}; online {measured[ONLINE][-1]['rate'] / 1e6:.3f}M, fill "
                f"{measured[ONLINE][-1]['fill']:.2%}, {measured[ONLINE][-1]['lost']:.1%} of the tokens cut off"
            )
        _add_case(result, case, measured)
    result.facts = {
        "documents": f"{documents:_} (online {online_documents:_})",
        "content": f"log-normal, {MEAN_TOKENS} tokens on average, spread {SPREAD}",
        "open rows online": OPEN_ROWS,
        "seeds": ",".join(map(str, seeds)),
        "core": "one, pinned",
    }
    result.notes = [
        "Lengths are of segments with specials: documents over max_seq_len are cut, which is timed apart. The online "
        "packer is a stand-in of ours for packers that work during training; it cuts long documents off.",
    ]
    return result


def _add_case(result: BenchResult, case: str, measured: dict[str, list[dict[str, float]]]) -> None:
    def of(side: str, key: str) -> tuple[float, ...]:
        return tuple(each[key] for each in measured[side])

    for side in (PADLESS, ONLINE):
        result.figures += [Figure(case, side, "million lengths/s", tuple(each / 1e6 for each in of(side, "rate")))]
        result.figures += [
            Figure(case, side, "empty, % of the blocks", tuple(100 * (1 - each) for each in of(side, "fill")))
        ]
        result.figures += [Figure(case, side, "tokens lost, %", tuple(100 * each for each in of(side, "lost")))]
    documents = tuple(each / 1e6 for each in of(PADLESS, "documents_rate"))
    result.figures.append(Figure(case, "padless, cutting too", "million documents/s", documents))
    rates = tuple(rate / 1e6 for rate in of(PADLESS, "rate"))
    faster = tuple(ours / theirs for ours, theirs in zip(of(PADLESS, "rate"), of(ONLINE, "rate"), strict=True))
    result.ratios += [
        Ratio(f"{case}: million lengths/s", rates, _LEAST_MILLION_A_SECOND),
        Ratio(f"{case}: fill", of(PADLESS, "fill"), _LEAST_FILL),
        Ratio(f"{case}: share of the tokens lost", of(PADLESS, "lost"), 0.0, True),
        Ratio(f"{case}: padless over online", faster),
    ]


def draw_documents(documents: int, seed: int) -> NDArray[np.int64]:
    """Return content lengths of web-like documents, in tokens."""
    draw = np.random.default_rng(seed)
    lengths_D = np.exp(draw.normal(np.log(MEAN_TOKENS) - SPREAD**2 / 2, SPREAD, documents))
    return np.maximum(1, np.round(lengths_D)).astype(np.int64)


def measure_padless(documents: int, seed: int, cap: int, block_tokens: int) -> dict[str, float]:
    """Return lengths and documents a CPU-second, the fill, and the share of tokens that are in no block."""
    content_D = draw_documents(documents, seed)
    pack(cut(content_D[:1000], cap).lengths_N, block_tokens)  # what numpy does once
    began_s = time.process_time()
    lengths_N = cut(content_D, cap).lengths_N
    cut_s = time.process_time()
    packing = pack(lengths_N, block_tokens)
    end_s = time.process_time()
    packed = np.bincount(packing.order_N, minlength=lengths_N.size)
    tokens_B = np.add.reduceat(lengths_N[packing.order_N], packing.offsets_B1[:-1])
    is_sound = bool((packed == 1).all()) and int(tokens_B.max()) <= block_tokens
    content = int((lengths_N - SPECIALS_PER_SEGMENT).sum()) if is_sound else 0
    return {
        "rate": lengths_N.size / (end_s - cut_s),
        "documents_rate": documents / (end_s - began_s),
        "fill": int(lengths_N.sum()) / (packing.num_blocks * block_tokens),
        "lost": 1 - content / int(content_D.sum()),
    }


def measure_online(documents: int, seed: int, cap: int, block_tokens: int) -> dict[str, float]:
    """Return the same of the online packer; a document is one length for it."""
    content_D = draw_documents(documents, seed)
    began_s = time.process_time()
    lengths_D = np.minimum(content_D + SPECIALS_PER_SEGMENT, cap)
    fill = pack_online(lengths_D, block_tokens)
    spent_s = time.process_time() - began_s
    lost = 1 - int((lengths_D - SPECIALS_PER_SEGMENT).sum()) / int(content_D.sum())
    return {"rate": documents / spent_s, "fill": fill, "lost": lost}


def pack_online(lengths_D: NDArray[Any], row_tokens: int, open_rows: int = OPEN_ROWS) -> float:
    """Pack documents as they come and return the fill of the rows that were closed for want of room.

    Args:
        lengths_D: of the documents, each at most ``row_tokens``.
        row_tokens: tokens a row can hold.
        open_rows: rows that documents can go into at a time.
    """
    free_R = np.full(open_rows, row_tokens)
    closed_rows = closed_tokens = 0
    for length in lengths_D.tolist():
        fitting_R = np.flatnonzero(free_R >= length)
        if fitting_R.size:
            row = fitting_R[free_R[fitting_R].argmin()]
        else:
            row = free_R.argmin()
            closed_rows, closed_tokens = closed_rows + 1, closed_tokens + row_tokens - int(free_R[row])
            free_R[row] = row_tokens
        free_R[row] -= length
    return closed_tokens / (closed_rows * row_tokens) if closed_rows else 1.0
