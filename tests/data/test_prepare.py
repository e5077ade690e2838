"""Preparation: every token once, borders kept, restart-safe, the same twice; what is wrong is said, not prepared."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import Tokenizer

from padless.data.blocks import PackingRules, SplitPacker
from padless.data.documents import Document
from padless.data.manifest import read_manifest, verify_manifest
from padless.data.mds import ValidationBlocks
from padless.data.prepare import prepare
from padless.data.progress import Progress
from padless.data.token_store import TaskWriter, TokenStore, is_validation
from padless.errors import ConfigError, DataError

CLS, SEP = 1, 2
SETTINGS = {"max_seq_len": (32, 128), "block_tokens": 128, "val_fraction": 0.2, "workers": 1}


def quiet() -> Console:
    return Console(record=True, width=200, file=Path(os.devnull).open("w"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, corpus, tokenizer) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "stream"
    prepare(corpus, output, tokenizer, **SETTINGS, console=quiet())
    return output


def segments_on_disk(folder: Path, max_seq_len: int, split: str) -> list[list[int]]:
    blocks = ValidationBlocks(read_manifest(folder).packed("stream", folder, max_seq_len, split))
    segments = []
    for number in range(len(blocks)):
        block = blocks[number]
        assert block.index == number
        assert block.tokens_T.dtype == np.uint16
        assert block.tokens_T.size == block.lengths_S.sum() <= 128
        segments += [part.tolist() for part in np.split(block.tokens_T, np.cumsum(block.lengths_S)[:-1])]
    return segments


def chains(segments: list[list[int]], contents: list[list[int]], cap: int) -> bool:
    """Whether the segments are exactly the contents, each cut into pieces of at most ``cap`` in order."""
    left = Counter(tuple(segment) for segment in segments)
    for content in contents:
        place = 0
        while place < len(content):
            fitting = [
                n
                for n in range(cap, 0, -1)
                if left[tuple(content[place : place + n])] > 0 and place + n <= len(content)
            ]
            if not fitting:
                return False
            left[tuple(content[place : place + fitting[0]])] -= 1
            place += fitting[0]
    return not +left


@pytest.mark.parametrize("max_seq_len", [32, 128])
def test_every_token_of_every_document_is_in_the_blocks_exactly_once_with_its_borders(
    prepared, texts, tokenizer, max_seq_len
):
    oracle = Tokenizer.from_file(str(tokenizer))
    oracle.encode_special_tokens = True
    full = [text for text in texts if text.strip()]
    assert len(full) == len(texts) - 2
    for split in ("train", "val"):
        of_split = [text for text in full if is_validation(text, 0.2) == (split == "val")]
        contents = [oracle.encode(text, add_special_tokens=False).ids for text in of_split]
        segments = segments_on_disk(prepared, max_seq_len, split)
        assert contents
        assert all(len(segment) <= max_seq_len for segment in segments)
        assert all((segment[0], segment[-1]) == (CLS, SEP) for segment in segments)
        assert all(not {CLS, SEP} & set(segment[1:-1]) for segment in segments), "a text cannot forge a border"
        assert sum(len(segment) - 2 for segment in segments) == sum(map(len, contents))
        assert chains([segment[1:-1] for segment in segments], contents, max_seq_len - 2)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=30),
    st.integers(3, 40),
    st.integers(40, 64),
)
def test_any_documents_survive_storing_cutting_and_packing(tmp_path, sizes, max_seq_len, block_tokens):
    folder = tmp_path / "tokens"
    shutil.rmtree(folder, ignore_errors=True)
    following = iter(range(100, 10**6))
    contents = [[next(following) for _ in range(size)] for size in sizes]
    for task in (0, 1):
        with TaskWriter(folder, task, "uint32", 0.0) as writer:
            for number, content in list(enumerate(contents))[task::2]:
                writer.add(Document(f"text {number}", str(number), "s"), np.array(content, np.uint32))
    store = TokenStore(folder, 2, "uint32")
    rules = PackingRules(max_seq_len, block_tokens, CLS, SEP, "uint32")
    packer = SplitPacker(store, np.arange(len(sizes)), rules, Progress(quiet(), "packing", 1))
    found = []
    for tokens_T, lengths_S in packer:
        assert tokens_T.size == lengths_S.sum() <= block_tokens
        assert lengths_S.max() <= max_seq_len
        for segment in np.split(tokens_T, np.cumsum(lengths_S)[:-1]):
            assert (segment[0], segment[-1]) == (CLS, SEP)
            found.append(segment[1:-1].tolist())
    assert sorted(token for segment in found for token in segment) == [
        token for content in contents for token in content
    ]
    starts = {content[0]: content for content in contents if content}
    ends = {content[-1] for content in contents if content}
    for segment in found:
        assert segment == list(range(segment[0], segment[-1] + 1)), "in order, from one document"
        assert segment[0] in starts or segment[0] - 1 in {other[-1] for other in found}
        assert segment[-1] in ends or segment[-1] + 1 in {other[0] for other in found}


def test_manifest_says_what_is_there(prepared, texts, tokenizer):
    manifest = verify_manifest(prepared, read_shards=True)
    assert manifest.documents["train"] + manifest.documents["val"] + manifest.documents["empty"] == len(texts)
    assert manifest.documents["empty"] == 2
    assert manifest.documents["by_tokenizers_only"] == 2, "one is not NFC, one spells out special tokens"
    assert manifest.documents["checked_by_both"] >= 3, "one a task at least"
    assert sum(manifest.length_histogram.values()) == len(texts) - 2
    assert sum(manifest.sources.values()) == len(texts) - 2
    assert manifest.special_ids == {"unk": 0, "cls": 1, "sep": 2, "pad": 3, "mask": 4}
    assert manifest.vocab_size == 512
    assert set(range(5)) <= set(manifest.all_special_ids)
    for cap in (32, 128):
        for split in ("train", "val"):
            facts = manifest.split(cap, split)
            segments = segments_on_disk(prepared, cap, split)
            lengths = np.array([len(segment) for segment in segments])
            assert (facts.num_segments, facts.num_real_tokens) == (len(lengths), lengths.sum())
            assert facts.fill == pytest.approx(lengths.sum() / (128 * facts.num_blocks), abs=1e-6)
            over = lengths[lengths > 64].sum() / lengths.sum()
            assert facts.segment_token_share_over["64"] == pytest.approx(over, abs=1e-6)
    assert (
        manifest.split(128, "train").segment_token_share_over["64"] > 0.5 > manifest.split(32, "train").long_token_share
    )
    with pytest.raises(DataError, match=r"prepared for max_seq_len 32, 128, not for 64"):
        manifest.split(64, "train")


def test_prepared_tokenizer_loads_in_transformers_and_is_the_given_file(prepared, tokenizer):
    from transformers import AutoTokenizer

    assert (prepared / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    loaded = AutoTokenizer.from_pretrained(prepared)
    assert loaded("a b").input_ids[0] == loaded.cls_token_id == CLS
    assert (loaded.mask_token, loaded.model_max_length) == ("[MASK]", 128)


def test_documents_keep_id_source_and_split(prepared):
    lines = []
    for path in sorted((prepared / "tokens").glob("*.documents.jsonl.zst")):
        content = zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
        lines += [json.loads(line) for line in content.splitlines()]
    manifest = read_manifest(prepared)
    assert Counter(line["split"] for line in lines) == {name: manifest.documents[name] for name in ("train", "val")}
    assert {line["source"] for line in lines} == {"s0", "s1"}
    assert sum(line["tokens"] for line in lines) == sum(manifest.tokens.values())


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_same_call_again_does_nothing_and_says_so(prepared, corpus, tokenizer):
    before, console = snapshot(prepared), quiet()
    prepare(corpus, prepared, tokenizer, **SETTINGS, console=console)
    assert snapshot(prepared) == before
    assert "nothing to do" in console.export_text()


def test_another_max_seq_len_is_packed_without_tokenising_and_is_what_it_would_have_been(
    prepared, corpus, tokenizer, tmp_path
):
    extended = shutil.copytree(prepared, tmp_path / "extended")
    before = snapshot(extended)
    changed = {**SETTINGS, "max_seq_len": (64,)}
    manifest = prepare(tmp_path / "documents are gone", extended, tokenizer, **changed, console=quiet())
    assert list(manifest.blocks) == ["32", "64", "128"]
    after = snapshot(extended)
    assert {name for name in after if before.get(name) != after[name]} == {
        "manifest.json",
        *(f"blocks/64/{split}/{name}" for split in ("train", "val") for name in ("index.json", "shard.00000.mds")),
    }
    at_once = prepare(
        corpus, tmp_path / "at once", tokenizer, **{**SETTINGS, "max_seq_len": (32, 64, 128)}, console=quiet()
    )
    assert at_once.blocks == manifest.blocks
    assert at_once.identity() == manifest.identity() == read_manifest(prepared).identity()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"block_tokens": 256}, "has block_tokens=128, this call block_tokens=256"),
        ({"val_fraction": 0.5}, "has val_fraction=0.2, this call val_fraction=0.5"),
        ({"text_key": "body"}, "has text_key=text, this call text_key=body"),
        ({"dtype": "uint32"}, "has dtype=uint16, this call dtype=uint32"),
        ({"fast": False}, "has fast=True, this call fast=False"),
    ],
)
def test_other_settings_on_a_prepared_folder_are_refused(prepared, corpus, tokenizer, changed, message):
    before = snapshot(prepared)
    with pytest.raises(ConfigError, match=message):
        prepare(corpus, prepared, tokenizer, **{**SETTINGS, **changed}, console=quiet())
    assert snapshot(prepared) == before


def test_other_input_on_a_prepared_folder_is_refused(prepared, corpus, tokenizer, tmp_path):
    shutil.copytree(corpus, tmp_path / "more")
    (tmp_path / "more" / "d.jsonl").write_text('{"text": "new"}\n')
    with pytest.raises(DataError, match=r"other input files than this call \(first difference: d.jsonl\)"):
        prepare(tmp_path / "more", prepared, tokenizer, **SETTINGS, console=quiet())


def test_a_folder_with_other_files_is_not_written_into(corpus, tokenizer, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"holds other files \(thesis.tex\)"):
        prepare(corpus, tmp_path, tokenizer, **SETTINGS, console=quiet())


def test_two_preparations_of_one_folder_at_a_time_are_refused(prepared, corpus, tokenizer):
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, prepared / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout
    holder.stdout.readline()
    try:
        with pytest.raises(DataError, match=r"is being prepared by another process"):
            prepare(corpus, prepared, tokenizer, **SETTINGS, console=quiet())
    finally:
        holder.communicate(b"\n")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_seq_len": (32, 256)}, "max_seq_len=256 is over block_tokens=128"),
        ({"max_seq_len": ()}, "has a cap under 3 tokens or none"),
        ({"max_seq_len": (2,)}, "has a cap under 3 tokens or none"),
        ({"val_fraction": 1.0}, r"val_fraction=1.0 is not in \[0, 1\)"),
        ({"workers": 0}, "workers=0 is not a number of processes"),
        ({"dtype": "int8"}, "dtype=int8 is not a token type"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_written(corpus, tokenizer, tmp_path, changed, message):
    with pytest.raises(ConfigError, match=message):
        prepare(corpus, tmp_path / "new", tokenizer, **{**SETTINGS, **changed}, console=quiet())
    assert not (tmp_path / "new").exists()


def test_a_vocabulary_larger_than_the_dtype_is_refused(corpus, tokenizer, tmp_path):
    tree = json.loads(tokenizer.read_bytes())
    tree["model"]["vocab"].update({f"entry {number}": 512 + number for number in range(66_000)})
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=r"dtype=uint16 holds ids up to 65535, the tokenizer has 66512 entries"):
        prepare(corpus, tmp_path / "new", tmp_path, **SETTINGS, dtype="uint16", console=quiet())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(1 files of 0 bytes\)"),
        (b'{"text": ""}\n{"text": " "}\n', r"no document to train on \(2 empty, 0 for validation\)"),
        (b'{"text": "x"}\n{"text": "\xff"}\n', r"line 2: byte 10 \(0xff\) is not UTF-8"),
    ],
)
def test_documents_that_cannot_be_used_leave_nothing_that_a_rerun_would_trust(tokenizer, tmp_path, content, message):
    source, output = tmp_path / "a.jsonl", tmp_path / "new"
    source.write_bytes(content)
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            prepare(source, output, tokenizer, **SETTINGS, console=quiet())
        assert not (output / "manifest.json").exists()
        assert not list(output.rglob("*.mds"))


def test_after_the_documents_are_mended_the_preparation_goes_on_where_it_can(corpus, tokenizer, tmp_path, prepared):
    source, output = shutil.copytree(corpus, tmp_path / "documents"), tmp_path / "new"
    whole = (source / "c.jsonl").read_bytes()
    (source / "c.jsonl").write_bytes(b"\xff" + whole)
    with pytest.raises(DataError, match=r"c.jsonl, line 1: byte 0"):
        prepare(source, output, tokenizer, **SETTINGS, console=quiet())
    first = (output / "tokens" / "00000.json").stat().st_mtime_ns
    (source / "c.jsonl").write_bytes(whole)
    console = quiet()
    manifest = prepare(source, output, tokenizer, **SETTINGS, console=console)
    assert "going on with the preparation" in console.export_text()
    assert (output / "tokens" / "00000.json").stat().st_mtime_ns == first
    assert manifest.blocks == read_manifest(prepared).blocks


def test_a_half_prepared_folder_is_not_finished_with_other_files_or_settings(corpus, tokenizer, tmp_path, prepared):
    source, output = shutil.copytree(corpus, tmp_path / "documents"), tmp_path / "new"
    (source / "d.jsonl").write_bytes(b"{")
    with pytest.raises(DataError, match=r"d.jsonl, line 1: not JSON"):
        prepare(source, output, tokenizer, **SETTINGS, console=quiet())
    with pytest.raises(ConfigError, match=r"the unfinished preparation in .* has block_tokens=128"):
        prepare(source, output, tokenizer, **{**SETTINGS, "block_tokens": 256}, console=quiet())
    (source / "d.jsonl").unlink()
    with pytest.raises(DataError, match=r"half prepared from other files .*\(first difference: d.jsonl\)"):
        prepare(source, output, tokenizer, **SETTINGS, console=quiet())


def test_a_finished_file_that_changes_before_the_end_is_tokenised_again(corpus, tokenizer, tmp_path, prepared):
    source, output = shutil.copytree(corpus, tmp_path / "documents"), tmp_path / "new"
    whole = {name: (source / name).read_bytes() for name in ("a.jsonl", "c.jsonl")}
    (source / "a.jsonl").write_bytes(whole["a.jsonl"] + b'{"text": "to be taken out again"}\n')
    (source / "c.jsonl").write_bytes(b"{")
    with pytest.raises(DataError, match=r"c.jsonl, line 1: not JSON"):
        prepare(source, output, tokenizer, **SETTINGS, console=quiet())
    for name, content in whole.items():
        (source / name).write_bytes(content)
    assert prepare(source, output, tokenizer, **SETTINGS, console=quiet()).blocks == read_manifest(prepared).blocks


def test_tokens_of_a_damaged_store_are_not_packed(prepared, corpus, tokenizer, tmp_path):
    damaged = shutil.copytree(prepared, tmp_path / "damaged")
    path = damaged / "tokens" / "00000.tokens"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"00000.tokens is [\d_]+ bytes, its documents add up to"):
        prepare(corpus, damaged, tokenizer, **{**SETTINGS, "max_seq_len": (64,)}, console=quiet())


@pytest.mark.slow
def test_workers_in_other_processes_prepare_the_same_and_their_errors_are_plain(prepared, corpus, tokenizer, tmp_path):
    script = (
        "import sys\nfrom padless.data.arguments import run_script\nfrom padless.data.prepare import prepare\n"
        "if __name__ == '__main__':\n    sys.exit(run_script(prepare, sys.argv[1:]))\n"
    )
    (tmp_path / "main.py").write_text(script)
    broken = shutil.copytree(corpus, tmp_path / "broken")
    (broken / "b.jsonl.zst").write_bytes((broken / "b.jsonl.zst").read_bytes()[:-9])
    words = [f"tokenizer={tokenizer}", "max_seq_len=32,128", "block_tokens=128", "val_fraction=0.2", "workers=2"]
    command = [sys.executable, str(tmp_path / "main.py"), *words]
    bad = subprocess.run([*command, f"input={broken}", f"output={tmp_path / 'x'}"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert "corrupt zstd data" in bad.stderr
    assert "remedy:" in bad.stderr
    assert "Traceback" not in bad.stderr + bad.stdout
    subprocess.run([*command, f"input={corpus}", f"output={tmp_path / 'y'}"], check=True, capture_output=True)
    assert read_manifest(tmp_path / "y").blocks == read_manifest(prepared).blocks


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tokens/00000.json", "blocks/32/train.partial", "blocks/128/train/index.json"])
def test_killed_at_any_moment_the_same_command_ends_as_if_it_had_not_been(
    prepared, corpus, tokenizer, tmp_path, moment
):
    output = tmp_path / "new"
    code = (
        "from padless.data.prepare import prepare\n"
        f"prepare({str(corpus)!r}, {str(output)!r}, {str(tokenizer)!r}, **{SETTINGS!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, start_new_session=True)
    while not (output / moment).exists() and process.poll() is None:
        time.sleep(0.0005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "manifest.json").exists(), "killed too late to show anything"
    manifest = prepare(corpus, output, tokenizer, **SETTINGS, console=quiet())
    expected = read_manifest(prepared)
    assert manifest.blocks == expected.blocks
    assert manifest.documents == expected.documents
    verify_manifest(output, read_shards=True)
    assert not list(output.rglob("*.partial"))
