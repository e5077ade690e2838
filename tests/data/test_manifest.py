"""Verification of a prepared folder: whole, or a plain error that names what is not."""

import json
import os
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

MANIFEST_FAULTS = {
    "dtype": ({"dtype": "object"}, "dtype='object' is not one of uint16, uint32"),
    "dtype as list": ({"dtype": ["uint16"]}, r"dtype=\['uint16'\] is not one of"),
    "vocabulary": ({"vocab_size": 1 << 40}, "vocab_size=1099511627776 is not a whole number from 1 to 65536"),
    "vocabulary as bool": ({"vocab_size": True}, "vocab_size=True is not a whole number"),
    "block_tokens": ({"block_tokens": 1 << 30}, "block_tokens=1073741824 is not a whole number from 1 to 16777216"),
    "block_tokens below": ({"block_tokens": 64}, "blocks.'128' is not a max_seq_len of 1 to block_tokens=64"),
    "hash": ({"tokens_sha256": "F" * 64}, "tokens_sha256='FFF.* is not a SHA-256 in hex"),
    "tokenizer hash": ({"tokenizer_sha256": None}, "tokenizer_sha256=None is not a SHA-256 in hex"),
    "share": ({"val_fraction": float("nan")}, "val_fraction=nan is not a share from 0 to 1"),
    "counts": ({"documents": {"train": -1}}, "documents.train=-1 is not a whole number from 0"),
    "not a mapping": ({"tokens": [1]}, r"tokens=\[1\] is not a mapping"),
    "special ids": ({"special_ids": {"cls": 1, "sep": 2, "pad": 3}}, "special_ids has no mask"),
    "special id": ({"all_special_ids": [70_000]}, "special id 0=70000 is not a whole number from 0 to"),
    "caps": ({"blocks": {"../128": {}}}, "blocks.'../128' is not a max_seq_len"),
    "splits": ({"blocks": {"128": {}}}, r"blocks.128 has splits \[\], not train and val"),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_a_manifest_that_says_what_is_not_possible_is_refused(folder, fault):
    fields, message = MANIFEST_FAULTS[fault]
    edit(folder / "manifest.json", lambda tree: tree.update(fields))
    with pytest.raises(DataError, match=rf"manifest.json cannot be right: {message}"):
        read_manifest(folder)


SPLIT_FAULTS = {
    "path out": ({"path": "blocks/../../128"}, "path='blocks/../../128' is not a path within the folder"),
    "absolute path": ({"path": "/etc"}, "path='/etc' is not a path within the folder"),
    "backslash": ({"path": "blocks\\128"}, "is not a path within the folder"),
    "hidden": ({"path": "blocks/.ssh"}, "is not a path within the folder"),
    "no text": ({"path": 5}, "path=5 is not a path within the folder"),
    "count": ({"num_blocks": 1.5}, "num_blocks=1.5 is not a whole number"),
    "fill": ({"fill": 2}, "fill=2 is not a share from 0 to 1"),
    "shares": ({"segment_token_share_over": {"2048": "1"}}, "share_over.2048='1' is not a share from 0 to 1"),
}


@pytest.mark.parametrize("fault", SPLIT_FAULTS)
def test_a_split_that_leads_out_of_the_folder_or_is_not_possible_is_refused(folder, fault):
    fields, message = SPLIT_FAULTS[fault]
    edit(folder / "manifest.json", lambda tree: tree["blocks"]["128"]["val"].update(fields))
    with pytest.raises(DataError, match=message):
        read_manifest(folder)


SHARD_FAULTS = {
    "path out": ({"name": "../../x.mds"}, "names the shard '../../x.mds', which is not a plain name ending in .mds"),
    "another kind": ({"name": "index.json"}, "names the shard 'index.json', which is not a plain name"),
    "size": ({"bytes": 1 << 33}, "bytes of shard.00000.mds=8589934592 is not a whole number from 1 to 4294967295"),
    "hash": ({"sha256": "../" * 20}, "sha256 of shard.00000.mds=.* is not a SHA-256 in hex"),
}


@pytest.mark.parametrize("fault", SHARD_FAULTS)
def test_a_shard_name_or_size_that_is_not_possible_is_refused(folder, fault):
    fields, message = SHARD_FAULTS[fault]
    edit(folder / "manifest.json", lambda tree: tree["blocks"]["128"]["val"]["shards"][0].update(fields))
    with pytest.raises(DataError, match=message):
        read_manifest(folder)


def test_a_shard_named_twice_is_refused(folder):
    edit(folder / "manifest.json", lambda tree: tree["blocks"]["128"]["val"].update(shards=[shard_facts()] * 2))
    with pytest.raises(DataError, match=r"blocks.128.val names the shard shard.00000.mds twice"):
        read_manifest(folder)


def shard_facts():
    return {"name": "shard.00000.mds", "bytes": 100, "sha256": "0" * 64}


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json"])
def test_absurd_sizes_are_refused_before_anything_is_read(folder, name):
    os.truncate(folder / name, 1 << 40)  # a sparse file: on disk it stays small
    with pytest.raises(DataError, match=rf"{name} is 1_099_511_627_776 bytes, more than the [\d_]+ such a file may"):
        verify_manifest(folder)


def test_a_header_that_disagrees_is_found_where_headers_are_read(folder):
    shard = folder / SHARD
    shard.write_bytes(b"\xff" * 4 + shard.read_bytes()[4:])
    verify_manifest(folder, read_headers=False)
    with pytest.raises(DataError, match=r"shard .*mds is damaged: its header counts 4_294_967_295 samples"):
        verify_manifest(folder)


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
