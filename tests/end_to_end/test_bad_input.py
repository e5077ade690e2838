"""What the user can mend is refused at once: exit code 2, one line of cause, one of remedy, no traceback."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
from here import copy_of, refusal, smoke_run
from runs import PREPARED, overrides, run

from padless.config.compose import compose
from padless.data.manifest import read_manifest, write_manifest
from padless.data.preflight import open_data
from padless.errors import DataError

OWN = {"data.prepare_bundled": "false"}


class OneRank:
    is_leader = is_node_leader = True
    num_nodes = 1

    def barrier(self):
        pass


def opened(config):
    said = []
    prepared = open_data(config, OneRank(), said.append)
    return prepared, [line for line in said if "left in shared memory" not in line]  # this machine may have some


@pytest.fixture
def data(tmp_path):
    """A copy of one stream that a test may damage."""
    return copy_of(PREPARED / "code", tmp_path / "code")


def config_with(folder, *more):
    arguments = overrides(folder.parent, **OWN)
    return compose([*arguments, f"data.streams.code.local={folder}", *more])


def change_manifest(folder, **fields):
    """Rewrite figures of the 256 training split."""
    manifest = read_manifest(folder)
    splits = manifest.blocks["256"]
    blocks = {**manifest.blocks, "256": {**splits, "train": replace(splits["train"], **fields)}}
    write_manifest(folder, replace(manifest, blocks=blocks))


def assert_refused(config, *parts):
    with pytest.raises(DataError) as caught:
        opened(config)
    for part in parts:
        assert part in str(caught.value)


def test_whole_data_is_opened(data):
    prepared, said = opened(config_with(data))
    assert set(prepared.streams) == {"general", "code", "science"}
    assert said == []
    assert [source.name for source in prepared.train_sources(config_with(data).phases["anneal"])] == list(
        prepared.streams
    )


def test_a_folder_that_was_not_prepared_is_refused(tmp_path):
    assert_refused(config_with(tmp_path / "none"), f"{tmp_path / 'none'} has no manifest.json", "data_prep/prepare.py")


def test_a_missing_and_a_truncated_shard_are_refused_by_name(data):
    shard = next((data / "blocks" / "256" / "train").glob("*.mds"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    assert_refused(
        config_with(data), f"shard {shard} is damaged", f"{len(whole) - 100:_} bytes found, {len(whole):_} expected"
    )
    shard.unlink()
    assert_refused(config_with(data), f"shard {shard} is missing", "prepare the folder again")


def test_another_tokenizer_in_the_folder_is_refused(data):
    tokenizer = data / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert_refused(config_with(data), f"{tokenizer} is not the tokenizer the shards were made with", "put the original")


def test_another_tokenizer_than_the_expected_one_is_refused(data, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    assert_refused(config_with(data, f"data.tokenizer={tmp_path / 'other.json'}"), "the tokenizers differ (general: ")
    assert_refused(config_with(data, "data.tokenizer=nowhere.json"), "data.tokenizer=nowhere.json does not exist")
    opened(config_with(data, f"data.tokenizer={data / 'tokenizer.json'}"))


def test_a_vocabulary_smaller_than_the_ids_is_refused(data):
    assert_refused(
        config_with(data, "model.vocab_size=1984"), "ids up to 2047, model.vocab_size=1984", "set model.vocab_size=2048"
    )


def test_other_block_tokens_are_refused(data):
    config = config_with(data, "data.block_tokens=512")
    assert_refused(config, "has blocks of 256 tokens, data.block_tokens=512", "set data.block_tokens=256")


def test_a_length_that_was_not_packed_is_refused(data):
    config = config_with(data, "phases.context.max_seq_len=128")
    assert_refused(config, "prepared for max_seq_len 64, 256, not for 128", "max_seq_len=64,256,128")


def long_phase(data, share):
    """A phase of 4096-token segments over data whose manifest states ``share`` of tokens in long documents."""
    manifest = read_manifest(data)
    splits = manifest.blocks["256"]
    shares = {**splits["train"].segment_token_share_over, "2048": share}
    long_split = {**splits, "train": replace(splits["train"], segment_token_share_over=shares)}
    write_manifest(data, replace(manifest, blocks={**manifest.blocks, "4096": long_split}, block_tokens=4096))
    config = config_with(data)
    phase = replace(config.phases["context"], max_seq_len=4096, streams={"code": 1.0}, allow_short_documents=False)
    return replace(
        config,
        data=replace(config.data, streams={"code": config.data.streams["code"]}, block_tokens=4096),
        phases={"context": phase},
        phase_order=("context",),
        eval=replace(config.eval, streams=("code",)),
    )


def test_a_long_phase_on_short_documents_is_refused_with_the_share(data):
    config = long_phase(data, 0.0042)
    assert_refused(
        config, "max_seq_len=4096, but only 0.42% of stream 'code'", "phases.context.allow_short_documents=true"
    )
    allowed = {"context": replace(config.phases["context"], allow_short_documents=True)}
    opened(replace(config, phases=allowed))


def test_a_long_phase_on_long_documents_is_accepted(data):
    opened(long_phase(data, 0.2))


def test_fill_under_98_percent_is_a_warning_with_the_remedy(data):
    change_manifest(data, fill=0.9612)
    _, said = opened(config_with(data))
    line = "note: stream 'code' at 256 fills its blocks to 96.1% only; prepare it from more documents, or a "
    assert said
    assert all(each.startswith(line) for each in said)


def test_a_split_without_blocks_is_refused(data):
    change_manifest(data, num_blocks=0)
    assert_refused(config_with(data), "stream 'code' of phase 'context' has no training blocks", "more text")


def test_no_validation_blocks_are_refused(data):
    manifest = read_manifest(data)
    splits = manifest.blocks["64"]
    empty = {**splits, "val": replace(splits["val"], num_blocks=0)}
    write_manifest(data, replace(manifest, blocks={**manifest.blocks, "64": empty}))
    assert_refused(config_with(data), "stream 'code' has no validation blocks", "val_fraction above 0")


@pytest.mark.parametrize("case", ["another name", "two folders", "remote"])
def test_the_bundled_corpus_is_not_prepared_into_other_peoples_streams(tmp_path, case):
    arguments = overrides(tmp_path)
    own = {
        "another name": [f"data.streams.code.local={PREPARED / 'mine'}"],
        "two folders": [f"data.streams.code.local={tmp_path / 'code'}"],
        "remote": [f"data.streams.code.remote={tmp_path / 'bucket'}"],
    }[case]
    assert_refused(
        compose([*arguments, *own]),
        "data.prepare_bundled=true prepares <folder>/{general,code,science}, but data.streams are",
        "data.prepare_bundled=false",
    )
    assert not (PREPARED / "mine").exists()


@pytest.mark.parametrize(
    ("more", "cause", "remedy"),
    [
        (["hardware.microbatch_blocks=3"], "quantum_blocks=2 is not a multiple of ranks x", "divide all phases: 1, 2"),
        (
            ["start=source", "start.source=gone.pt"],
            "source gone.pt is neither a checkpoint file nor",
            "give a .pt file",
        ),
        (["init=tiled", "init.source=gone.pt"], "source gone.pt is neither a checkpoint file nor", "give a .pt file"),
        (["hardware.world_size=2"], "hardware.world_size=2, but the launcher started 1 ranks", "start 2 ranks"),
    ],
    ids=["cut", "start", "tiled", "ranks"],
)
def test_a_run_that_cannot_begin_writes_nothing_that_a_rerun_would_trust(tmp_path, more, cause, remedy):
    error = refusal([*overrides(tmp_path), *more])
    assert cause in error
    assert remedy in error
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {"run.lock", "status.json"}  # who is here, and how it ended


@pytest.fixture
def old_run(tmp_path, tmp_path_factory):
    """A copy of the finished smoke run."""
    return copy_of(smoke_run(tmp_path_factory).folder, tmp_path / "smoke")


@pytest.mark.slow
@pytest.mark.composer
@pytest.mark.parametrize(
    ("more", "difference"),
    [
        ("phases.short.lr.peak=1e-3", "phases.short.lr.peak: 0.004 -> 0.001"),
        ("run.seed=18", "run.seed: 17 -> 18"),
        ("phases.anneal.masking.rate=0.3", "phases.anneal.masking.rate: 0.15 -> 0.3"),
        ("phases.context.streams.code=0.5", "phases.context.streams.code: 0.25 -> 0.5"),
    ],
)
def test_a_run_folder_of_another_config_is_refused_with_old_and_new_value(old_run, more, difference):
    before = (old_run / "config.yaml").read_bytes(), (old_run / "metrics.jsonl").read_bytes()
    error = refusal([*overrides(old_run.parent), more])
    assert f"{old_run} belongs to another config; old -> new: {difference}" in error
    assert "choose another run.name" in error
    assert ((old_run / "config.yaml").read_bytes(), (old_run / "metrics.jsonl").read_bytes()) == before


@pytest.mark.slow
@pytest.mark.composer
def test_a_run_folder_of_other_data_is_refused(old_run, tmp_path):
    root = copy_of(PREPARED, tmp_path / "data")
    manifest = read_manifest(root / "code")
    write_manifest(root / "code", dataclasses.replace(manifest, tokens_sha256="f" * 64))
    arguments = [item.replace(str(PREPARED), str(root)) for item in overrides(old_run.parent)]
    error = refusal(arguments)
    assert "belongs to another config" in error
    assert "data.streams.code: content " in error
    assert "data.streams.general" not in error
    assert "run.accept_changes=[data.streams.code]" in error


@pytest.mark.slow
@pytest.mark.composer
def test_a_run_without_a_whole_checkpoint_does_not_start_over(old_run):
    for path in old_run.glob("checkpoints/*/*.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    error = refusal(overrides(old_run.parent))
    assert "has checkpoints, but none is whole" in error


@pytest.mark.slow
@pytest.mark.composer
def test_train_py_ends_with_code_2_and_two_lines(tmp_path):
    """The same through the script, once before and once after the ranks have joined."""
    data = copy_of(PREPARED / "code", tmp_path / "code")
    shard = next(Path(data / "blocks" / "64" / "train").glob("*.mds"))
    shard.write_bytes(shard.read_bytes()[:-1])
    arguments = [*overrides(tmp_path, **OWN), f"data.streams.code.local={data}"]
    for more, cause in ((["phases.short.lr.peak=-1"], "lr.peak=-1 is not above 0"), ([], f"shard {shard} is damaged")):
        output = run([*arguments, *more], expect=2)
        assert cause in output
        assert output.count("error: ") == output.count("\n  remedy: ") == 1
        assert "Traceback" not in output
    assert not list(tmp_path.rglob("*.pt"))
