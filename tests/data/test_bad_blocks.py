"""A bad block or shard ends the reading with two lines, whether the main process or a loader worker meets it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from small_streams import random_blocks, split_of, write_samples, write_split

from padless.data import mds, remote
from padless.data.mds import BlockReader, StreamSource
from padless.data.remote import drop_half_fetched, fetch_index, fetch_split
from padless.errors import DataError

MANY = 400  # blocks: far more than workers fetch ahead
WORKERS = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture(autouse=True)
def a_hang_is_a_failure(monkeypatch):
    monkeypatch.setattr(mds, "_WORKER_SILENCE_S", 60.0)


def reader_of(split, workers, remote=None, **more):
    return BlockReader(
        [StreamSource(split, remote, 1.0, **more)],
        quantum_blocks=1,
        microbatch_blocks=1,
        num_canonical_nodes=1,
        shuffle_seed=None,  # the order on disk
        num_workers=workers,
    )


def end_of(reader, after=None, at=0, most=2 * MANY):
    """The error that reading ends with; ``after`` is called once ``at`` blocks were read."""
    microbatches = reader.microbatches(0)
    for _ in range(at):
        next(microbatches)
    if after is not None:
        after()
    with pytest.raises(DataError) as caught:
        deque(islice(microbatches, most), maxlen=0)
    assert "\n" not in caught.value.cause + caught.value.remedy
    return caught.value.cause


@WORKERS
def test_a_token_outside_the_vocabulary_is_named_with_stream_shard_and_sample(tmp_path, workers):
    samples = list(random_blocks(60))
    samples[50]["tokens"] = samples[50]["tokens"] + np.uint16(1000)
    split = split_of(write_samples(tmp_path / "a", samples), 60)
    assert f"stream 'a', shard {split.path(1)}, sample " in (cause := end_of(reader_of(split, workers)))
    assert "the vocabulary ends at 99" in cause


@WORKERS
@pytest.mark.parametrize("bad", [0, 5, 50])
def test_all_that_lies_before_a_bad_block_is_read(tmp_path, workers, bad):
    samples = list(random_blocks(60))
    samples[bad]["tokens"] = samples[bad]["tokens"] + np.uint16(1000)
    reader = reader_of(split_of(write_samples(tmp_path / "a", samples), 60), workers)
    read: deque[int] = deque()
    with pytest.raises(DataError, match="the vocabulary ends at 99"):
        deque((read.extend(block.index for block in blocks) for blocks in reader.microbatches(0)), maxlen=0)
    assert list(read) == list(range(bad))


@WORKERS
def test_a_shard_that_vanishes_while_it_is_read_is_named(tmp_path, workers):
    split = write_split(tmp_path / "a", MANY)
    last = split.path(len(split.shards) - 1)
    assert end_of(reader_of(split, workers), last.unlink, at=5) == f"shard {last} is missing"


@WORKERS
def test_a_shard_that_is_not_there_from_the_beginning_is_named(tmp_path, workers):
    split = write_split(tmp_path / "a", 60)
    split.path(0).unlink()
    assert end_of(reader_of(split, workers)) == f"shard {split.path(0)} is missing"


@WORKERS
def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path, workers):
    split = write_split(tmp_path / "a", MANY)
    last, size = split.path(len(split.shards) - 1), split.shards[-1].bytes
    cause = end_of(reader_of(split, workers), lambda: os.truncate(last, 100), at=5)
    assert cause == f"shard {last} is damaged: 100 bytes found, {size:_} expected"


@WORKERS
def test_a_flipped_bit_is_found_when_a_worker_first_reads_the_shard(tmp_path, workers):
    split = write_split(tmp_path / "a", 60)
    content = bytearray(split.path(1).read_bytes())
    content[-2] ^= 1
    split.path(1).write_bytes(content)
    cause = end_of(reader_of(split, workers, hash_shards=True))
    assert cause == f"shard {split.path(1)} is damaged: its SHA-256 is not the manifest's"


@pytest.mark.slow
@WORKERS
def test_a_remote_that_vanishes_is_named_with_the_reason(tmp_path, workers):
    original = write_split(tmp_path / "remote", MANY)
    cached = replace(original, folder=tmp_path / "cache", stream="a")
    fetch_index(str(original.folder), cached)
    reader = reader_of(cached, workers, str(original.folder))
    cause = end_of(reader, lambda: shutil.rmtree(original.folder), at=5)
    assert cause.startswith(f"stream 'a': cannot fetch {original.folder}/shard.0")
    assert "FileNotFoundError" in cause


@WORKERS
def test_a_cached_shard_that_is_deleted_is_fetched_again_and_hashed_again(tmp_path, workers):
    original = write_split(tmp_path / "remote", MANY)
    cached = replace(original, folder=tmp_path / "cache")
    fetch_split(str(original.folder), cached)
    last = cached.path(len(cached.shards) - 1)
    reader = reader_of(cached, workers, str(original.folder), hash_shards=True)
    seen = []
    for blocks in reader.microbatches(0):
        seen += [block.index for block in blocks]
        if len(seen) == 5:
            last.unlink()
        if len(seen) == MANY:
            break
    assert sorted(seen) == list(range(MANY))
    assert last.read_bytes() == original.path(len(original.shards) - 1).read_bytes()


def test_a_cache_limit_deletes_shards_and_the_blocks_are_the_same(tmp_path):
    original = write_split(tmp_path / "remote", MANY)
    cached = replace(original, folder=tmp_path / "cache")
    fetch_index(str(original.folder), cached)
    limit = cached.index.stat().st_size + 4 * max(shard.bytes for shard in cached.shards)
    reader = BlockReader(
        [StreamSource(cached, str(original.folder), 1.0, hash_shards=True)],
        quantum_blocks=1,
        microbatch_blocks=1,
        num_canonical_nodes=1,
        shuffle_seed=None,
        num_workers=0,
        cache_limit_bytes=limit,
    )
    microbatches = reader.microbatches(0)
    seen = [next(microbatches)[0].index for _ in range(2 * MANY)]
    assert seen == [*range(MANY), *range(MANY)]
    present = sum(path.stat().st_size for path in cached.folder.glob("*.mds"))
    assert 0 < present <= limit < sum(shard.bytes for shard in cached.shards)


def test_a_killed_worker_is_an_error_of_two_lines(tmp_path):
    reader = reader_of(write_split(tmp_path / "a", MANY), 2)

    def kill():
        os.kill(reader._loader._iterator._workers[0].pid, signal.SIGKILL)

    assert end_of(reader, kill, at=5, most=10**6).startswith("a loader worker died (DataLoader worker (pid")


@pytest.mark.slow
def test_a_worker_that_hangs_is_an_error_after_a_stated_time(tmp_path, monkeypatch):
    monkeypatch.setattr(mds, "_WORKER_SILENCE_S", 1.0)
    reader = reader_of(write_split(tmp_path / "a", MANY), 1)
    stopped = []

    def stop():
        stopped.append(reader._loader._iterator._workers[0].pid)
        os.kill(stopped[0], signal.SIGSTOP)

    try:
        assert end_of(reader, stop, at=5, most=10**6) == "no block came from the loader workers for 1 s"
    finally:
        os.kill(stopped[0], signal.SIGCONT)


@pytest.mark.slow
@WORKERS
def test_a_process_that_meets_a_bad_shard_ends_with_code_2_and_two_lines(tmp_path, workers):
    split = write_split(tmp_path / "a", MANY)
    last = split.path(len(split.shards) - 1)
    script = Path(__file__).with_name("read_stream.py")
    command = [sys.executable, str(script), str(split.folder), str(MANY), str(workers), str(MANY), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    cause, remedy = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "  remedy: "))]
    assert cause == f"error: shard {last} is damaged: 8 bytes found, {split.shards[-1].bytes:_} expected"
    assert "prepare the folder again" in remedy


def test_a_loader_that_ends_at_once_is_no_endless_loop(tmp_path):
    reader = reader_of(write_split(tmp_path / "a", 5), 0)
    reader._loader.__dict__["dataset"] = []  # a DataLoader guards its attributes
    with pytest.raises(RuntimeError, match="the loader ended a pass without a block"):
        list(reader.microbatches(0))


@pytest.mark.parametrize("begin", [0, 39])
def test_a_pass_border_is_said_when_a_new_pass_begins_and_not_at_the_first(tmp_path, monkeypatch, begin):
    said = []
    monkeypatch.setattr(mds, "reached", said.append)
    microbatches = reader_of(write_split(tmp_path / "a", 40), 0).microbatches(begin)
    for number in range(begin, 40):
        next(microbatches)
        assert said == [], number
    next(microbatches)
    assert said == ["pass_border"]
    for _ in range(40):
        next(microbatches)
    assert said == ["pass_border"] * 2


def test_an_index_that_leads_out_of_the_cache_is_refused_before_anything_is_written(tmp_path):
    original = write_split(tmp_path / "remote", 60)
    (tmp_path / "outside.mds").write_bytes(original.path(1).read_bytes())  # what the remote would serve for it
    tree = json.loads(original.index.read_bytes())
    tree["shards"][1]["raw_data"]["basename"] = "../outside.mds"
    original.index.write_text(json.dumps(tree))
    cached = replace(original, folder=tmp_path / "deep" / "cache")
    for fetch_it in (fetch_index, fetch_split):
        with pytest.raises(DataError, match="does not list the shards that the manifest names"):
            fetch_it(str(original.folder), cached)
    with pytest.raises(DataError, match="does not list the shards that the manifest names"):
        reader_of(cached, 0, str(original.folder))
    assert [path.name for path in (tmp_path / "deep").rglob("*") if path.is_file()] == ["index.json"]


def test_a_shard_that_was_fetched_in_part_is_dropped_and_a_whole_one_is_kept(tmp_path):
    split = write_split(tmp_path / "a", 60)
    os.truncate(split.path(1), 50)
    assert drop_half_fetched(split) == 1
    assert split.path(0).exists()
    assert not split.path(1).exists()


def test_a_file_that_cannot_be_fetched_is_named_and_leaves_nothing(tmp_path):
    split = write_split(tmp_path / "remote", 20)
    cached = replace(split, folder=tmp_path / "cache")
    with pytest.raises(DataError, match=r"cannot fetch .*nowhere/index.json: FileNotFoundError"):
        fetch_index(str(tmp_path / "nowhere"), cached)
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_nodes_that_fetch_into_one_folder_do_not_write_into_each_others_file(tmp_path, monkeypatch):
    (tmp_path / "remote").write_text("whole")
    local, download = tmp_path / "cache" / "manifest.json", remote.CloudDownloader.direct_download

    def meanwhile_on_another_node(source, target):
        monkeypatch.setattr(remote.CloudDownloader, "direct_download", download)
        Path(target).write_text("ha")
        monkeypatch.setattr("socket.gethostname", lambda: "node-b")
        remote.fetch(source, local)
        Path(target).write_text("half, then whole")

    monkeypatch.setattr(remote.CloudDownloader, "direct_download", meanwhile_on_another_node)
    remote.fetch(str(tmp_path / "remote"), local)
    assert local.read_text() == "half, then whole"
    assert list((tmp_path / "cache").iterdir()) == [local]
