"""Files of one JSON object a line, as a kill leaves them."""

from padless.data.json_file import parse_lines, parse_object, read_lines


def test_lines_that_are_cut_off_or_no_objects_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n3\n[4]\n{"b": \xff\n' + b"[" * 100_000 + b'\n{"b": "\xe2\x80\xa8"}\n{"c": 1')
    assert list(read_lines(path)) == [{"a": 1}, {"b": "\u2028"}]  # a line ends at \n alone


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert list(read_lines(tmp_path / "lineage.jsonl")) == []
    assert list(parse_lines("")) == []


def test_one_line_is_read_as_bytes_too():
    assert parse_object(b'{"event": "start"}\n') == {"event": "start"}
    assert parse_object(b"\xff") is None
