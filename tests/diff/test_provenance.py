"""What lineage says of two runs: of every version, and of lines that lack what others have."""

from padless.diff.provenance import compare_provenance
from padless.diff.read import read_run

from .conftest import START


def facts(make_run, lineage_a, lineage_b):
    a, b = make_run("a", lineage=lineage_a), make_run("b", lineage=lineage_b)
    return {fact.name: (fact.a, fact.b) for fact in compare_provenance(read_run(str(a)), read_run(str(b)))}


def test_software_place_and_data_are_compared(make_run):
    other = {**START, "git": "def-dirty", "hosts": ["two", "one"], "data": {"code": "bb"}, "world_size": 2}
    other["versions"] = {"torch": "2.14.1", "mosaicml": None}
    found = facts(make_run, [START], [other])
    assert found["git"] == ("abc", "def-dirty")
    assert found["hosts"] == ("one", "one two")
    assert found["ranks"] == ("1", "2")
    assert found["data of code"] == ("aa", "bb")
    assert found["version of torch"] == ("2.7.0", "2.14.1")
    assert found["version of mosaicml"] == ("0.32.1", "not installed")


def test_what_happened_on_the_way_is_counted(make_run):
    resume = {**START, "event": "resume", "world_size": 2, "git": "def"}
    settings = {"event": "settings", "clock_tokens": 512, "detail": "2 changed", "changes": ["x: 1 -> 2", "y: 3 -> 4"]}
    lineage = [START, resume, settings, {"event": "rewind", "clock_tokens": 7}, {**resume, "world_size": 1}]
    found = facts(make_run, [START], lineage)
    assert found["resumes"] == ("0", "2")
    assert found["rewinds"] == ("0", "1")
    assert found["ranks"] == ("1", "1, then 2, then 1")
    assert found["changes of ranks"] == ("0", "2")
    assert found["changes of settings"] == ("0", "2")
    assert found["git"] == ("abc", "abc, then def")


def test_a_branch_s_differences_to_its_parent_are_no_changes_of_it(make_run):
    found = facts(make_run, [START], [{**START, "event": "branch", "changed": ["phases.short.lr.peak: 1 -> 2"]}])
    assert found["changes of settings"] == ("0", "0")


def test_lines_of_an_earlier_version_are_read(make_run):
    early = {
        "event": "start",
        "clock_tokens": 0,
        "world_size": 1,
        "host": "one",
        "git": None,
        "versions": {"torch": "2.7.0"},
    }
    found = facts(make_run, [START], [early])
    assert found["hosts"] == ("one", "one")
    assert found["git"] == ("abc", "unknown")
    assert found["data of code"] == ("aa", "unknown")
    assert found["version of torch"] == ("2.7.0", "2.7.0")


def test_fields_of_the_wrong_type_are_not_compared(make_run):
    odd = {
        "event": ["start"],
        "hosts": "one",
        "versions": [1],
        "data": 3,
        "world_size": "2",
        "git": {"a": 1},
        "changes": 5,
    }
    found = facts(make_run, [odd], [START])
    assert found["git"] == ("unknown", "abc")
    assert found["changes of settings"] == ("0", "0")
