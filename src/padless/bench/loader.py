"""``padless bench loader``: packed blocks from disk to masked batches, against text that is tokenised on the way.

    padless               MDS shards -> block -> mask -> PackedBatch, as a rank of a training run does it
    padless, one worker   the same, blocks read in a loader process
    text                  texts in memory -> ``tokenizers`` encode_batch, cut at max_seq_len -> padded batch -> mask

Rates are of real tokens (filler and padding earn nothing) a CPU-second of all processes of a side together, pinned to
one core. Before the clock runs, more batches are taken than all buffers hold, so that nothing counts that was ready.
"""

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Generator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from padless.bench.apart import in_turns, measure_apart
from padless.bench.command import at_least_one, settings_of
from padless.bench.result import BenchResult, Figure, Ratio, publish
from padless.bench.step import speaker
from padless.bench.texts import repeated_texts, texts_of, trained_tokenizer
from padless.data.loader import BatchRules, StepLoader
from padless.data.manifest import MANIFEST, Manifest, read_manifest
from padless.data.masking import MaskingRule
from padless.data.prepare import prepare
from padless.data.tokenise import load_tokenizer

BLOCK_TOKENS, MASK_RATE, TEXT_ROWS = 8192, 0.3, 32
BUFFERED_BLOCKS = 2048  # more than Streaming looks ahead, and than a loader process keeps ready
TEXT_MEGABYTES = 32
CHARACTERS_A_TOKEN = 4
ALONE, WORKER, TEXT = "padless", "padless, one worker", "text tokenised on the way"
_LEAST_MILLION_A_SECOND, _TIMES_TEXT, _MOST_TRANSFER = 30.0, 40.0, 0.3
_HERE = "padless.bench.loader"


DEFAULTS = {
    "blocks": "8_000",
    "microbatch_blocks": "8",
    "text_batches": "60",
    "max_seq_len": "1024",
    "vocab_size": "32_768",
    "repeats": "5",
    "folder": "runs/bench/loader",
}


def bench(arguments: list[str], as_json: bool) -> None:
    """Measure and publish.

    Raises:
        ConfigError: a setting is wrong.
        TrainingError: a process failed.
    """
    told = settings_of(arguments, DEFAULTS)
    numbers = {key: at_least_one(key, told[key]) for key in DEFAULTS if key != "folder"}
    folder, say = Path(told["folder"]), speaker(as_json)
    publish(run_loader(folder, say, **numbers), folder, as_json)


def run_loader(
    folder: Path,
    say: Callable[[str], None],
    *,
    blocks: int,
    microbatch_blocks: int,
    text_batches: int,
    max_seq_len: int,
    vocab_size: int,
    repeats: int,
) -> BenchResult:
    """Measure the three loaders by turns.

    Args:
        folder: gets the blocks (kept for the next time) and logs.
        say: prints one line.
        blocks: that padless loads, after what fills the buffers.
        microbatch_blocks: blocks of a batch.
        text_batches: batches of 32 texts that the text loader makes.
        max_seq_len: cap on a segment, and on a text.
        vocab_size: of the tokenizer, which is trained on the bundled documents.
        repeats: processes of each loader.
    """
    tokenizer, source = trained_tokenizer(folder, vocab_size), repeated_texts(folder, TEXT_MEGABYTES)
    prepared = _prepared(folder / f"blocks-{max_seq_len}-{vocab_size}", source, tokenizer, max_seq_len)
    ours = {"folder": str(prepared), "cap": max_seq_len, "blocks": blocks, "microbatch_blocks": microbatch_blocks}
    text = {"source": str(source), "tokenizer": str(tokenizer), "cap": max_seq_len, "batches": text_batches}
    jobs: dict[str, tuple[str, dict[str, Any]]] = {
        ALONE: ("measure_blocks", {**ours, "workers": 0}),
        WORKER: ("measure_blocks", {**ours, "workers": 1}),
        TEXT: ("measure_text", text),
    }
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for repeat, name in in_turns(list(jobs), repeats):
        function, settings = jobs[name]
        log = folder / "logs" / f"{repeat}-{list(jobs).index(name)}.txt"
        measured[name].append(measure_apart(f"{_HERE}:{function}", log, **settings))
        last = measured[name][-1]
        say(
            f"{repeat + 1}/{repeats} {name}: {last['tokens'] / last['cpu_s'] / 1e6:.2f}M tokens/CPU-s, "
            f"{last['tokens'] / last['wall_s'] / 1e6:.2f}M tokens/s"
        )
    result = _as_result(measured, f"blocks of {BLOCK_TOKENS}")
    result.facts = {
        "blocks": blocks,
        "microbatch": f"{microbatch_blocks} blocks",
        "max_seq_len": max_seq_len,
        "mask rate": MASK_RATE,
        "text batches": f"{text_batches} of {TEXT_ROWS}",
        "vocabulary": vocab_size,
        "core": "one, pinned",
    }
    return result


