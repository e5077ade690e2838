"""Small real documents and a small real tokenizer for the data tests."""

import json
import sys
from pathlib import Path

import pytest
import zstandard

sys.path.insert(0, str(Path(__file__).parent))  # makes small_streams importable

from padless.data.bundled import corpus_file
from padless.data.documents import Meter, list_input, read_documents
from padless.data.tokenizer_training import build_tokenizer

ODD_TEXTS = [
    "",
    "a",
    " \n\t ",
    "line one\u2028line two\u0085line three\x0cline four",
    "Ångström stays, A\u030angstro\u0308m is not NFC",
    "[CLS] a document about [SEP] and [MASK] tokens [PAD]",
    "Ελληνικά, русский, 日本語, العربية 🎉👩‍🔬",
]


def real_texts(count: int) -> list[str]:
    (file,) = list_input(corpus_file("code"))
    documents = read_documents(file, "text", Meter())
    return [next(documents).text[:4000] for _ in range(count)]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    lines = [
        json.dumps({"id": f"d{i}", "source": f"s{i % 2}", "text": text}, ensure_ascii=False)
        for i, text in enumerate(texts)
    ]
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [*real_texts(33), *ODD_TEXTS]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory, texts) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(build_tokenizer(texts, 500).to_str(pretty=True), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, texts) -> Path:
    """Three files of 40 documents: plain, zstd, and one more plain."""
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder / "a.jsonl", texts[:15])
    raw = write_jsonl(folder / "b.jsonl", texts[15:30]).read_bytes()
    (folder / "b.jsonl").unlink()
    (folder / "b.jsonl.zst").write_bytes(zstandard.compress(raw[:5000]) + zstandard.compress(raw[5000:]))
    write_jsonl(folder / "c.jsonl", texts[30:])
    return folder
