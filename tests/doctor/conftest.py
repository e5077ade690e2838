"""The smoke recipe's streams, prepared from a few documents, for checks that look at them."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from padless.config.compose import compose
from padless.config.schema import Config
from padless.data.bundled import corpus_file
from padless.data.documents import Meter, list_input, read_documents
from padless.data.prepare import prepare
from padless.data.tokenizer_training import build_tokenizer

STREAMS = ("general", "code", "science")


def smoke(root: Path, *overrides: str) -> Config:
    """Return the smoke recipe on streams under ``root``, with its run folder there too."""
    streams = [f"data.streams.{name}.local={root / name}" for name in STREAMS]
    return compose(["recipe=smoke", f"run.folder={root / 'runs'}", *streams, *overrides])


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory) -> Path:
    """A folder with one prepared stream, and its documents and tokenizer."""
    root = tmp_path_factory.mktemp("stream")
    (file,) = list_input(corpus_file("code"))
    documents = read_documents(file, "text", Meter())
    texts = [next(documents).text[:2000] for _ in range(30)]
    lines = [json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts)]
    (root / "documents.jsonl").write_text("\n".join(lines) + "\n")
    (root / "tokenizer.json").write_text(build_tokenizer(texts, 500).to_str())
    prepare(
        root / "documents.jsonl",
        root / "code",
        root / "tokenizer.json",
        max_seq_len=(64, 256),
        block_tokens=256,
        val_fraction=0.1,
        workers=1,
        console=Console(quiet=True),
    )
    return root


@pytest.fixture
def prepared(prepared_once, tmp_path) -> Path:
    """A folder with all three streams of the smoke recipe, the same blocks in each."""
    for name in STREAMS:
        shutil.copytree(prepared_once / "code", tmp_path / name)
    return tmp_path


def change_manifest(folder: Path, **changes) -> None:
    """Change fields of a manifest, as another preparation would have written them."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
