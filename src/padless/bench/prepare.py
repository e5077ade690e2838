"""``padless bench prepare``: documents to packed blocks on disk, against ``tokenizers`` that does nothing but encode.

    padless      jsonl.zst -> read -> tokens, kept -> packed blocks of each max_seq_len, written and synced
    tokenizers   ``encode_batch`` of the same texts, which lie in memory; its tokens are counted and let go

Both in one process on one core. ``tokenizers`` then encodes every document once more as preparation promises to (no
special tokens), and each has to be what lies on disk.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from padless.bench.apart import in_turns, measure_apart
from padless.bench.command import at_least_one, settings_of
from padless.bench.result import BenchResult, Figure, Ratio, publish
from padless.bench.step import speaker
from padless.bench.texts import repeated_texts, texts_of, trained_tokenizer
from padless.data.manifest import read_manifest
from padless.data.pipeline import num_tasks_for
from padless.data.prepare import prepare
from padless.data.token_store import TokenStore
from padless.data.tokenise import load_tokenizer
from padless.errors import TrainingError

PADLESS, BARE = "padless, all of it", "tokenizers, encode_batch alone"
TIMES = 10.0
_CHECKED_AT_ONCE = 256
_HERE = "padless.bench.prepare"


@dataclass(frozen=True)
class Job:
    """What both sides get; paths as text, since it goes to other processes."""

    source: str
    tokenizer: str
    text_key: str
    caps: tuple[int, ...]


DEFAULTS = {
    "input": "bundled",
    "text_key": "text",
    "tokenizer": "trained",
    "megabytes": "64",
    "vocab_size": "32_768",
    "max_seq_len": "1024,8192",
    "repeats": "3",
    "folder": "runs/bench/prepare",
}


def bench(arguments: list[str], as_json: bool) -> None:
    """Measure and publish.

    Raises:
        ConfigError: a setting is wrong.
        DataError: the input cannot be used.
        TrainingError: a process failed, or a document has other tokens than ``tokenizers`` gives it.
    """
    told = settings_of(arguments, DEFAULTS)
    folder, say = Path(told["folder"]), speaker(as_json)
    megabytes, vocab_size = at_least_one("megabytes", told["megabytes"]), at_least_one("vocab_size", told["vocab_size"])
    caps = tuple(at_least_one("max_seq_len", each) for each in told["max_seq_len"].split(","))
    source = str(repeated_texts(folder, megabytes)) if told["input"] == "bundled" else told["input"]
    tokenizer = told["tokenizer"] if told["tokenizer"] != "trained" else str(trained_tokenizer(folder, vocab_size))
    job = Job(source, tokenizer, told["text_key"], caps)
    result = run_prepare(folder, job, at_least_one("repeats", told["repeats"]), say)
    if told["input"] == "bundled":
        result.notes.append("The text is the bundled corpus (4.9 MB) again and again: both sides find words they know.")
    publish(result, folder, as_json)


def run_prepare(folder: Path, job: Job, repeats: int, say: Callable[[str], None]) -> BenchResult:
    """Measure both sides by turns, and compare every document's tokens.

    Args:
        folder: gets the prepared folder (the last one is kept) and logs.
        job: what is prepared.
        repeats: processes of each side.
        say: prints one line.

    Raises:
        TrainingError: a process failed, or a document has other tokens.
    """
    output = folder / "prepared"
    measured: dict[str, list[dict[str, Any]]] = {PADLESS: [], BARE: []}
    settings = {"source": job.source, "tokenizer": job.tokenizer, "text_key": job.text_key}
    for repeat, side in in_turns((PADLESS, BARE), repeats):
        log = folder / "logs" / f"{repeat}-{'padless' if side == PADLESS else 'tokenizers'}.txt"
        if side == PADLESS:
            own = {**settings, "output": str(output), "caps": job.caps}
            measured[side].append(measure_apart(f"{_HERE}:measure_padless", log, **own))
        else:
            measured[side].append(measure_apart(f"{_HERE}:measure_bare", log, **settings))
        spent = measured[side][-1]
        say(f"{repeat + 1}/{repeats} {side}: {spent['tokens'] / spent['cpu_s'] / 1e6:.2f}M tokens/s")
    say("comparing every document's tokens with those of tokenizers")
    compared = measure_apart(f"{_HERE}:compare", folder / "logs" / "compare.txt", output=str(output), **settings)
    if compared["differing"] or not compared["documents"]:
        raise TrainingError(
            f"{compared['differing']} of {compared['documents']} documents have other tokens than tokenizers gives "
            f"(first: number {compared['first']})",
            f"compare {output} with the input; prepare with fast=false uses tokenizers alone",
        )
    return _as_result(measured, compared, job)


def _as_result(measured: dict[str, list[dict[str, Any]]], compared: dict[str, int], job: Job) -> BenchResult:
    rates = {side: tuple(each["tokens"] / each["cpu_s"] for each in runs) for side, runs in measured.items()}
    caps = ", ".join(map(str, job.caps))
    case = f"blocks for max_seq_len {caps}"
    result = BenchResult("prepare")
    result.figures = [
        Figure(case, side, "million content tokens/CPU-s", tuple(each / 1e6 for each in values))
        for side, values in rates.items()
    ]
    times = tuple(ours / theirs for ours, theirs in zip(rates[PADLESS], rates[BARE], strict=True))
    result.ratios = [
        Ratio("documents to blocks over encode_batch", times, TIMES),
        Ratio("documents with other ids than tokenizers gives", (float(compared["differing"]),), 0.0, True),
    ]
    ours = measured[PADLESS][0]
    result.facts = {
        "documents": compared["documents"],
        "tokens": ours["tokens"],
        "blocks": ours["blocks"],
        "MB of text": round(measured[BARE][0]["bytes"] / 1e6, 1),
        "vocabulary": ours["vocab_size"],
        "core": "one, pinned; one process",
    }
    result.notes = [
        f"CPU-seconds, imports not counted. Ids compared with tokenizers on all {compared['documents']} documents.",
    ]
    return result


def measure_padless(source: str, tokenizer: str, text_key: str, output: str, caps: list[int]) -> dict[str, Any]:
    """Prepare into an empty folder; return tokens, blocks and CPU-seconds."""
    import transformers

    import padless.data.mds_write  # noqa: F401  (imports are not counted)

    assert transformers.PreTrainedTokenizerFast  # loads what preparation will import
    shutil.rmtree(output, ignore_errors=True)
    began_s = _cpu_s()
    manifest = prepare(
        source, output, tokenizer, max_seq_len=caps, text_key=text_key, workers=1, console=Console(file=StringIO())
    )
    return {
        "cpu_s": _cpu_s() - began_s,
        "tokens": sum(manifest.tokens.values()),
        "blocks": sum(split.num_blocks for splits in manifest.blocks.values() for split in splits.values()),
        "vocab_size": manifest.vocab_size,
    }


def measure_bare(source: str, tokenizer: str, text_key: str) -> dict[str, Any]:
    """Encode all texts with ``tokenizers``; return tokens, bytes of text and CPU-seconds."""
    texts, encoder = texts_of(source, text_key), load_tokenizer(Path(tokenizer))
    tokens, began_s = 0, _cpu_s()
    for begin in range(0, len(texts), _CHECKED_AT_ONCE):
        encoded = encoder.encode_batch(texts[begin : begin + _CHECKED_AT_ONCE], add_special_tokens=False)
        tokens += sum(map(len, encoded))
    return {"cpu_s": _cpu_s() - began_s, "tokens": tokens, "bytes": sum(len(text.encode()) for text in texts)}


def compare(source: str, tokenizer: str, text_key: str, output: str) -> dict[str, int]:
    """Return how many documents a prepared folder has, and how many of them with other tokens than ``tokenizers``."""
    manifest, texts = read_manifest(Path(output)), texts_of(source, text_key)
    store = TokenStore(Path(output) / "tokens", num_tasks_for(len(manifest.input["files"])), manifest.dtype)
    if len(texts) != store.tokens_D.size:
        return {"documents": len(texts), "differing": abs(len(texts) - store.tokens_D.size), "first": -1}
    encoder, known, differing = load_tokenizer(Path(tokenizer)), dict[str, np.ndarray](), []
    for number, text in enumerate(texts):
        if text not in known:  # the bundled texts come again and again
            known[text] = np.array(encoder.encode(text, add_special_tokens=False).ids)
        if not np.array_equal(store.content(number, 0, int(store.tokens_D[number])), known[text]):
            differing.append(number)
    return {"documents": len(texts), "differing": len(differing), "first": differing[0] if differing else -1}


def _cpu_s() -> float:
    """Return the processor seconds of this process and of those it has waited for."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system
