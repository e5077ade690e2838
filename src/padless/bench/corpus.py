"""Data for the benches: few bundled documents, which a short run passes several times, or very many tiny blocks."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from padless.data.bundled import STREAMS, corpus_file
from padless.data.documents import Meter, list_input, read_documents
from padless.data.durable import write_durably
from padless.data.manifest import MANIFEST, SplitBlocks, read_manifest, write_manifest
from padless.data.mds_write import BlockArrays, write_split
from padless.data.prepare import prepare
from padless.data.tokenizer_training import build_tokenizer

BLOCK_TOKENS = 256
CAPS = (64, 256)
VOCAB_SIZE = 2048
MAX_CHARACTERS = 8_000  # of a document
STREAM_CHARACTERS = 20_000
VAL_FRACTION = 0.3
VALIDATION_BLOCKS = 64
DRAWN_BLOCKS = 10_000  # at a time


def small_documents(stream: str) -> list[str]:
    """Return the first short documents of a bundled stream, :data:`STREAM_CHARACTERS` of them in all."""
    texts: list[str] = []
    for file in list_input(corpus_file(stream)):
        for document in read_documents(file, "text", Meter()):
            if sum(map(len, texts)) >= STREAM_CHARACTERS:
                return texts
            if len(document.text) <= MAX_CHARACTERS:
                texts.append(document.text)
    return texts


def prepare_small(folder: Path) -> Path:
    """Prepare ``folder/{general,code,science}`` and ``folder/tokenizer.json``; what is complete is left alone.

    Raises:
        DataError: the bundled corpus is not there.
    """
    if all((folder / stream / MANIFEST).is_file() for stream in STREAMS):
        return folder
    texts = {stream: small_documents(stream) for stream in STREAMS}
    tokenizer = build_tokenizer((text for each in texts.values() for text in each), VOCAB_SIZE)
    write_durably(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode("utf-8"))
    for stream, documents in texts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        write_durably(folder / f"{stream}.jsonl", lines.encode("utf-8"))
        prepare(
            folder / f"{stream}.jsonl",
            folder / stream,
            folder / "tokenizer.json",
            max_seq_len=CAPS,
            block_tokens=BLOCK_TOKENS,
            val_fraction=VAL_FRACTION,
            workers=1,
            console=Console(file=io.StringIO()),
        )
    return folder


def prepare_many(folder: Path, blocks: int, block_tokens: int) -> Path:
    """Write ``blocks`` blocks of random tokens, one full segment each, as a prepared folder; done once.

    Args:
        folder: the stream's.
        blocks: for training; validation gets :data:`VALIDATION_BLOCKS`.
        block_tokens: of a block, which is also the cap on its segment.
    """
    if (folder / MANIFEST).is_file():
        return folder
    model = prepare_small(folder.parent / "prepared-small") / "general"
    manifest = read_manifest(model)
    folder.mkdir(parents=True, exist_ok=True)
    for path in model.glob("*.json"):
        if path.name != MANIFEST:
            shutil.copy(path, folder / path.name)
    allowed = np.setdiff1d(np.arange(manifest.vocab_size), manifest.all_special_ids).astype(manifest.dtype)
    splits = {}
    for seed, (name, count) in enumerate({"train": blocks, "val": VALIDATION_BLOCKS}.items()):
        path = f"blocks/{block_tokens}/{name}"
        shards = write_split(folder / path, _random_blocks(allowed, count, block_tokens, seed), manifest.dtype)
        splits[name] = SplitBlocks(count, count, count * block_tokens, 1.0, path, 0.0, {}, shards)
    tokens = {name: split.num_real_tokens for name, split in splits.items()}
    blocks_of = {str(block_tokens): splits}
    write_manifest(folder, replace(manifest, block_tokens=block_tokens, tokens=tokens, blocks=blocks_of))
    return folder


def _random_blocks(allowed: np.ndarray, count: int, block_tokens: int, seed: int) -> Iterator[BlockArrays]:
    draw, lengths_S = np.random.default_rng(seed), np.array([block_tokens], np.int32)
    for begin in range(0, count, DRAWN_BLOCKS):
        size = (min(DRAWN_BLOCKS, count - begin), block_tokens)
        for tokens_T in draw.choice(allowed, size):
            yield tokens_T, lengths_S
