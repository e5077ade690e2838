"""Terms: whole words that save most tokens, or those of a list; what is not one word is refused."""

from collections import Counter

import pytest
from tokenizers.normalizers import NFC

from padless.data.tokenise import load_tokenizer
from padless.domain.terms import SPACE, best_terms, count_words, listed_terms
from padless.errors import DataError


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return load_tokenizer(tokenizer_folder / "tokenizer.json")


def test_words_are_counted_with_the_space_before_them(tokenizer):
    counts = count_words(["Gout and gout, gout2 gout's agouti\ngout", " gout"], tokenizer)
    assert counts == {f"{SPACE}{word}": count for word, count in
                      {"gout": 4, "and": 1, "agouti": 1}.items()}  # fmt: skip


def test_the_best_terms_save_most_tokens(tokenizer, medical):
    terms = best_terms(count_words(medical, tokenizer), tokenizer, 30)
    assert len(terms) == 30
    assert [term.saved_tokens for term in terms] == sorted((term.saved_tokens for term in terms), reverse=True)
    for term in terms:
        pieces = tokenizer.encode(term.token.replace(SPACE, " "), add_special_tokens=False).ids
        assert term.pieces == tuple(pieces)
        assert len(pieces) >= 2
    assert any("haem" in term.token for term in terms)


def test_without_a_word_worth_a_token_it_says_so(tokenizer):
    with pytest.raises(DataError, match=r"no word occurs 5 times and is cut into pieces"):
        best_terms(Counter({f"{SPACE}haemorrhage": 4, f"{SPACE}the": 1000}), tokenizer, 10)


def test_a_list_is_taken_as_it_is_without_what_is_one_token_already(tokenizer):
    counts = Counter({f"{SPACE}haemorrhage": 7})
    terms, already = listed_terms(["haemorrhage", "", " sepsis ", "the", "haemorrhage"], counts, tokenizer)
    assert [(term.token, term.count) for term in terms] == [(f"{SPACE}haemorrhage", 7), (f"{SPACE}sepsis", 0)]
    assert already == ["the"]


def test_two_spellings_of_one_word_are_one_term(tokenizer):
    tokenizer.normalizer = NFC()
    terms, _ = listed_terms(["na\u00efvet\u00e9", "nai\u0308vete\u0301"], Counter(), tokenizer)
    assert len(terms) == 1


@pytest.mark.parametrize("word", ["heart attack", "covid-19", "O2"])
def test_what_is_not_one_word_is_refused(tokenizer, word):
    with pytest.raises(DataError, match=f"'{word}' is not one word for this tokenizer, which cuts it into"):
        listed_terms([word], Counter(), tokenizer)
