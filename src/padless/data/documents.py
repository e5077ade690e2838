"""Documents from files: JSON Lines, CSV, text (plain, .zst, .gz), Parquet, `datasets` folders; local or on any
filesystem that fsspec knows (``hf://``, ``s3://``).

    input (file, folder, glob, save_to_disk folder, hf://...)
       | list_input          sorted files of known formats, with sizes
    InputFile
       | read_documents      one at a time, in file order
    Document                 text, id, source

datatrove's own readers skip what they cannot parse with a warning in a log; here a broken line, byte or frame is an
error that names the file and the place, because nobody notices half a corpus missing. Lines end at ``\\n`` and nothing
else: U+2028, U+0085 and form feeds occur in texts.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from padless.data.csv_records import csv_records
from padless.errors import DataError

FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
COMPRESSIONS = (".zst", ".gz")
SUPPORTED = "jsonl, csv, tsv, txt (each also .zst or .gz), parquet, or a `datasets` folder from save_to_disk"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class InputFile:
    """One file of the input."""

    url: str  # path or URL it is opened by
    name: str  # relative to the input
    num_bytes: int


@dataclass(frozen=True)
class Document:
    """One document as it was found; ``text`` may be empty."""

    text: str
    id: str
    source: str


@dataclass
class Meter:
    """How many bytes of the input files have been read, for progress."""

    read_bytes: float = field(default=0.0)


def format_of(name: str) -> str | None:
    """Return the format of a file by its name, such as ``.csv`` for ``a.csv.gz``; None where it has no known one."""
    path = PurePosixPath(name)
    suffix = PurePosixPath(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix
    return suffix if suffix in FORMATS else None


def list_input(source: str | Path) -> list[InputFile]:
    """Return the files of an input, sorted by name.

    Args:
        source: a file, a folder (searched recursively), a glob, a `datasets` folder, or a URL of any of these.

    Raises:
        DataError: nothing is there, it cannot be reached, or no file has a known format.
    """
    url = _normalised_url(str(source))
    try:
        fs, path = url_to_fs(url)
        sizes = _sizes(fs, path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"cannot list {url}: {type(error).__name__}: {_first_line(error)}",
            "check the address, the network and the credentials, or give a local copy as input",
        ) from error
    if not sizes:
        raise DataError(f"input {source} does not exist or matches no file", "give an existing file, folder or glob")
    known = {name: size for name, size in sizes.items() if format_of(name)}
    if not known:
        names = ", ".join(sorted(PurePosixPath(name).name for name in sizes)[:3])
        raise DataError(f"input {source} has no file of a known format (found {names})", f"known are {SUPPORTED}")
    base = PurePosixPath(path) if fs.isdir(path) else _common_parent(list(known))
    files = [
        InputFile(_address(fs, name), str(PurePosixPath(name).relative_to(base)), size) for name, size in known.items()
    ]
    return sorted(files, key=lambda file: file.name)


def _address(fs: fsspec.AbstractFileSystem, name: str) -> str:
    """Return what a file is opened by and called in errors: a path where it lies on this machine."""
    return name if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(name))


def _normalised_url(source: str) -> str:
    if source.startswith("hf://") and not source.startswith(("hf://datasets/", "hf://buckets/")):
        return "hf://datasets/" + source.removeprefix("hf://")
    return source


def _sizes(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, int]:
    if fs.isfile(path):
        return {path: int(fs.size(path) or 0)}
    if fs.isdir(path):
        if fs.exists(f"{path}/dataset_dict.json"):
            splits = json.loads(fs.cat_file(f"{path}/dataset_dict.json"))["splits"]
            raise DataError(
                f"{path} is a `datasets` folder with several splits ({', '.join(splits)})",
                f"give one of them as input, such as {path}/{splits[0]}",
            )
        if fs.exists(f"{path}/state.json") and fs.exists(f"{path}/dataset_info.json"):
            state = json.loads(fs.cat_file(f"{path}/state.json"))
            names = [f"{path}/{entry['filename']}" for entry in state["_data_files"]]
            return {name: int(fs.size(name) or 0) for name in names}
        found = cast("dict[str, dict[str, Any]]", fs.find(path, detail=True))
        return {name: int(info["size"] or 0) for name, info in found.items() if not _is_hidden(name, path)}
    found = cast("dict[str, dict[str, Any]]", fs.glob(path, detail=True))
    fixed = re.split(r"[*?\[]", path)[0].rpartition("/")[0]
    files = {name: int(info["size"] or 0) for name, info in found.items() if info["type"] == "file"}
    return {name: size for name, size in files.items() if not _is_hidden(name, fixed)}


def _is_hidden(name: str, folder: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).relative_to(folder).parts)


def _common_parent(names: list[str]) -> PurePosixPath:
    parent = PurePosixPath(names[0]).parent
    while not all(PurePosixPath(name).is_relative_to(parent) for name in names):
        parent = parent.parent
    return parent


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def read_documents(file: InputFile, text_key: str, meter: Meter) -> Iterator[Document]:
    """Yield the documents of one file in order, empty ones too.

    A text file is one document. Keys ``id`` and ``source`` are kept where a record has them; a record without an id is
    called by its file and number, one without a source by its file.

    Args:
        file: from :func:`list_input`.
        text_key: key or column of the text.
        meter: is advanced by the bytes read.

    Raises:
        DataError: bytes that are not UTF-8, broken JSON, compression or Parquet, a record without ``text_key``.
    """
    handle = _open(file)
    with handle:
        kind = format_of(file.name)
        if kind in (".parquet", ".arrow"):
            yield from _table_documents(file, handle, kind, text_key, meter)
            return
        chunks = _decompressed(file, handle, meter)
        if kind == ".txt":
            yield Document(_text(b"".join(chunks), file.url), file.name, file.name)
            return
        if kind in (".csv", ".tsv"):
            yield from _csv_documents(file, chunks, text_key)
            return
        for number, line in enumerate(_lines(chunks), start=1):
            if line.strip():
                yield _record(line, f"{file.url}, line {number}", f"{file.name}:{number}", file.name, text_key)


def _open(file: InputFile) -> IO[bytes]:
    try:
        if "://" not in file.url:
            return Path(file.url).open("rb")
        return fsspec.open(file.url, "rb").open()  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:
        raise DataError(
            f"cannot open {file.url}: {_first_line(error)}", "check that it exists and is readable"
        ) from error


def read_fields(file: InputFile, most: int) -> list[dict[str, Any]]:
    """Return the first records of a file with all their fields, to see what is in it; none of a text file.

    Args:
        file: from :func:`list_input`.
        most: records.

    Raises:
        DataError: as :func:`read_documents`.
    """
    with _open(file) as handle:
        kind = format_of(file.name)
        if kind in (".parquet", ".arrow"):
            try:
                batches, _, _ = _table_batches(handle, kind)
                return [record for batch in islice(batches, 1) for record in batch.to_pylist()[:most]]
            except (pa.ArrowInvalid, OSError) as error:
                raise _corrupt(file.url, kind[1:], _first_line(error)) from error
        lines = _lines(_decompressed(file, handle, Meter()))
        if kind in (".csv", ".tsv"):
            return [record for _, record in islice(csv_records(lines, file.url), most)]
        if kind == ".txt":
            return []
        full = islice((line for line in lines if line.strip()), most)
        return [_json_record(line, f"{file.url}, line {number}") for number, line in enumerate(full, start=1)]


def _csv_documents(file: InputFile, chunks: Iterator[bytes], text_key: str) -> Iterator[Document]:
    for row, record in csv_records(_lines(chunks), file.url):
        if text_key not in record:
            raise _no_column(file.url, text_key, list(record))
        yield _document(record, f"{file.url}, row {row}", f"{file.name}:{row}", file.name, text_key)


def _no_column(url: str, text_key: str, columns: list[str]) -> DataError:
    return DataError(
        f"{url}: no column {text_key!r} (columns are {', '.join(columns)})", "set text_key=<the column of the text>"
    )


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else [rest + chunk]
        yield from lines
    if rest:
        yield rest


def _json_record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        _text(line, place)  # says so if it is the encoding
        raise DataError(
            f"{place}: not JSON: {error}", "mend or remove the line; one JSON object on each line"
        ) from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: a JSON {type(record).__name__}, not an object", 'write {"text": "..."} on each line')
    return record


def _record(line: bytes, place: str, default_id: str, default_source: str, text_key: str) -> Document:
    record = _json_record(line, place)
    if text_key not in record:
        raise DataError(
            f"{place}: no key {text_key!r} (keys are {', '.join(map(repr, record)) or 'none'})",
            "set text_key=<the key of the text>",
        )
    return _document(record, place, default_id, default_source, text_key)


def _document(record: dict[str, Any], place: str, default_id: str, default_source: str, text_key: str) -> Document:
    text = record[text_key]
    if text is not None and not isinstance(text, str):
        raise DataError(f"{place}: {text_key!r} is a {type(text).__name__}, not a string", "set text_key=<the text>")
    identity, source = record.get("id"), record.get("source")
    return Document(
        text or "",
        default_id if identity is None else str(identity),
        default_source if source is None else str(source),
    )


def _text(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8",
            "convert the file to UTF-8 (such as: iconv -f LATIN1 -t UTF-8) or remove it",
        ) from error


def _decompressed(file: InputFile, handle: IO[bytes], meter: Meter) -> Iterator[bytes]:
    raw = _metered(handle, meter)
    if file.name.endswith(".zst"):
        yield from _zstd(raw, file.url)
    elif file.name.endswith(".gz"):
        before = meter.read_bytes
        try:
            with gzip.GzipFile(fileobj=handle) as unzipped:
                while chunk := unzipped.read(CHUNK_BYTES):
                    meter.read_bytes = before + handle.tell()
                    yield chunk
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _corrupt(file.url, "gzip", str(error)) from error
    else:
        yield from raw


def _metered(handle: IO[bytes], meter: Meter) -> Iterator[bytes]:
    while chunk := handle.read(CHUNK_BYTES):
        meter.read_bytes += len(chunk)
        yield chunk


def _zstd(raw: Iterator[bytes], url: str) -> Iterator[bytes]:
    """Frame after frame; the library's own stream reader ends a cut-off file without a word."""
    inflater: zstandard.ZstdDecompressionObj | None = None
    try:
        for compressed in raw:
            while compressed:
                inflater = inflater or zstandard.ZstdDecompressor().decompressobj()
                yield inflater.decompress(compressed)
                compressed = b""
                if inflater.eof:
                    compressed, inflater = inflater.unused_data, None
    except zstandard.ZstdError as error:
        raise _corrupt(url, "zstd", str(error)) from error
    if inflater is not None:
        raise _corrupt(url, "zstd", "the file ends inside a frame")


