"""Tokenising: the same tokens as `tokenizers`, whichever implementation did it; unfit tokenizers are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from padless.data import tokenise
from padless.data.tokenise import ORACLE_EVERY, Tokeniser, tokenizer_facts, tokenizer_file
from padless.errors import DataError


def oracle_ids(path: Path, texts: list[str]) -> list[list[int]]:
    oracle = Tokenizer.from_file(str(path))
    oracle.encode_special_tokens = True
    return [oracle.encode(text, add_special_tokens=False).ids for text in texts]


def changed(tokenizer: Path, tmp_path: Path, change) -> Path:
    tree = json.loads(tokenizer.read_bytes())
    change(tree)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize("fast", [True, False])
def test_tokens_are_those_of_tokenizers(tokenizer, texts, fast):
    tokeniser = Tokeniser(tokenizer, fast=fast)
    assert tokeniser.is_fast == fast
    tokens = tokeniser.encode(texts, [str(number) for number in range(len(texts))])
    assert [array.tolist() for array in tokens] == oracle_ids(tokenizer, texts)
    assert tokeniser.num_fast == (len(texts) - 2 if fast else 0)


def test_text_that_spells_a_special_token_gets_no_special_token(tokenizer):
    (tokens,) = Tokeniser(tokenizer).encode(["a [SEP] b[MASK]"], ["d"])
    assert not set(tokens.tolist()) & set(tokenizer_facts(tokenizer).all_special_ids)
    assert Tokenizer.from_file(str(tokenizer)).decode(tokens.tolist()) == "a [SEP] b[MASK]"


@given(
    st.lists(st.text("[]u<7", max_size=4), max_size=4), st.lists(st.text("[]u<7", max_size=12), min_size=1, max_size=5)
)
def test_one_search_finds_what_many_would(wanted, texts):
    spells = tokenise._finder(wanted)
    assert [spells(text) for text in texts] == [any(each in text for each in wanted) for text in texts]


def test_only_whole_special_tokens_keep_a_text_from_the_fast_tokenizer(tokenizer, tmp_path):
    def add(tree):
        first = max(tree["model"]["vocab"].values()) + 1
        template = tree["added_tokens"][0]
        tree["added_tokens"] += [
            {**template, "id": first + number, "content": f"[unused{number}]"} for number in range(3000)
        ]

    tokeniser = Tokeniser(changed(tokenizer, tmp_path, add))
    tokeniser.encode(["x[unused2999]", "x[unused", "unused7]", "[unused3000]"], ["a", "b", "c", "d"])
    assert tokeniser.num_fast == 3


def test_a_sample_is_tokenised_twice(tokenizer):
    tokeniser = Tokeniser(tokenizer)
    for start in range(0, 3 * ORACLE_EVERY, 100):
        tokeniser.encode([f"text {start + n}" for n in range(100)], [str(start + n) for n in range(100)])
    assert tokeniser.num_checked == 4


def test_a_tokenizer_that_gigatoken_does_not_read_goes_to_tokenizers(tokenizer, tmp_path):
    path = changed(tokenizer, tmp_path, lambda tree: tree.update(normalizer={"type": "Lowercase"}))
    tokeniser = Tokeniser(path)
    assert not tokeniser.is_fast
    assert [array.tolist() for array in tokeniser.encode(["Some Text"], ["d"])] == oracle_ids(path, ["Some Text"])


def test_a_difference_between_the_two_is_an_error_that_names_the_document(tokenizer, tmp_path):
    other = changed(tokenizer, tmp_path, lambda tree: tree["model"].update(merges=tree["model"]["merges"][:5]))
    tokeniser = Tokeniser(tokenizer)
    tokeniser._oracle = Tokeniser(other)._oracle
    with pytest.raises(
        DataError, match=r"gigatoken and tokenizers differ on document 'the one' from token 0 on \(\d+ and \d+"
    ):
        tokeniser.encode(["return self.value"], ["the one"])


@pytest.mark.parametrize("token", ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
def test_a_tokenizer_without_a_special_token_is_refused(tokenizer, tmp_path, token):
    def rename(tree):
        tree["post_processor"] = None
        for entry in tree["added_tokens"]:
            entry["content"] = entry["content"].replace(token, "[OTHER]")
        tree["model"]["vocab"]["[OTHER]"] = tree["model"]["vocab"].pop(token)

    with pytest.raises(DataError, match=rf"has no \{token[:-1]}\]"):
        tokenizer_facts(changed(tokenizer, tmp_path, rename))


def test_a_tokenizer_without_the_template_is_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"encodes a text without \[CLS\] in front and \[SEP\] behind"):
        tokenizer_facts(changed(tokenizer, tmp_path, lambda tree: tree.update(post_processor=None)))


def test_what_is_not_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not exist"):
        tokenizer_file(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_file(tmp_path) == tmp_path / "tokenizer.json"
    with pytest.raises(DataError, match=r"is not a tokenizer"):
        tokenizer_facts(tmp_path / "tokenizer.json")


def test_dtype_follows_the_vocabulary(tokenizer, tmp_path):
    assert tokenizer_facts(tokenizer).dtype == "uint16"
    for size, dtype in ((1 << 16, "uint16"), ((1 << 16) + 1, "uint32")):
        extra = {f"entry {number}": number for number in range(512, size)}
        path = changed(tokenizer, tmp_path, lambda tree, extra=extra: tree["model"]["vocab"].update(extra))
        facts = tokenizer_facts(path)
        assert (facts.vocab_size, facts.dtype) == (size, dtype)
        assert np.iinfo(dtype).max >= size - 1


def test_word_level_tokenizer_still_counts_its_ids(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"a": 7, "[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = Tokeniser(tmp_path / "tokenizer.json").encode(["a b a"], ["d"])
    assert tokens[0].tolist() == [7, 0, 7]
