"""Verification of a prepared folder: whole, or a plain error that names what is not."""

import json
import shutil

import pytest
from rich.console import Console

from padless.data.manifest import read_manifest, verify_manifest
from padless.data.prepare import prepare
from padless.data.summary import warnings
from padless.errors import DataError

SHARD = "blocks/128/train/shard.00000.mds"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus, tokenizer):
    output = tmp_path_factory.mktemp("whole") / "stream"
    prepare(
        corpus,
        output,
        tokenizer,
        max_seq_len=(128,),
        block_tokens=128,
        val_fraction=0.2,
        workers=1,
        console=Console(quiet=True),
    )
    return output


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "stream")


def edit(path, change):
    tree = json.loads(path.read_bytes())
    change(tree)
    path.write_text(json.dumps(tree))


def flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


FAULTS = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "has no manifest.json: not prepared, or not to the end"),
    "cut manifest": (
        lambda f: (f / "manifest.json").write_bytes((f / "manifest.json").read_bytes()[:99]),
        "is not a manifest: JSONDecodeError",
    ),
    "manifest without a field": (
        lambda f: edit(f / "manifest.json", lambda t: t.pop("dtype")),
        "is not a manifest: TypeError",
    ),
    "other version": (
        lambda f: edit(f / "manifest.json", lambda t: t.update(format_version=99)),
        "format version 99, this padless reads 1",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "other tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "is not the tokenizer the shards were made with",
    ),
    "no index": (lambda f: (f / "blocks/128/val/index.json").unlink(), "val/index.json is missing"),
    "cut index": (
        lambda f: (f / "blocks/128/val/index.json").write_text('{"sh'),
        "is not an MDS index: JSONDecodeError",
    ),
    "other index": (
        lambda f: edit(f / "blocks/128/val/index.json", lambda t: t.update(shards=[])),
        "does not list the shards",
    ),
    "no shard": (lambda f: (f / SHARD).unlink(), r"shard .*train/shard.00000.mds is missing"),
    "cut shard": (
        lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-1]),
        r"shard .*mds is damaged: [\d_]+ bytes found, [\d_]+ expected",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_or_damaged_is_named(folder, fault):
    damage, message = FAULTS[fault]
    verify_manifest(folder)
    damage(folder)
    with pytest.raises(DataError, match=message):
        verify_manifest(folder)


def test_a_flipped_bit_is_found_when_shards_are_read(folder):
    flip_last_bit(folder / SHARD)
    verify_manifest(folder)
    with pytest.raises(DataError, match=r"its SHA-256 is not the manifest's"):
        verify_manifest(folder, read_shards=True)


def test_shards_on_a_remote_are_not_looked_for(folder):
    shutil.rmtree(folder / "blocks")
    assert verify_manifest(folder, shards_are_local=False) == read_manifest(folder)


def test_low_fill_and_an_empty_validation_split_are_warned_of(whole, tmp_path, tokenizer):
    assert not [line for line in warnings(read_manifest(whole)) if "validation" in line]
    (tmp_path / "a.jsonl").write_text('{"text": "one short document"}\n')
    output = tmp_path / "new"
    manifest = prepare(
        tmp_path / "a.jsonl",
        output,
        tokenizer,
        max_seq_len=(128,),
        block_tokens=128,
        workers=1,
        val_fraction=1e-9,
        console=Console(quiet=True),
    )
    assert manifest.split(128, "val").num_blocks == 0
    fill, empty = warnings(manifest)
    assert "filled to" in fill
    assert "more documents" in fill
    assert "no document fell into the validation split" in empty
    verify_manifest(output, read_shards=True)