def _corrupt(url: str, kind: str, what: str) -> DataError:
    return DataError(f"{url}: corrupt {kind} data: {what}", "fetch or write the file again")


def _table_documents(file: InputFile, handle: IO[bytes], kind: str, text_key: str, meter: Meter) -> Iterator[Document]:
    before, row = meter.read_bytes, 0
    try:
        batches, columns, num_rows = _table_batches(handle, kind)
        if text_key not in columns:
            raise _no_column(file.url, text_key, columns)
        wanted = [name for name in dict.fromkeys([text_key, "id", "source"]) if name in columns]
        for batch in batches:
            for record in batch.select(wanted).to_pylist():
                row += 1
                yield _document(record, f"{file.url}, row {row}", f"{file.name}:{row}", file.name, text_key)
            if num_rows:
                meter.read_bytes = before + file.num_bytes * row / num_rows
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise _corrupt(file.url, kind[1:], _first_line(error)) from error
    meter.read_bytes = before + file.num_bytes


def _table_batches(handle: IO[bytes], kind: str) -> tuple[Iterator[pa.RecordBatch], list[str], int | None]:
    if kind == ".parquet":
        parquet = pq.ParquetFile(handle)
        return parquet.iter_batches(batch_size=1024), parquet.schema_arrow.names, parquet.metadata.num_rows
    stream = pa.ipc.open_stream(handle)
    return iter(stream), stream.schema.names, None
