"""The bundled corpus: readable, licensed, small, prepared in seconds and only once."""

import hashlib

import pytest

from padless.data import bundled
from padless.data.bundled import CORPUS, STREAMS, corpus_file, prepare_bundled
from padless.data.documents import Meter, list_input, read_documents
from padless.data.manifest import verify_manifest
from padless.errors import DataError


def test_corpus_is_what_its_readme_says():
    readme = (CORPUS / "README.md").read_text()
    for stream in STREAMS:
        path = corpus_file(stream)
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" in readme
        (file,) = list_input(path)
        documents = list(read_documents(file, "text", Meter()))
        assert f"| `{path.name}` | {len(documents)} |" in readme
        assert len({document.id for document in documents}) == len(documents)
    assert sum(path.stat().st_size for path in CORPUS.iterdir()) < 5_000_000


def test_a_missing_corpus_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "CORPUS", tmp_path)
    with pytest.raises(DataError, match=r"the bundled sample corpus is not at"):
        prepare_bundled(tmp_path / "out", 512, (64,), 2048)


@pytest.mark.slow
def test_prepared_once_then_left_alone_and_a_lost_stream_is_made_again(tmp_path, capsys):
    prepare_bundled(tmp_path, 512, (64, 512), 512)
    manifests = {stream: verify_manifest(tmp_path / stream, read_shards=True) for stream in STREAMS}
    for manifest in manifests.values():
        assert manifest.vocab_size == 512
        assert min(manifest.split(cap, "train").fill for cap in (64, 512)) >= 0.98
        assert manifest.split(512, "val").num_blocks > 5
    capsys.readouterr()
    prepare_bundled(tmp_path, 512, (64, 512), 512)
    assert capsys.readouterr().out == ""
    (tmp_path / "code" / "manifest.json").unlink()
    prepare_bundled(tmp_path, 512, (64, 512), 512)
    assert verify_manifest(tmp_path / "code").blocks == manifests["code"].blocks
    with pytest.raises(DataError, match=r"has 512 entries, the recipe wants 1024"):
        prepare_bundled(tmp_path, 512, (64, 512), 1024)
