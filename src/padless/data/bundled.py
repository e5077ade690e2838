"""The bundled sample corpus, prepared: one tokenizer, three streams. For the demo and for tests, without a network."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from padless.config.bundled_streams import GENERAL, STREAMS
from padless.data.documents import Meter, list_input, read_documents
from padless.data.durable import write_durably
from padless.data.manifest import MANIFEST, read_manifest
from padless.data.prepare import prepare
from padless.data.tokenizer_training import build_tokenizer
from padless.errors import DataError

CORPUS = Path(__file__).parents[3] / "data_prep" / "sample_corpus"
VAL_FRACTION = 0.03
GENERAL_VAL_FRACTION = 0.5  # of general text that is there to be validated on: the more, the steadier the loss


def corpus_file(stream: str) -> Path:
    """Return the documents of one bundled stream.

    Raises:
        DataError: the corpus is not there.
    """
    path = CORPUS / f"{stream}.jsonl.zst"
    if not path.is_file():
        raise DataError(
            f"the bundled sample corpus is not at {CORPUS}",
            "run from a clone of the repository (pip install -e .), or prepare documents of your own",
        )
    return path


def prepare_bundled(output_root: Path, block_tokens: int, max_seq_lens: Sequence[int], vocab_size: int) -> None:
    """Prepare the bundled corpus into ``output_root/{general,code,science}``; what is complete is left alone.

    Args:
        output_root: also gets ``tokenizer.json``, trained on all three streams.
        block_tokens: tokens a block can hold.
        max_seq_lens: caps on a segment, in tokens with specials.
        vocab_size: of the tokenizer.

    Raises:
        DataError: the corpus is not there, or the folder holds a tokenizer of another size.
        ConfigError: the folder was prepared with another ``block_tokens``.
    """
    files = {stream: corpus_file(stream) for stream in STREAMS}
    if all(_is_prepared(output_root / stream, block_tokens, max_seq_lens) for stream in STREAMS) and _has_tokenizer(
        output_root, vocab_size
    ):
        return
    console = Console()
    tokenizer = output_root / "tokenizer.json"
    if not _has_tokenizer(output_root, vocab_size):
        console.print(f"training a tokenizer of {vocab_size} entries on the bundled corpus", highlight=False)
        built = build_tokenizer(_texts(files), vocab_size)
        write_durably(tokenizer, built.to_str(pretty=True).encode("utf-8"))
    for stream, path in files.items():
        prepare(
            path,
            output_root / stream,
            tokenizer,
            max_seq_len=max_seq_lens,
            block_tokens=block_tokens,
            val_fraction=VAL_FRACTION,
            workers=1,
            console=console,
        )


def prepare_general(
    folder: Path, tokenizer: Path, block_tokens: int, max_seq_lens: Sequence[int], console: Console
) -> None:
    """Prepare the bundled general text with a tokenizer of the user's, as what forgetting is measured on by default.

    Args:
        folder: prepared stream; what is complete is left alone.
        tokenizer: tokenizer.json of the model that is continued, or its folder.
        block_tokens: tokens a block can hold.
        max_seq_lens: caps on a segment, in tokens with specials.
        console: where progress and the summary go.

    Raises:
        DataError: the corpus is not there, or the tokenizer cannot be used.
        ConfigError: the folder was prepared with other settings.
    """
    prepare(
        corpus_file(GENERAL),
        folder,
        tokenizer,
        max_seq_len=max_seq_lens,
        block_tokens=block_tokens,
        val_fraction=GENERAL_VAL_FRACTION,
        workers=1,
        console=console,
    )


def is_bundled(folder: Path) -> bool:
    """Return whether a prepared folder holds the bundled general text, and nothing of the user's."""
    return (folder / MANIFEST).is_file() and read_manifest(folder).input["given"] == str(corpus_file(GENERAL))


def _texts(files: dict[str, Path]) -> Iterator[str]:
    for path in files.values():
        for file in list_input(path):
            yield from (document.text for document in read_documents(file, "text", Meter()))


def _is_prepared(folder: Path, block_tokens: int, max_seq_lens: Sequence[int]) -> bool:
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    return manifest.block_tokens == block_tokens and all(str(cap) in manifest.blocks for cap in max_seq_lens)


def _has_tokenizer(output_root: Path, vocab_size: int) -> bool:
    path = output_root / "tokenizer.json"
    if not path.is_file():
        return False
    tree = json.loads(path.read_bytes())
    ids = [*tree["model"]["vocab"].values(), *(token["id"] for token in tree["added_tokens"])]
    if max(ids) + 1 != vocab_size:
        raise DataError(
            f"{path} has {max(ids) + 1} entries, the recipe wants {vocab_size}",
            f"prepare into another folder, or delete {output_root}",
        )
    return True
