"""Index and shards from a stranger: refused by name before a sample is read, and nothing in them is executed."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from small_streams import COLUMNS, VOCAB_SIZE, random_blocks, split_of, write_samples, write_split

from padless.data import json_file, shard_check
from padless.data.mds import BlockReader, StreamSource, ValidationBlocks
from padless.data.shard_check import ShardGate, check_header, check_index, check_size
from padless.errors import DataError


@pytest.fixture
def split(tmp_path):
    return write_split(tmp_path / "a", 37)


def edit_index(split, change):
    tree = json.loads(split.index.read_bytes())
    change(tree)
    split.index.write_text(json.dumps(tree))


def with_entry(**fields):
    return lambda tree: tree["shards"][1].update(fields)


def with_raw(**fields):
    return lambda tree: tree["shards"][1]["raw_data"].update(fields)


INDEX_FAULTS = {
    "leads out of the folder": (with_raw(basename="../../stolen.mds"), "does not list the shards that the manifest"),
    "absolute": (with_raw(basename="/etc/passwd"), "does not list the shards that the manifest names"),
    "other size": (with_raw(bytes=1 << 40), "does not list the shards that the manifest names"),
    "shards swapped": (lambda tree: tree["shards"].reverse(), "does not list the shards that the manifest names"),
    "no shards": (lambda tree: tree.pop("shards"), "is not an MDS index: KeyError"),
    "other version": (lambda tree: tree.update(version=3), "is not an MDS index: ValueError: version 3"),
    "pickled column": (
        with_entry(column_encodings=["int", "ndarray:int32", "pkl"]),
        r"shard.00001.mds has column_encodings \['int', 'ndarray:int32', 'pkl'\], expected",
    ),
    "other dtype": (with_entry(column_encodings=["int", "ndarray:int32", "ndarray:uint32"]), "has column_encodings"),
    "further column": (with_entry(column_names=["block", "lengths", "tokens", "x"]), "has column_names"),
    "sizes as floats": (with_entry(column_sizes=[8.0, None, None]), "has column_sizes"),
    "compressed": (with_entry(compression="zstd"), "has compression 'zstd', expected null"),
    "zipped": (
        with_entry(zip_data={"basename": "../x", "bytes": 1, "hashes": {}}),
        r"has zip_data \{'basename': '../x'",
    ),
    "json shards": (with_entry(format="json"), "has format 'json'"),
    "further fields": (with_entry(newline="\n"), r"has other fields than an MDS index: \['newline'\]"),
    "negative samples": (with_entry(samples=-1), "has samples -1"),
    "samples as bool": (with_entry(samples=True), "has samples True"),
    "absurd samples": (with_entry(samples=1 << 40), r"has 1_099_511_627_776 samples, more than its [\d_]+ bytes"),
    "odd size limit": (with_entry(size_limit="9" * 99), "has size_limit '999"),
    "sum of samples": (
        lambda tree: tree["shards"][0].update(samples=1),
        r"index.json has \d+ samples, the manifest 37",
    ),
}


@pytest.mark.parametrize("fault", INDEX_FAULTS)
def test_an_index_with_anything_but_our_shards_is_refused(split, fault):
    check_index(split)
    change, message = INDEX_FAULTS[fault]
    edit_index(split, change)
    for read in (check_index, ValidationBlocks, reader_of):
        with pytest.raises(DataError, match=message):
            read(split)


def reader_of(split):
    return BlockReader(
        [StreamSource(split, None, 1.0)],
        quantum_blocks=1,
        microbatch_blocks=1,
        num_canonical_nodes=1,
        shuffle_seed=1,
        num_workers=0,
    )


def test_a_missing_index_is_named(split):
    split.index.unlink()
    with pytest.raises(DataError, match=r"index.json is missing"):
        check_index(split)


def test_a_file_over_the_limit_is_refused_before_it_is_read(split, monkeypatch):
    os.truncate(split.index, json_file.MAX_JSON_BYTES + 1)  # sparse: on disk it stays small
    with pytest.raises(DataError, match=r"index.json is 67_108_865 bytes, more than the 67_108_864 such a file may"):
        check_index(split)


def test_deep_nesting_does_not_exhaust_the_stack(split):
    split.index.write_text("[" * 1_000_000)
    with pytest.raises(DataError, match="is not an MDS index: ValueError: nested too deeply"):
        check_index(split)


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_a_shard_is_not_opened(tmp_path):
    canary = tmp_path / "executed"
    columns = {**COLUMNS, "tokens": "pkl"}
    samples = ({**block, "tokens": Canary(canary)} for block in random_blocks(5))
    split = split_of(write_samples(tmp_path / "a", samples, columns), 5)
    for read in (ValidationBlocks, reader_of):
        with pytest.raises(DataError, match="has column_encodings"):
            read(split)
    # the same shard under an index that hides the pickle
    edit_index(
        split, lambda tree: tree["shards"][0].update(column_encodings=["int", "ndarray:int32", "ndarray:uint16"])
    )
    with pytest.raises(DataError, match=r"sample 0"):
        ValidationBlocks(split)[0]
    assert not canary.exists()


def rewrite_header(path, change):
    content = bytearray(path.read_bytes())
    count = int(np.frombuffer(content[:4], "<u4")[0])
    words = np.frombuffer(content[: 4 * (count + 2)], "<u4").copy()
    change(words)
    content[: 4 * (count + 2)] = words.tobytes()
    path.write_bytes(content)


def put(place, value):
    return lambda words: words.__setitem__(place, value)


HEADER_FAULTS = {
    "fewer samples": (put(0, 3), r"its header counts 3 samples, index \d+"),
    "absurd samples": (put(0, 2**32 - 1), r"its header counts 4_294_967_295 samples, index \d+"),
    "begins in the header": (put(1, 4), "sample 0 begins within its header"),
    "descending": (put(4, 1), r"sample 2 lies at bytes [\d_]+ to 1 of"),
    "beyond the file": (put(4, 2**32 - 1), r"sample 2 lies at bytes [\d_]+ to 4_294_967_295 of [\d_]+, and a block"),
    "too large for a block": (
        lambda words: words.__setitem__(slice(3, -1), words[-1]),
        r"sample 1 lies at bytes .* and a block has 26 to 226 bytes",
    ),
    "ends early": (lambda words: words.__setitem__(-1, words[-1] - 2), r"its samples end at byte [\d_]+ of [\d_]+"),
}


@pytest.mark.parametrize("fault", HEADER_FAULTS)
def test_a_header_that_disagrees_with_its_file_is_refused(split, fault):
    change, message = HEADER_FAULTS[fault]
    before, samples = check_index(split)
    check_header(split, 1, samples)
    rewrite_header(split.path(1), change)
    with pytest.raises(DataError, match=rf"shard .*a/shard.00001.mds is damaged: {message}"):
        check_header(split, 1, samples)
    blocks = ValidationBlocks(split)
    assert blocks[0].index == 0
    with pytest.raises(DataError, match=message):
        blocks[before]


def test_a_shard_without_rights_is_named(split, tmp_path):
    loop = tmp_path / "a" / "loop.mds"
    loop.symlink_to(loop)
    with pytest.raises(DataError, match=r"shard .*loop.mds cannot be read: Too many levels of symbolic links"):
        check_size(loop, split.shards[0])


def flip_bit(path, place=-2):
    """Change one token in place, with the file's times as they were: what a disk does."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_flipped_bit_is_found_at_first_read_where_hashes_are_compared(split):
    flip_bit(split.path(1))
    last = sum(check_index(split)[:2]) - 1
    ValidationBlocks(split)[last]
    with pytest.raises(DataError, match=r"shard .*a/shard.00001.mds is damaged: its SHA-256 is not the manifest's"):
        ValidationBlocks(split, hash_shards=True)[last]


def test_a_shard_is_hashed_once_and_again_when_its_file_is_replaced(split, monkeypatch):
    hashed = []
    monkeypatch.setattr(shard_check, "check_hash", lambda path, shard: hashed.append(path.name))
    gate = ShardGate(split, hash_shards=True)
    for number in (0, 1, 0, 0):
        gate.check(number)
    assert hashed == ["shard.00000.mds", "shard.00001.mds"]
    copy = split.path(0).with_name("copy")
    copy.write_bytes(split.path(0).read_bytes())
    copy.replace(split.path(0))
    gate.check(0)
    assert hashed[2:] == ["shard.00000.mds"]


def test_a_vocabulary_smaller_than_an_id_is_found_in_the_block(split):
    small = replace(split, vocab_size=VOCAB_SIZE // 2)
    with pytest.raises(DataError, match=r"stream 'a', shard .*mds, sample \d+: it has token id \d+"):
        list(ValidationBlocks(small))