def _as_result(measured: dict[str, list[dict[str, float]]], case: str) -> BenchResult:
    result = BenchResult("loader")
    rates = {name: tuple(run["tokens"] / run["cpu_s"] for run in runs) for name, runs in measured.items()}
    result.figures = [
        Figure(case, name, "million real tokens/CPU-s", tuple(each / 1e6 for each in values))
        for name, values in rates.items()
    ]
    result.figures += [
        Figure(case, name, "million real tokens/s", tuple(run["tokens"] / run["wall_s"] / 1e6 for run in runs))
        for name, runs in measured.items()
    ]
    millions = tuple(rate / 1e6 for rate in rates[ALONE])
    times = tuple(ours / theirs for ours, theirs in zip(rates[ALONE], rates[TEXT], strict=True))
    transfer = tuple(1 - worker / alone for worker, alone in zip(rates[WORKER], rates[ALONE], strict=True))
    result.ratios = [
        Ratio("million masked tokens/CPU-s in process", millions, _LEAST_MILLION_A_SECOND),
        Ratio("padless over text tokenised on the way", times, _TIMES_TEXT),
        Ratio("share of the CPU time with one worker that is transfer", transfer, _MOST_TRANSFER, True),
    ]
    result.notes = [
        "Masked tokens are the real tokens of blocks that went through masking. Wall time is that of one core that all "
        "processes share. The text loader is ours, and plain; its documents are cut beforehand at "
        f"{CHARACTERS_A_TOKEN} characters for each token of max_seq_len, so that it throws hardly a token away.",
    ]
    return result


def _prepared(folder: Path, source: Path, tokenizer: Path, max_seq_len: int) -> Path:
    if not (folder / MANIFEST).is_file():
        prepare(
            source,
            folder,
            tokenizer,
            max_seq_len=(max_seq_len,),
            block_tokens=BLOCK_TOKENS,
            workers=1,
            console=Console(file=StringIO()),
        )
    return folder


