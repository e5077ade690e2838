"""Prepared folders and remotes that are damaged or meant to do harm, as a run opens and reads them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from here import copy_of, refusal
from runs import PREPARED, overrides, run

from padless.config.compose import compose
from padless.data.leftovers import SHARED_MEMORY
from padless.data.manifest import read_manifest
from padless.data.preflight import open_data
from padless.errors import DataError

LEFTOVERS = "left in shared memory"
OWN = {"data.prepare_bundled": "false"}


class OneRank:
    is_leader = is_node_leader = True
    num_nodes = 1

    def barrier(self):
        pass


def opened(config):
    said = []
    prepared = open_data(config, OneRank(), said.append)
    return prepared, [line for line in said if LEFTOVERS not in line]  # this machine may have some


@pytest.fixture
def data(tmp_path):
    """A copy of one stream that a test may damage."""
    return copy_of(PREPARED / "code", tmp_path / "code")


def config_with(folder, *more):
    return compose([*overrides(folder.parent, **OWN), f"data.streams.code.local={folder}", *more])


def remote_config(tmp_path, remote, *more):
    """All streams on a remote: ``code`` on a given one."""
    arguments = [item for item in overrides(tmp_path, **OWN) if ".local=" not in item]
    for name in ("general", "code", "science"):
        arguments += [f"data.streams.{name}.local={tmp_path / 'cache' / name}"]
        arguments += [f"data.streams.{name}.remote={remote if name == 'code' else PREPARED / name}"]
    return compose([*arguments, *more])


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def shard_of(folder, split="train"):
    return next((folder / "blocks" / "256" / split).glob("*.mds"))


def edit(path, change):
    tree = json.loads(path.read_bytes())
    change(tree)
    path.write_text(json.dumps(tree))


def lead_out(tree):
    tree["shards"][0]["raw_data"]["basename"] = "../../../../outside.mds"


def test_verify_all_reads_every_shard_before_the_first_step(data):
    _, said = opened(config_with(data, "data.verify=all"))
    assert len(said) == 1
    assert said[0].startswith("verified 0.0")
    assert "GB of shards by hash in" in said[0]


def test_a_flipped_bit_is_found_by_verify_all_and_by_first_read_and_not_by_off(data):
    shard = shard_of(data)
    flip_bit(shard)
    message = rf"shard {shard} is damaged: its SHA-256 is not the manifest's"
    with pytest.raises(DataError, match=message):
        opened(config_with(data, "data.verify=all"))
    for verify, finds in (("first_read", True), ("off", False)):
        config = config_with(data, f"data.verify={verify}")
        prepared, said = opened(config)
        assert said == []
        (source,) = [each for each in prepared.train_sources(config.phases["context"]) if each.name == "code"]
        assert source.hash_shards == finds


def test_validation_blocks_are_hashed_at_first_read(data):
    flip_bit(next((data / "blocks" / "64" / "val").glob("*.mds")))
    config = config_with(data, "data.verify=first_read")
    splits = opened(config)[0].validation_splits(config.eval)
    with pytest.raises(DataError, match="its SHA-256 is not the manifest's"):
        [block for split in splits for block in split]


def test_an_index_that_leads_out_of_a_local_folder_is_refused(data):
    index = shard_of(data).with_name("index.json")
    edit(index, lead_out)
    with pytest.raises(DataError, match=rf"{index} does not list the shards that the manifest names"):
        opened(config_with(data))


def test_an_index_that_leads_out_of_the_cache_is_refused_before_streaming_sees_it(tmp_path, data):
    """The remote's own manifest lists the same name, and would serve a shard for it."""
    shutil.copy(shard_of(data), tmp_path / "outside.mds")
    edit(shard_of(data).with_name("index.json"), lead_out)
    with pytest.raises(DataError, match=r"blocks/256/train/index.json does not list the shards"):
        opened(remote_config(tmp_path, data))
    edit(
        data / "manifest.json",
        lambda tree: tree["blocks"]["256"]["train"]["shards"][0].update(name="../../../../outside.mds"),
    )
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match=r"cache/code/manifest.json cannot be right: .* is not a plain name"):
        opened(remote_config(tmp_path, data))
    assert not list((tmp_path / "cache" / "code").rglob("*.mds"))


