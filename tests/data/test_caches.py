"""The limit on a cache: what is less than a node reads from at once is said before a run waits for shards for days."""

from pathlib import Path

import pytest

from padless.config.compose import compose
from padless.data import caches
from padless.data.shard_check import PackedSplit, ShardFacts

SHARDS = tuple(ShardFacts(f"shard.{number:05}.mds", 67_108_864, "") for number in range(10_000))
SPLIT = PackedSplit("main", Path("nowhere"), "uint16", 50_368, 8192, 1024, 40_000_000, SHARDS)
REMOTES = [f"data.streams.{name}.remote=s3://b/{name}" for name in ("main", "long", "anneal")]


@pytest.mark.parametrize(
    ("num_nodes", "limit", "is_enough"),
    [(1, 140_000_000_000, False), (1, 141_000_000_000, True), (2, 70_000_000_000, False), (2, 71_000_000_000, True)],
)
def test_a_limit_below_what_shuffling_reads_from_at_once_is_said(monkeypatch, num_nodes, limit, is_enough):
    monkeypatch.setattr(caches, "packed_split", lambda *arguments: SPLIT)
    config = compose(["recipe=modernbert_base", *REMOTES, f"data.cache_limit_bytes={limit}"])
    lines = caches.check_cache_limit(config, "pretrain", config.phases["pretrain"], {"main": None}, num_nodes)
    assert [f"cache_limit_bytes={limit:_} is less" in line for line in lines] == ([] if is_enough else [True])


def test_without_shuffling_few_shards_are_enough(monkeypatch):
    monkeypatch.setattr(caches, "packed_split", lambda *arguments: SPLIT)
    config = compose(["recipe=modernbert_base", *REMOTES, "data.cache_limit_bytes=1000000000", "data.shuffle=false"])
    assert caches.check_cache_limit(config, "pretrain", config.phases["pretrain"], {"main": None}, 1) == []
