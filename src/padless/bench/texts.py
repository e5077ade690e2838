"""Real text in any amount: the bundled documents again and again, with a tokenizer trained on them."""

from collections.abc import Iterator
from pathlib import Path

import orjson
import zstandard

from padless.data.bundled import STREAMS, corpus_file
from padless.data.documents import Document, Meter, list_input, read_documents
from padless.data.durable import durable_file, write_durably
from padless.data.tokenizer_training import build_tokenizer


def bundled_documents() -> list[Document]:
    """Return all bundled documents.

    Raises:
        DataError: the corpus is not there.
    """
    files = [file for stream in STREAMS for file in list_input(corpus_file(stream))]
    return [document for file in files for document in read_documents(file, "text", Meter())]


def repeated_texts(folder: Path, megabytes: float) -> Path:
    """Write ``folder/<megabytes>MB.jsonl.zst``, the bundled documents until there is as much text; done once.

    Args:
        folder: made if missing.
        megabytes: least amount of UTF-8 text, in millions of bytes.
    """
    path = folder / f"{megabytes:g}MB.jsonl.zst"
    if path.is_file():
        return path
    with durable_file(path) as file, zstandard.ZstdCompressor().stream_writer(file, closefd=False) as lines:
        for line in _lines(megabytes * 1e6):
            lines.write(line)
    return path


def _lines(num_bytes: float) -> Iterator[bytes]:
    documents, written, turn = bundled_documents(), 0, 0
    while written < num_bytes:
        for number, document in enumerate(documents):
            record = {"id": f"{turn}-{number}", "source": document.source, "text": document.text}
            yield orjson.dumps(record) + b"\n"
            written += len(document.text.encode())
            if written >= num_bytes:
                return
        turn += 1


def trained_tokenizer(folder: Path, vocab_size: int) -> Path:
    """Train ``folder/tokenizer-<vocab_size>.json`` on the bundled documents; done once."""
    path = folder / f"tokenizer-{vocab_size}.json"
    if not path.is_file():
        tokenizer = build_tokenizer((document.text for document in bundled_documents()), vocab_size)
        write_durably(path, tokenizer.to_str(pretty=True).encode())
    return path


def texts_of(source: str | Path, text_key: str = "text", most_bytes: int | None = None) -> list[str]:
    """Return the texts of an input that are not empty, in order, up to a number of UTF-8 bytes."""
    texts, read = [], 0
    for file in list_input(source):
        for document in read_documents(file, text_key, Meter()):
            if most_bytes is not None and read >= most_bytes:
                return texts
            if document.text.strip():
                texts.append(document.text)
                read += len(document.text.encode())
    return texts
