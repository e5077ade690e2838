"""A check that fails is a line, whatever it raised."""

from padless.doctor.finding import isolated, mend, ok, readable_bytes
from padless.errors import DataError


def raises(error):
    def look():
        yield ok("first", "fine")
        raise error

    return look


def test_an_exception_becomes_a_line_and_keeps_what_was_found_before():
    lines = list(isolated("disk", raises(ValueError("odd\nvalue"))))
    assert lines == [
        ok("first", "fine"),
        mend("disk", "the check failed: ValueError: odd value", "mend what it names, then look again"),
    ]


def test_an_error_of_ours_keeps_its_cause_and_remedy():
    assert list(isolated("data", raises(DataError("a shard is gone", "copy it again"))))[1] == mend(
        "data", "a shard is gone", "copy it again"
    )


def test_bytes_are_written_for_people():
    assert [readable_bytes(count) for count in (0, 1023, 1 << 26, 3 << 40)] == ["0 B", "1023 B", "64 MiB", "3 TiB"]
