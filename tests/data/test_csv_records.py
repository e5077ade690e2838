"""CSV: quotes, delimiters and line breaks inside fields are text; what does not fit is named with its row."""

import csv
import gzip

import pytest

from padless.data.csv_records import csv_records
from padless.data.documents import Meter, list_input, read_documents
from padless.data.text_column import find_text_key
from padless.errors import DataError

NOTES = ['one, two\nand "three"', "\u2028kept\u0085", "", "d" * 200_000, "ünï;code"]


def write(path, rows, delimiter=",", encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def read(source, text_key):
    return [document for file in list_input(source) for document in read_documents(file, text_key, Meter())]


def rows_of(text):
    return list(csv_records(iter(text.encode().split(b"\n")), "a.csv"))


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_text_is_kept_as_it_is(tmp_path, name, delimiter, encoding):
    rows = [["id", "note"], *([str(number), note] for number, note in enumerate(NOTES))]
    documents = read(write(tmp_path / name, rows, delimiter, encoding), "note")
    assert [document.text for document in documents] == NOTES
    assert [document.id for document in documents] == ["0", "1", "2", "3", "4"]


def test_a_compressed_file_and_rows_without_ids(tmp_path):
    write(tmp_path / "plain.csv", [["note"], *([note] for note in NOTES if note)])
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "plain.csv").read_bytes()))
    (tmp_path / "plain.csv").unlink()
    assert next((document.text, document.id) for document in read(tmp_path, "note")) == (NOTES[0], "a.csv.gz:1")


def test_nothing_but_a_header_is_no_document():
    assert rows_of("a,b\n") == []
    assert rows_of("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,4,5\n", r"a\.csv, row 2: 3 fields, the header has 2 \(a, b\).* separated by comma\n.*quotes"),
        ("a;b\n1;2,3;4\n", r"a\.csv, row 1: 3 fields, the header has 2 \(a, b\).* separated by semicolon"),
        ('a,b\n1,2\n3,"4\n5,6\n', r"a\.csv, row 2: broken CSV: a quote that opens here is never closed"),
        ('a,b\n1,"2" inches\n', r"a\.csv, row 1: broken CSV: text goes on after a closing quote.*\n.*twice"),
        ("a,b\n1,2\r3,4\n", r"a\.csv, row 1: broken CSV: new-line character"),
        ("a,a\n1,2\n", r"the header has column 'a' twice"),
    ],
)
def test_what_does_not_fit_is_named(text, message):
    with pytest.raises(DataError, match=message):
        rows_of(text)


def test_another_encoding_is_named_with_its_line(tmp_path):
    (tmp_path / "a.csv").write_bytes("note\nfein\nschön\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv, line 3: byte 3 \(0xf6\) is not UTF-8"):
        read(tmp_path / "a.csv", "note")


def test_utf_16_of_a_spreadsheet_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes("note\nfein\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.csv is UTF-16.*\n.*iconv -f UTF-16"):
        read(tmp_path / "a.csv", "note")


@pytest.mark.parametrize("name", ["a.csv", "a b*[c]{2}::d%20\u00e9.csv"])
def test_errors_name_a_file_of_this_machine_by_its_path(tmp_path, name):
    (tmp_path / name).write_text("note\na,b\n")
    with pytest.raises(DataError) as raised:
        find_text_key(tmp_path)
    assert raised.value.cause.startswith(f"{tmp_path / name}, row 1: 2 fields")


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write(tmp_path / "a.csv", [["id", "note"], ["1", "x"]])
    with pytest.raises(DataError, match=r"no column 'text' \(columns are id, note\)\n.*text_key="):
        read(tmp_path / "a.csv", "text")


def test_the_column_with_the_longest_texts_is_chosen_and_named(tmp_path):
    write(tmp_path / "a.csv", [["id", "title", "note"], ["1", "a title", "long " * 9], ["2", "another", "long " * 9]])
    assert find_text_key(tmp_path) == (
        "note",
        f"text of {tmp_path}: 'note', whose texts are longest (45 characters in the mean; others: id, title); "
        "text_key=... names another",
    )
    (tmp_path / "b.txt").write_text("a whole file")
    assert find_text_key(tmp_path)[0] == "note"
    assert find_text_key(tmp_path / "b.txt") == ("text", f"text of {tmp_path / 'b.txt'}: whole files")


def test_a_key_called_text_is_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "abstract": "much longer"}\n')
    assert find_text_key(tmp_path)[0] == "text"


def test_without_any_text_the_keys_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"label": 1, "score": 0.5}\n')
    with pytest.raises(DataError, match=r"no key of the first records holds text \(keys are label, score\)"):
        find_text_key(tmp_path)


def test_a_column_of_numbers_is_no_text(tmp_path):
    (tmp_path / "ids.csv").write_text("id,note\n1,\n2,\n")
    with pytest.raises(DataError, match=r"no key of the first records holds text \(keys are id, note\)"):
        find_text_key(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv is empty \(0 bytes\)\n.*give files with documents"),
        ("a.csv", "id,note\n", r"a\.csv has a header and no row: its first line is taken for the names.*\n.*give rows"),
        ("a.tsv", "id\tnote", r"a\.tsv has a header and no row"),
        ("a.jsonl", "\n\n", r"a\.jsonl has no record\n"),
        ("a.txt", "", r"a\.txt is empty"),
    ],
)
def test_an_input_without_a_record_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        find_text_key(tmp_path / name)


def test_a_table_without_a_header_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("1," + "no header but a long note " * 9 + "\n2,another\n")
    with pytest.raises(DataError, match=r"the text would be in 'no header but a long note .*'\.\.\., which is no name"):
        find_text_key(tmp_path)
