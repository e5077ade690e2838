"""Token strings to exact integers and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padless.errors import ConfigError
from padless.units import approximate_bytes, approximate_tokens, format_tokens, parse_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1.7T", 1_700_000_000_000),
        ("1.719T", 1_719_000_000_000),
        ("50B", 50_000_000_000),
        ("8.5b", 8_500_000_000),
        ("3_000", 3000),
        ("400 K", 400_000),
        (" 2M ", 2_000_000),
        ("0", 0),
        (123, 123),
    ],
)
def test_tokens_are_parsed_exactly(text, tokens):
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "T", "12Q", "1e9", "-5", -5, "1,000", "B50", "1.2.3K", "nan", "."])
def test_what_is_not_a_number_of_tokens_is_refused(text):
    with pytest.raises(ConfigError, match="is not a number of tokens") as caught:
        parse_tokens(text)
    assert '"1.7T"' in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("15kk", "15M"),
        ("1.5bn", "1.5B"),
        ("10 million tokens", "10M"),
        ("2G", "2B"),
        ("300_000tok", "300K"),
        ("50Btok", "50B"),
        ("1e9", "1B"),
        ("1,000", "1K"),
        ("1,024,000", "1.024M"),
        ("1,5B", "1.5B"),
        ("1,719T", "1.719T"),
    ],
)
def test_what_is_nearly_a_number_of_tokens_is_answered_with_it(text, meant):
    with pytest.raises(
        ConfigError, match=f"is not a number of tokens\\n.*remedy: did you mean {meant}[?] write whole tokens"
    ):
        parse_tokens(text)


@pytest.mark.parametrize("text", ["12Q", "1,5", "1.2.3K", "-5", "", "e5", "1e99", "five"])
def test_what_could_mean_anything_is_not_guessed_at(text):
    with pytest.raises(ConfigError) as caught:
        parse_tokens(text)
    assert caught.value.remedy.startswith("write whole tokens")


def test_a_fraction_of_a_token_is_refused():
    with pytest.raises(ConfigError, match="not a whole number"):
        parse_tokens("1.0005K")


@given(st.integers(0, 10**16))
def test_format_and_parse_are_inverse(tokens):
    assert parse_tokens(format_tokens(tokens)) == tokens


@pytest.mark.parametrize(("tokens", "text"), [(1_712_345_678, "1.712B"), (999, "999"), (50_000_000_000, "50B")])
def test_approximate_tokens_keep_four_digits(tokens, text):
    assert approximate_tokens(tokens) == text


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (10_100_000, "10.1 MB"),
        (1_802_000_000, "1.8 GB"),
        (999_900_000, "1000 MB"),
        (10**15, "1000 TB"),
    ],
)
def test_bytes_are_said_to_three_digits(num_bytes, words):
    assert approximate_bytes(num_bytes) == words
