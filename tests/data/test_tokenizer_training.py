"""Tokenizer training: BERT's specials and template, a vocabulary of the size asked for, the same file every time."""

import pytest
from rich.console import Console
from tokenizers import Tokenizer

from padless.data.tokenise import Tokeniser, tokenizer_facts
from padless.data.tokenizer_training import build_tokenizer, train_tokenizer
from padless.errors import ConfigError, DataError


def test_the_same_documents_give_the_same_file_byte_for_byte(corpus, tmp_path):
    for name in ("one.json", "two.json"):
        train_tokenizer(corpus, tmp_path / name, vocab_size=400, console=Console(quiet=True))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    facts = tokenizer_facts(tmp_path / "one.json")
    assert facts.vocab_size == 448
    assert facts.special_ids == {"unk": 0, "cls": 1, "sep": 2, "pad": 3, "mask": 4}


def test_every_text_comes_back_from_its_tokens(tokenizer, texts):
    trained = Tokenizer.from_file(str(tokenizer))
    for text, tokens in zip(texts, Tokeniser(tokenizer).encode(texts, texts), strict=True):
        assert trained.decode(tokens.tolist()) == trained.normalizer.normalize_str(text)


def test_template_and_mask(tokenizer):
    trained = Tokenizer.from_file(str(tokenizer))
    assert trained.encode("a", "b").tokens == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]
    assert trained.encode("a", "b").type_ids == [0, 0, 0, 1, 1]
    assert trained.encode("a [MASK]").ids == [1, trained.token_to_id("a"), 4, 2], "[MASK] takes the space before it"


def test_a_vocabulary_that_the_documents_do_not_fill_is_padded(texts):
    trained = build_tokenizer(["ab ab ab"], 640)
    assert trained.get_vocab_size() == 640
    assert sum(token.startswith("[unused") for token in trained.get_vocab()) > 300
    assert build_tokenizer(texts, 450).get_vocab_size() == 512


def test_a_vocabulary_too_small_is_refused():
    assert build_tokenizer(["ab"], 320).get_vocab_size() == 320
    with pytest.raises(ConfigError, match=r"vocab_size=319 is too small"):
        build_tokenizer(["ab"], 319)


def test_no_text_is_refused():
    with pytest.raises(DataError, match=r"no text to train a tokenizer on"):
        build_tokenizer(["", ""], 320)
