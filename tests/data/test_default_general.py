"""Without general text of the user's, the bundled one is validated on, in their tokenizer, and never trained on."""

import pytest

from padless.config.bundled_streams import validates_on_bundled
from padless.config.compose import compose
from padless.data.bundled import CORPUS, is_bundled
from padless.data.default_general import prepare_default_general
from padless.data.durable import sha256_of_file
from padless.data.manifest import read_manifest
from padless.data.prepare import prepare
from padless.errors import DataError

NO_REPLAY = ("~phases.adapt.streams.general", "~phases.anneal.streams.general")


def config_of(folder, *more):
    return compose(
        ["recipe=domain_continued", "start.source=weights", f"data.streams.domain.local={folder / 'domain'}",
         f"data.streams.general.local={folder / 'general'}", "data.block_tokens=512", "eval.max_seq_len=128", *more]
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, corpus, tokenizer):
    prepare(corpus, tmp_path / "domain", tokenizer, max_seq_len=(128,), block_tokens=512, workers=1)
    return tmp_path


def test_only_a_run_beside_other_streams_validates_on_it(tmp_path):
    assert validates_on_bundled(config_of(tmp_path))
    assert not validates_on_bundled(config_of(tmp_path, "data.prepare_bundled=false"))
    assert not validates_on_bundled(compose([]))  # the demo trains on the bundled streams


def test_it_is_prepared_with_the_tokenizer_of_the_domain_and_said(folder, tokenizer):
    said = []
    prepare_default_general(config_of(folder, *NO_REPLAY), said.append)
    assert len(said) == 1
    assert "no general text in" in said[0]
    manifest = read_manifest(folder / "general")
    assert manifest.tokenizer_sha256 == sha256_of_file(tokenizer)
    assert manifest.split(128, "val").num_blocks > 10
    assert is_bundled(folder / "general")
    prepare_default_general(config_of(folder, *NO_REPLAY), said.append)
    assert len(said) == 1, "what is there is left alone"
    prepare_default_general(config_of(folder, *NO_REPLAY, "eval.max_seq_len=64"), said.append)
    assert set(read_manifest(folder / "general").blocks) == {"64", "128"}


def test_a_phase_that_would_replay_it_is_refused_before_anything_is_prepared(folder):
    with pytest.raises(DataError) as caught:
        prepare_default_general(config_of(folder), print)
    assert "phases.adapt.streams mixes in 'general' as replay" in caught.value.cause
    assert "~phases.adapt.streams.general ~phases.anneal.streams.general" in caught.value.remedy
    assert not (folder / "general").exists()
    prepare_default_general(config_of(folder, *NO_REPLAY), lambda line: None)
    with pytest.raises(DataError, match=r"there is no general text of yours in"):
        prepare_default_general(config_of(folder), print)


def test_general_text_of_the_users_is_left_alone(folder, corpus, tokenizer):
    prepare(corpus, folder / "general", tokenizer, max_seq_len=(128,), block_tokens=512, workers=1)
    before = (folder / "general" / "manifest.json").read_bytes()
    prepare_default_general(config_of(folder), print)  # with replay
    assert (folder / "general" / "manifest.json").read_bytes() == before
    assert CORPUS.name not in read_manifest(folder / "general").input["given"]
