"""Prepared folders from strangers, local and on a remote: refused by name; nothing in them runs or leads outside."""

import hashlib
import pickle
import shutil
import struct

import pytest
import torch
from faults import (
    SPLIT,
    Canary,
    PeakMemory,
    change_split,
    edit_json,
    prepared_copy,
    rewrite_blocks,
    small,
    spoil_ids,
    spoil_lengths,
    stream_at,
)
from here import copy_of, refusal

from padless.data.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.composer]

UNPICKLE = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
MOST_GROWTH_BYTES = 100 << 20


@pytest.fixture
def canary(tmp_path):
    bird = Canary(tmp_path / "executed")
    yield bird
    assert not bird.path.exists()


@pytest.fixture
def stream(tmp_path):
    return prepared_copy(tmp_path / "data")


def refused_data(tmp_path, stream, *parts, **settings):
    with PeakMemory() as memory:
        error = refusal(small(tmp_path, **stream_at(stream), **settings))
    for part in parts:
        assert part in error
    assert memory.grew_bytes < MOST_GROWTH_BYTES
    assert not list(tmp_path.glob("smoke/checkpoints/*/*"))


def shard_entry(**changes):
    return lambda tree: tree["shards"][0].update(changes)


def escape(tree):
    tree["shards"][0]["raw_data"]["basename"] = "../../../../escaped.mds"


def test_15_an_index_that_leads_out_of_the_folder(tmp_path, stream):
    escaped = copy_of(stream / SPLIT / "shard.00000.mds", tmp_path / "escaped.mds")
    edit_json(stream / SPLIT / "index.json", escape)
    refused_data(tmp_path, stream, f"{stream / SPLIT / 'index.json'} does not list the shards that the manifest names")
    assert escaped.exists()


@pytest.mark.parametrize("also_manifest", [False, True])
def test_16_a_remote_whose_index_leads_out_of_the_cache(tmp_path, stream, also_manifest):
    """Streaming writes what it fetches where the index says."""
    edit_json(stream / SPLIT / "index.json", escape)
    if also_manifest:
        shards = read_manifest(stream).blocks["64"]["train"].shards
        edit_json(
            stream / "manifest.json",
            lambda tree: tree["blocks"]["64"]["train"]["shards"][0].update(name="../../../../escaped.mds"),
        )
        assert len(shards) == 1
    cache = tmp_path / "cache" / "code"
    settings = {**stream_at(cache), "data.streams.code.remote": stream}
    error = refusal(small(tmp_path, **settings))
    if also_manifest:
        assert f"{cache / 'manifest.json'} cannot be right: blocks.64.train names the shard '../../../../esc" in error
    else:
        assert f"{cache / SPLIT / 'index.json'} does not list the shards that the manifest names" in error
    assert not list(tmp_path.rglob("*escaped*"))


READ_UNSAFE = """
import sys
from streaming import StreamingDataset
print(next(iter(StreamingDataset(local=sys.argv[1], batch_size=1, allow_unsafe_types=True))))
"""


def test_17_a_column_of_pickles(tmp_path, stream, canary):
    """With an index, a shard and a manifest that all agree."""
    from streaming import MDSWriter

    folder = stream / SPLIT
    shutil.rmtree(folder)
    with MDSWriter(out=str(folder), columns={"block": "int", "lengths": "ndarray:int32", "tokens": "pkl"}) as writer:
        writer.write({"block": 0, "lengths": torch.tensor([3], dtype=torch.int32).numpy(), "tokens": canary})
    shard = folder / "shard.00000.mds"
    believe_shard(stream, num_blocks=1)
    assert canary.sings(READ_UNSAFE, folder)
    refused_data(
        tmp_path,
        stream,
        f"{folder / 'index.json'}: shard {shard.name} has column_encodings ",
        "'pkl'",
    )


def believe_shard(stream, **fields):
    """Make the manifest agree with the shard as it is now."""
    shard = stream / SPLIT / "shard.00000.mds"
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    facts = read_manifest(stream).blocks["64"]["train"].shards[0]
    changed = type(facts)(shard.name, shard.stat().st_size, digest)
    change_split(stream, shards=(changed,), **fields)
    edit_json(stream / SPLIT / "index.json", lambda tree: tree["shards"][0]["raw_data"].update(bytes=changed.bytes))


@pytest.mark.parametrize(
    ("samples", "blocks", "cause"),
    [
        (4_000_000_000, 4_000_000_000, "samples, more than its"),
        (1 << 62, 1 << 60, "samples, more than its"),
    ],
)
def test_18_an_index_that_claims_more_than_the_file_holds(tmp_path, stream, samples, blocks, cause):
    edit_json(stream / SPLIT / "index.json", shard_entry(samples=samples))
    change_split(stream, num_blocks=blocks)
    refused_data(tmp_path, stream, f"{stream / SPLIT / 'index.json'}: shard shard.00000.mds has {samples:_}", cause)


def test_19_a_shard_header_that_claims_more_than_the_file_holds(tmp_path, stream):
    shard = stream / SPLIT / "shard.00000.mds"
    whole = shard.read_bytes()
    shard.write_bytes(struct.pack("<I", 0xFFFF_FFFF) + whole[4:])
    believe_shard(stream)
    refused_data(tmp_path, stream, f"shard {shard} is damaged: its header counts 4_294_967_295 samples, index ")
    shard.write_bytes(whole[:8] + struct.pack("<I", 0xFFFF_FFF0) + whole[12:])  # where the second sample begins
    believe_shard(stream)
    refused_data(tmp_path, stream, f"shard {shard} is damaged: sample 0 lies at bytes ", "of ")


@pytest.mark.parametrize("path", ["../../outside", "/etc", "blocks/../../.."])
def test_20_a_manifest_that_leads_out_of_the_folder(tmp_path, stream, path):
    edit_json(stream / "manifest.json", lambda tree: tree["blocks"]["64"]["train"].update(path=path))
    cause = f"{stream / 'manifest.json'} cannot be right: blocks.64.train.path='{path}' is not a path within the folder"
    refused_data(tmp_path, stream, cause)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (spoil_ids, "it has token id 60_000, the vocabulary ends at 2_047"),
        (spoil_lengths, "its segment lengths add up to "),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_21_whole_shards_with_impossible_blocks(tmp_path, stream, change, cause, workers):
    """Every hash agrees: the shards were made so."""
    shard = rewrite_blocks(stream, change, believed=True)
    settings = {"data.verify": "all", "data.num_workers": workers}
    refused_data(tmp_path, stream, f"stream 'code', shard {shard}, sample ", cause, **settings)


def test_22_a_tokenizer_that_is_none_and_a_manifest_that_agrees(tmp_path, canary):
    """Training does not need it and the export at the end does: that is too late to say so."""
    streams = {}
    for name in ("general", "code", "science"):
        folder = prepared_copy(tmp_path / "data", name)
        (folder / "tokenizer.json").write_bytes(pickle.dumps(canary, 2))
        digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
        edit_json(folder / "manifest.json", lambda tree, digest=digest: tree.update(tokenizer_sha256=digest))
        streams |= stream_at(folder, name)
    assert canary.sings(UNPICKLE, folder / "tokenizer.json")
    error = refusal(small(tmp_path, **streams, **{"run.stop_after_tokens": 500}))
    assert "tokenizer.json is not a tokenizer" in error
