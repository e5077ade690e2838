"""A share of documents for validation that takes some of any number of them, whole, and leaves some."""

import json
from pathlib import Path

import pytest

from padless.data.token_store import is_validation, split_place
from padless.domain.validation_share import ENOUGH, USUAL, choose_val_fraction, share_between
from padless.errors import ConfigError, DataError


@pytest.fixture
def rows(tmp_path):
    def write(texts):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return str(path)

    return write


def texts_of(count):
    return [f"document {number} says something" for number in range(count)]


@pytest.mark.parametrize("count", [2, 3, 9, 10, 40, 99, 150, 400])
def test_of_few_documents_a_tenth_is_kept_and_one_at_least_and_it_is_said(rows, count):
    texts = texts_of(count)
    fraction, line = choose_val_fraction(rows(texts), "text", None)
    kept = sum(is_validation(text, fraction) for text in texts)
    assert 0 < kept < count
    wanted = max(1, min(ENOUGH, count // 10))
    if fraction == USUAL:
        assert line is None
        assert kept >= wanted
    else:
        assert kept == wanted
        assert f"{kept} {'is' if kept == 1 else 'are'} kept of the {count} different documents" in line
        assert f"val_fraction={fraction!r}" in line
    assert choose_val_fraction(rows(texts), "text", fraction) == (fraction, None), "what the line says can be given"


def test_of_many_documents_it_is_the_usual_share_and_not_all_are_read(rows):
    texts = texts_of(3_000)
    path = rows(texts)
    with Path(path).open("a") as file:
        file.write("no JSON\n")
    assert choose_val_fraction(path, "text", None) == (USUAL, None)


def test_copies_of_a_text_count_once_and_empty_ones_do_not(rows):
    fraction, line = choose_val_fraction(rows(["a a", "b b", "a a", " ", "", "a a"]), "text", None)
    assert "1 is kept of the 2 different documents" in line
    assert {is_validation("a a", fraction), is_validation("b b", fraction)} == {True, False}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", "  "], r"rows\.jsonl has no document: every 'text' is empty\n.*text_key="),
        (["the same", "the same"], r"rows\.jsonl is one document; .*another, whole, to validate on\n.*cut it into"),
    ],
)
@pytest.mark.parametrize("given", [None, 0.5])
def test_less_than_two_documents_are_refused(rows, texts, message, given):
    with pytest.raises(DataError, match=message):
        choose_val_fraction(rows(texts), "text", given)


@pytest.mark.parametrize("given", [1e-6, 1 - 1e-9])
def test_a_share_that_keeps_none_or_all_is_refused_with_one_that_works(rows, given):
    path = rows(texts_of(40))
    with pytest.raises(ConfigError, match=r"keeps (0|40) of the 40 different documents") as raised:
        choose_val_fraction(path, "text", given)
    better = float(raised.value.remedy.partition("val_fraction=")[2].partition(",")[0])
    assert choose_val_fraction(path, "text", better) == (better, None)


def test_the_share_between_two_places_is_short_and_takes_only_the_first():
    assert share_between(int(0.1231 * 2**64), int(0.1299 * 2**64)) == 0.127
    first, second = sorted(split_place(text) for text in ("x", "y"))
    assert first < share_between(first, second) * 2**64 <= second
    assert share_between(2**63, 2**63 + 2**40) * 2**64 > 2**63
