"""Streams, tokenizer and source: there, whole and fitting the settings, or named with what to do."""

import shutil

import pytest

from padless.config.compose import compose
from padless.doctor.finding import isolated
from padless.doctor.streams import look_at_source, look_at_stream, look_at_tokenizer

from .conftest import change_manifest, smoke


def line(config, name="code"):
    (finding,) = isolated(f"stream {name}", lambda: look_at_stream(config, name))
    return finding


def test_a_prepared_stream_is_ok_with_its_blocks(prepared):
    finding = line(smoke(prepared))
    assert finding.state == "ok"
    assert finding.found.startswith(f"{prepared / 'code'}: blocks ")
    assert " at max_seq_len 64, " in finding.found
    assert finding.found.endswith(" at max_seq_len 256")


def test_a_bundled_stream_that_is_not_prepared_is_a_note(tmp_path):
    finding = line(smoke(tmp_path))
    assert (finding.state, "on first use" in finding.found) == ("note", True)


def test_general_text_of_a_domain_run_is_prepared_on_first_use_and_the_domain_is_not(tmp_path):
    streams = [f"data.streams.{name}.local={tmp_path / name}" for name in ("domain", "general")]
    config = compose(["recipe=domain_short", "start.source=weights", *streams])
    assert "on first use" in line(config, "general").found
    finding = line(config, "domain")
    assert (finding.state, finding.found) == ("mend", f"{tmp_path / 'domain'} does not exist")


def test_a_folder_that_does_not_exist_is_named_with_the_setting_and_the_command(tmp_path):
    finding = line(smoke(tmp_path, "data.prepare_bundled=false"))
    assert (finding.state, finding.found) == ("mend", f"{tmp_path / 'code'} does not exist")
    assert finding.remedy == (
        "set data.streams.code.local, or prepare it: python data_prep/prepare.py input=<documents> "
        f"output={tmp_path / 'code'} tokenizer=<tokenizer.json> max_seq_len=64,256"
    )


def test_a_preparation_that_was_cut_off_is_named(tmp_path):
    (tmp_path / "code").mkdir()
    finding = line(smoke(tmp_path, "data.prepare_bundled=false"))
    assert finding.state == "mend"
    assert finding.found.endswith("has no manifest.json: not prepared, or not to the end")


def test_a_remote_stream_is_not_contacted(tmp_path):
    config = smoke(tmp_path, "data.streams.code.remote=s3://bucket/code", "data.prepare_bundled=false")
    assert line(config).state == "note"
    assert "filled from s3://bucket/code at start" in line(config).found


def test_a_cache_with_a_manifest_needs_no_shards(prepared):
    config = smoke(prepared, "data.streams.code.remote=s3://bucket/code", "data.prepare_bundled=false")
    for shard in (prepared / "code").rglob("*.mds"):
        shard.unlink()
    assert line(config).state == "ok"
    assert "cache of s3://bucket/code (not contacted)" in line(config).found


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_shard_is_named(prepared, damage):
    shard = next((prepared / "code").rglob("train/*.mds"))
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1])
    finding = line(smoke(prepared))
    assert finding.state == "mend"
    assert str(shard) in finding.found


@pytest.mark.parametrize(
    ("override", "cause", "remedy"),
    [
        ("data.block_tokens=512", "has blocks of 256 tokens, data.block_tokens=512", "set data.block_tokens=256"),
        ("model.vocab_size=64", "model.vocab_size=64", "set model.vocab_size=512"),
        ("phases.short.max_seq_len=128", "prepared for max_seq_len 64, 256, not for 128", "max_seq_len=64,256,128"),
    ],
)
def test_a_stream_that_does_not_fit_the_settings_is_named(prepared, override, cause, remedy):
    finding = line(smoke(prepared, override))
    assert finding.state == "mend"
    assert cause in finding.found
    assert remedy in str(finding.remedy)


def test_one_tokenizer_for_all_is_ok_and_two_are_named(prepared):
    (finding,) = look_at_tokenizer(smoke(prepared))
    assert finding.state == "ok"
    change_manifest(prepared / "code", tokenizer_sha256="a" * 64)
    (finding,) = look_at_tokenizer(smoke(prepared))
    assert (finding.state, "code: aaaaaaaaaaaa" in finding.found) == ("mend", True)


def test_the_tokenizer_asked_for_is_compared(prepared, tmp_path):
    (finding,) = look_at_tokenizer(smoke(prepared, f"data.tokenizer={tmp_path / 'no.json'}"))
    assert finding.found == f"data.tokenizer={tmp_path / 'no.json'} does not exist"
    shutil.copy(prepared / "code" / "tokenizer.json", tmp_path / "same.json")
    (finding,) = look_at_tokenizer(smoke(prepared, f"data.tokenizer={tmp_path / 'same.json'}"))
    assert finding.state == "ok"
    (tmp_path / "same.json").write_text("{}")
    (finding,) = look_at_tokenizer(smoke(prepared, f"data.tokenizer={tmp_path / 'same.json'}"))
    assert finding.state == "mend"


def test_nothing_prepared_has_no_tokenizer_to_compare(tmp_path):
    (finding,) = look_at_tokenizer(smoke(tmp_path))
    assert finding.state == "note"


def test_a_source_that_is_not_there_is_named(tmp_path):
    assert list(look_at_source(smoke(tmp_path))) == []
    (finding,) = look_at_source(smoke(tmp_path, f"start.source={tmp_path / 'gone.pt'}"))
    assert (finding.state, finding.found) == ("mend", f"start.source={tmp_path / 'gone.pt'} does not exist")
    (tmp_path / "here.pt").write_bytes(b"")
    (finding,) = look_at_source(smoke(tmp_path, f"start.source={tmp_path / 'here.pt'}"))
    assert finding.state == "ok"


def test_a_source_on_the_hub_is_named_and_not_contacted(tmp_path):
    (finding,) = look_at_source(smoke(tmp_path, "start.source=ettin-150m@stable"))
    assert finding.state == "ok"
    assert "no path here, so jhu-clsp/ettin-encoder-150m@step599525 of the hub" in finding.found
    (finding,) = look_at_source(smoke(tmp_path, "start.source=modernbert-base@final"))
    assert finding.state == "mend"
    assert "no checkpoint 'final' of modernbert-base is known" in finding.found
