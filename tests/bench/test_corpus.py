"""The benches' data are real prepared folders."""

import numpy as np

from padless.bench.corpus import VALIDATION_BLOCKS, prepare_many, prepare_small
from padless.data.manifest import read_manifest
from padless.data.mds import ValidationBlocks


def test_the_small_corpus_has_few_training_blocks_and_validation_in_every_stream(data):
    for stream in ("general", "code", "science"):
        splits = read_manifest(data / stream).blocks
        assert sorted(splits) == ["256", "64"]
        for split in splits.values():
            assert 10 < split["train"].num_blocks < 50
            assert split["val"].num_blocks >= 3


def test_what_is_prepared_is_left_alone(data):
    manifest = data / "general" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert prepare_small(data) == data
    assert manifest.stat().st_mtime_ns == before


def test_many_blocks_are_full_segments_of_tokens_that_may_be_masked(tmp_path):
    folder = prepare_many(tmp_path / "many", 1_000, 16)
    manifest = read_manifest(folder)
    train, val = manifest.blocks["16"]["train"], manifest.blocks["16"]["val"]
    assert (train.num_blocks, val.num_blocks) == (1_000, VALIDATION_BLOCKS)
    assert (manifest.block_tokens, train.num_real_tokens, train.fill) == (16, 16_000, 1.0)
    assert (folder / "tokenizer.json").is_file()
    blocks = ValidationBlocks(manifest.packed("general", folder, 16, "val"))
    tokens = np.concatenate([blocks[index].tokens_T for index in range(len(blocks))])
    assert tokens.size == VALIDATION_BLOCKS * 16
    assert not set(tokens.tolist()) & set(manifest.all_special_ids)
    before = (folder / "manifest.json").stat().st_mtime_ns
    prepare_many(folder, 1_000, 16)
    assert (folder / "manifest.json").stat().st_mtime_ns == before