def measure_blocks(folder: str, cap: int, blocks: int, microbatch_blocks: int, workers: int) -> dict[str, float]:
    """Load blocks as a rank does, one microbatch a step; return real tokens, and seconds of all processes."""
    steps = _open(Path(folder), cap, microbatch_blocks, workers)
    batches = _steps(steps)
    for _ in range(-(-BUFFERED_BLOCKS // microbatch_blocks)):
        next(batches)
    spent = _Spent()
    tokens = sum(next(batches) for _ in range(-(-blocks // microbatch_blocks)))
    seconds = spent.so_far()
    batches.close()
    steps.close()
    return {"tokens": tokens, **seconds}


def _open(folder: Path, cap: int, microbatch_blocks: int, workers: int) -> StepLoader:
    from padless.data.mds import BlockReader, StreamSource  # Streaming takes seconds to import

    manifest = read_manifest(folder)
    reader = BlockReader(
        [StreamSource(manifest.packed("text", folder, cap, "train"), None, 1.0)],
        quantum_blocks=microbatch_blocks,
        microbatch_blocks=microbatch_blocks,
        num_canonical_nodes=1,
        shuffle_seed=0,
        num_workers=workers,
    )
    rules = BatchRules(BLOCK_TOKENS, cap, manifest.special_ids["pad"], _masking(manifest), seed=0, phase_index=0)
    return StepLoader(reader.microbatches(0), rules)


def _masking(manifest: Manifest) -> MaskingRule:
    special = list(manifest.all_special_ids)
    return MaskingRule.build(manifest.vocab_size, manifest.special_ids["mask"], special, 0.8, 0.1)


def _steps(loader: StepLoader) -> Generator[int, None, None]:
    """Yield the real tokens of each step."""
    steps = iter(loader)
    for step in itertools.count():
        loader.begin_step(step, 1, MASK_RATE)
        yield sum(batch.num_real_tokens for batch in next(steps))


def measure_text(source: str, tokenizer: str, cap: int, batches: int) -> dict[str, float]:
    """Tokenise, pad and mask batches of texts; return real tokens and seconds."""
    texts, encoder = _pieces(texts_of(source), CHARACTERS_A_TOKEN * cap), load_tokenizer(Path(tokenizer))
    encoder.enable_truncation(cap)
    ids = {name: encoder.token_to_id(f"[{name}]") for name in ("PAD", "MASK", "CLS", "SEP")}
    draw, vocab_size = np.random.default_rng(0), encoder.get_vocab_size()
    order = draw.permutation(len(texts))

    def load(number: int) -> int:
        rows = [texts[order[(number * TEXT_ROWS + row) % len(texts)]] for row in range(TEXT_ROWS)]
        padded_RT = pad([encoded.ids for encoded in encoder.encode_batch(rows)], ids["PAD"])
        mask_padded(padded_RT, list(ids.values()), ids["MASK"], vocab_size, draw)
        return int((padded_RT != ids["PAD"]).sum())

    load(0)
    spent = _Spent()
    return {"tokens": sum(load(1 + number) for number in range(batches)), **spent.so_far()}


def _pieces(texts: list[str], characters: int) -> list[str]:
    return [text[begin : begin + characters] for text in texts for begin in range(0, len(text), characters)]


def pad(rows: list[list[int]], pad_id: int) -> NDArray[np.int64]:
    """Return rows as one array, each filled up to the longest."""
    padded_RT = np.full((len(rows), max(map(len, rows))), pad_id, np.int64)
    for row_T, ids in zip(padded_RT, rows, strict=True):
        row_T[: len(ids)] = ids
    return padded_RT


def mask_padded(
    ids_RT: NDArray[np.int64], special_ids: list[int], mask_id: int, vocab_size: int, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Mask a padded batch in place, as collators of padded batches do, and return its labels (-100 is none)."""
    labels_RT = ids_RT.copy()
    chosen_RT = (draw.random(ids_RT.shape, np.float32) < MASK_RATE) & ~np.isin(ids_RT, special_ids)
    labels_RT[~chosen_RT] = -100
    fate_RT = draw.random(ids_RT.shape, np.float32)
    ids_RT[chosen_RT & (fate_RT < 0.8)] = mask_id
    is_random_RT = chosen_RT & (fate_RT >= 0.8) & (fate_RT < 0.9)
    ids_RT[is_random_RT] = draw.integers(0, vocab_size, int(is_random_RT.sum()))
    return labels_RT


class _Spent:
    """Time spent since it was made: of the wall, and of the processors by this process and its living children."""

    def __init__(self) -> None:
        self._pids = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
        self._cpu_s, self._wall_s = self._all_cpu_s(), time.perf_counter()

    def so_far(self) -> dict[str, float]:
        return {"cpu_s": self._all_cpu_s() - self._cpu_s, "wall_s": time.perf_counter() - self._wall_s}

    def _all_cpu_s(self) -> float:
        return time.process_time() + sum(map(_process_cpu_s, self._pids))


def _process_cpu_s(pid: int) -> float:
    """Return the processor seconds of all threads that a living process has or had (Linux), to a hundredth."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
