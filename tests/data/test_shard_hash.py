import io
import os
from dataclasses import replace

import pytest
from rich.console import Console
from small_streams import write_split

from padless.data import progress
from padless.data.shard_hash import hash_shards
from padless.errors import DataError


@pytest.fixture
def splits(tmp_path):
    return [write_split(tmp_path / "a", 60), write_split(tmp_path / "b", 60, seed=1)]


def quiet():
    return Console(quiet=True)


def test_all_shards_are_read_each_once_with_progress(splits, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    num_bytes = hash_shards([*splits, splits[0]], Console(file=out, width=200))
    assert num_bytes == sum(shard.bytes for split in splits for shard in split.shards)
    assert "verifying shards: 100% after" in out.getvalue()


def test_a_flipped_bit_in_any_shard_is_named(splits):
    path = splits[1].path(1)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard .*b/shard.00001.mds is damaged: its SHA-256 is not the manifest's"):
        hash_shards(splits, quiet())


def test_a_missing_shard_is_an_error_unless_it_is_fetched_later(splits):
    splits[0].path(0).unlink()
    with pytest.raises(DataError, match=r"shard .*a/shard.00000.mds is missing"):
        hash_shards(splits, quiet())
    whole = sum(shard.bytes for split in splits for shard in split.shards)
    assert hash_shards(splits, quiet(), must_exist=False) == whole - splits[0].shards[0].bytes
    os.truncate(splits[1].path(0), 5)
    with pytest.raises(DataError, match="5 bytes found"):
        hash_shards(splits, quiet(), must_exist=False)


def test_nothing_to_read_is_no_error(splits):
    assert hash_shards([replace(splits[0], shards=())], quiet()) == 0
