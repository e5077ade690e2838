"""Documents: every format gives the same texts; everything broken is named with its place."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from padless.data.documents import Meter, list_input, read_documents
from padless.errors import DataError

TEXTS = ["one\u2028still one\u0085still one", "", "zwei\r\nlines", "三 🎉"]
JSONL = b"".join(
    json.dumps({"text": text, "id": i}, ensure_ascii=False).encode() + b"\n" for i, text in enumerate(TEXTS)
)


def read(source, text_key="text"):
    return [document for file in list_input(source) for document in read_documents(file, text_key, Meter())]


def write_parquet(path, column="text"):
    pq.write_table(pa.table({column: TEXTS, "id": ["0", "1", "2", "3"]}), path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.ndjson", JSONL.replace(b"\n", b"\r\n").replace(b"\n", b"\n\n")),
        ("a.jsonl", JSONL[:-1]),
        ("a.jsonl.gz", gzip.compress(JSONL)),
        ("a.jsonl.zst", zstandard.compress(JSONL)),
        ("a.jsonl.zst", zstandard.compress(JSONL[:20]) + zstandard.compress(JSONL[20:])),
    ],
)
def test_json_lines_keep_every_text_as_it_is(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    documents = read(tmp_path / name)
    assert [document.text for document in documents] == TEXTS
    assert [document.id for document in documents] == ["0", "1", "2", "3"]


def test_lines_longer_than_a_chunk_and_multibyte_characters_at_its_border(tmp_path):
    texts = ["é" * 1_500_000, "x", "語" * 700_001]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts), "utf-8"
    )
    assert [document.text for document in read(tmp_path)] == texts


def test_parquet_and_its_nulls(tmp_path):
    write_parquet(tmp_path / "a.parquet")
    assert [document.text for document in read(tmp_path)] == TEXTS
    pq.write_table(pa.table({"text": ["x", None]}), tmp_path / "a.parquet")
    assert [(document.text, document.id) for document in read(tmp_path)] == [("x", "a.parquet:1"), ("", "a.parquet:2")]


def test_datasets_folder_is_read_and_a_dict_of_splits_is_refused(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the datasets extra is not installed")
    dataset = datasets.Dataset.from_dict({"text": TEXTS, "id": ["0", "1", "2", "3"]})
    dataset.save_to_disk(tmp_path / "one", num_shards=2)
    assert [document.text for document in read(tmp_path / "one")] == TEXTS
    datasets.DatasetDict(train=dataset, test=dataset).save_to_disk(tmp_path / "dict")
    with pytest.raises(DataError, match=r"several splits \(train, test\)"):
        read(tmp_path / "dict")
    assert len(read(tmp_path / "dict" / "train")) == 4


def test_a_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"two\nlines\n")
    (document,) = read(tmp_path)
    assert (document.text, document.id) == ("two\nlines\n", "a.txt")


def test_folder_glob_and_file_list_the_same_files_in_the_same_order(tmp_path):
    for name in ("b.jsonl", "sub/a.jsonl", "sub/c.txt", "notes.md", ".hidden/d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(JSONL)
    assert [file.name for file in list_input(tmp_path)] == ["b.jsonl", "sub/a.jsonl", "sub/c.txt"]
    assert [file.name for file in list_input(f"{tmp_path}/**/*.jsonl")] == ["b.jsonl", "sub/a.jsonl"]
    assert [(file.name, file.num_bytes) for file in list_input(tmp_path / "b.jsonl")] == [("b.jsonl", len(JSONL))]
    (tmp_path / "with[brackets].jsonl").write_bytes(JSONL)
    assert len(read(tmp_path / "with[brackets].jsonl")) == 4


def test_meter_ends_at_the_bytes_of_all_files(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(JSONL))
    write_parquet(tmp_path / "c.parquet")
    files, meter = list_input(tmp_path), Meter()
    for file in files:
        list(read_documents(file, "text", meter))
    assert meter.read_bytes == sum(file.num_bytes for file in files)


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


LONG = JSONL * 500
FAULTS = {
    "not utf-8": (
        "a.jsonl",
        JSONL + '{"text": "Müller"}\n'.encode("latin-1"),
        r"a.jsonl, line 5: byte 11 \(0xfc\) is not UTF-8",
    ),
    "not utf-8 in a text": ("a.txt", b"abc\xff", r"a.txt: byte 3 \(0xff\) is not UTF-8"),
    "cut zstd": (
        "a.jsonl.zst",
        cut(zstandard.compress(LONG)),
        "a.jsonl.zst: corrupt zstd data: the file ends inside a frame",
    ),
    "not zstd": ("a.jsonl.zst", LONG, "a.jsonl.zst: corrupt zstd data"),
    "cut gzip": ("a.jsonl.gz", cut(gzip.compress(LONG)), "a.jsonl.gz: corrupt gzip data"),
    "not gzip": ("a.jsonl.gz", LONG, "a.jsonl.gz: corrupt gzip data"),
    "no text": ("a.jsonl", b'{"body": "x", "id": 3}\n', r"line 1: no key 'text' \(keys are 'body', 'id'\)"),
    "text of another type": ("a.jsonl", b'{"text": 3}\n', "line 1: 'text' is a int, not a string"),
    "not json": ("a.jsonl", JSONL + b'{"text": \n', "line 5: not JSON"),
    "lone surrogate": ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: not JSON"),
    "not an object": ("a.jsonl", b"[1]\n", "line 1: a JSON list, not an object"),
    "not parquet": ("a.parquet", b"PAR1 nothing", "a.parquet: corrupt parquet data"),
    "unknown format": ("a.docx", b"x", r"no file of a known format \(found a.docx\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_input_is_named_with_its_place(tmp_path, fault):
    name, content, message = FAULTS[fault]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_parquet_without_the_column_is_named_with_what_it_has(tmp_path):
    write_parquet(tmp_path / "a.parquet", column="body")
    with pytest.raises(DataError, match=r"a.parquet: no column 'text' \(columns are body, id\)"):
        read(tmp_path)
    assert [document.text for document in read(tmp_path, text_key="body")] == TEXTS


@pytest.mark.parametrize("name", ["nothing.jsonl", "*.jsonl", "empty"])
def test_input_that_is_not_there_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"does not exist or matches no file"):
        list_input(tmp_path / name)


def test_a_file_that_vanishes_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    (file,) = list_input(tmp_path)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match=r"cannot open .*a.jsonl"):
        list(read_documents(file, "text", Meter()))


class _OneFile(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(JSONL)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(JSONL)

    def log_message(self, *args):
        pass


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    hub.HfFileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"cannot list hf://datasets/nobody/nothing: \w+") as caught:
        list_input("hf://nobody/nothing")
    assert "local copy" in caught.value.remedy
    assert "\n" not in caught.value.cause


def test_a_remote_file_is_read_through_its_filesystem():
    pytest.importorskip("aiohttp")
    server = HTTPServer(("127.0.0.1", 0), _OneFile)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        documents = read(f"http://127.0.0.1:{server.server_port}/a.jsonl")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [document.text for document in documents] == TEXTS