def test_a_bad_index_of_a_remote_is_refused_although_its_shards_are_not_here(tmp_path, data):
    edit(shard_of(data).with_name("index.json"), lambda tree: tree["shards"][0].update(samples=1 << 40))
    with pytest.raises(DataError, match=r"train/index.json: shard shard.00000.mds has 1_099_511_627_776 samples, more"):
        opened(remote_config(tmp_path, data))


def test_shards_that_a_killed_download_left_in_part_are_deleted_with_a_line(tmp_path):
    cached = tmp_path / "cache" / "code" / "blocks" / "256" / "train"
    opened(remote_config(tmp_path, PREPARED / "code"))
    (cached / "shard.00000.mds").write_bytes(b"half")
    _, said = opened(remote_config(tmp_path, PREPARED / "code"))
    assert said == [f"stream 'code': 1 shards in {cached} were fetched in part only; deleted"]
    assert not (cached / "shard.00000.mds").exists()


def test_a_cache_limit_that_cannot_be_kept_is_refused_with_one_that_can(tmp_path):
    with pytest.raises(DataError, match=r"data.cache_limit_bytes=1_000 is too little for phase") as caught:
        opened(remote_config(tmp_path, PREPARED / "code", "data.cache_limit_bytes=1000"))
    least = caught.value.remedy.removeprefix("use ").split()[0]
    shards = [shard.bytes for name in ("general", "code", "science") for shard in read_train(name).shards]
    assert int(least) > 4 * max(shards)
    opened(remote_config(tmp_path, PREPARED / "code", f"data.cache_limit_bytes={10 * int(least)}"))


def read_train(name):
    return read_manifest(PREPARED / name).split(64, "train")


@pytest.mark.parametrize("case", ["tokens are there", "it is the remote"])
def test_a_cache_limit_is_refused_where_it_would_delete_an_only_copy(tmp_path, data, case):
    if case == "it is the remote":
        shutil.rmtree(data / "tokens")
    remote = data if case == "it is the remote" else PREPARED / "code"
    config = remote_config(tmp_path, remote, f"data.streams.code.local={data}", "data.cache_limit_bytes=10000000000")
    with pytest.raises(DataError, match=rf"would delete shards of {data}, which is a prepared folder and not a cache"):
        opened(config)
    assert shard_of(data).exists()


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no /dev/shm")
def test_what_a_killed_process_left_in_shared_memory_is_removed_when_data_is_opened(data):
    code = "from padless.data.leftovers import hold; import os, signal; assert hold(987654)"
    code += "; open('/dev/shm/987654_locals', 'w').close(); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code], check=False)
    segment = SHARED_MEMORY / "987654_locals"
    assert segment.exists()
    said = []
    open_data(config_with(data), OneRank(), said.append)
    assert not segment.exists()
    assert len([line for line in said if LEFTOVERS in line]) == 1


@pytest.mark.slow
@pytest.mark.composer
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_reads_a_damaged_shard_ends_with_code_2_and_two_lines(tmp_path, data, workers):
    shard = shard_of(data)
    flip_bit(shard)
    arguments = [*overrides(tmp_path, **OWN), f"data.streams.code.local={data}", f"data.num_workers={workers}"]
    output = run([*arguments, "data.verify=first_read"], expect=2)
    assert f"error: shard {shard} is damaged: its SHA-256 is not the manifest's\n  remedy: " in output
    assert output.count("error: ") == output.count("\n  remedy: ") == 1
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.composer
def test_an_index_larger_than_its_file_stops_a_run_before_the_first_step(tmp_path, data):
    os.truncate(shard_of(data).with_name("index.json"), 1 << 40)
    error = refusal([*overrides(tmp_path, **OWN), f"data.streams.code.local={data}"])
    assert "index.json is 1_099_511_627_776 bytes, more than the" in error


def test_shards_are_looked_at_by_one_rank_of_a_node(data):
    shard_of(data).unlink()
    with pytest.raises(DataError, match="is missing"):
        opened(config_with(data))

    class AnotherRank(OneRank):
        is_leader = is_node_leader = False

    assert open_data(config_with(data), AnotherRank(), lambda line: None).manifests["code"].blocks
