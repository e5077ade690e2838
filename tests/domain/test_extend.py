"""New terms: every other text keeps its tokens, rows begin at the mean of their pieces, and the loss stays."""

import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tokenizers import Tokenizer

from padless.data.tokenise import Tokeniser, load_tokenizer
from padless.domain.extend_command import extend_tokenizer
from padless.domain.new_rows import FILLER_BIAS, extended_shape, shift_for, with_new_rows
from padless.domain.terms import SPACE, Term, best_terms, count_words
from padless.domain.vocabulary import check_extensible, extend_vocabulary
from padless.errors import ConfigError, DataError, ModelError
from padless.export.hf_config import DECODER_BIAS
from padless.model.tensor_shapes import EMBEDDING

from .conftest import MODEL, bundled_texts

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def tree(tokenizer_folder):
    return json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def old(tokenizer_folder):
    return load_tokenizer(tokenizer_folder / "tokenizer.json")


@pytest.fixture(scope="module")
def terms(old, medical):
    return best_terms(count_words(medical, old), old, 60)


@pytest.fixture(scope="module")
def extended(source, notes, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "extended"
    console = Console(record=True, width=160, quiet=False, file=(out.parent / "said").open("w"))
    return out, extend_tokenizer(str(notes), str(source), str(out), terms="60", console=console), console.export_text()


def test_other_texts_are_tokenised_as_before_and_terms_are_one_token(tree, old, terms, medical):
    check_extensible(tree, old)
    grown, ids = extend_vocabulary(tree, terms)
    new = Tokenizer.from_str(json.dumps(grown))
    new.encode_special_tokens = True
    assert ids == list(range(MODEL.vocab_size, MODEL.vocab_size + 60))
    pieces = dict(zip(ids, (list(term.pieces) for term in terms), strict=True))
    for text in [*medical, *bundled_texts("general", 20), *bundled_texts("code", 20), "[MASK] [UNK][CLS] haemorrhages"]:
        back = [piece for each in new.encode(text).ids for piece in pieces.get(each, [each])]
        assert back == old.encode(text).ids
    assert {each for text in medical for each in new.encode(text).ids} >= set(ids)
    assert new.encode("a haemorrhage").tokens[-2:] == [f"{SPACE}haemorrhage", "[SEP]"]
    assert f"{SPACE}haemorrhage" not in new.encode("haemorrhages prehaemorrhage").tokens
    for token in tree["added_tokens"]:
        assert new.token_to_id(token["content"]) == token["id"]


def test_preparation_reads_an_extended_tokenizer_as_it_is(extended):
    tokeniser = Tokeniser(extended[0] / "tokenizer.json")
    assert not tokeniser.is_fast, "gigatoken does not obey ignore_merges"
    (tokens,) = tokeniser.encode(["a haemorrhage"], ["document"])
    assert int(tokens[-1]) >= MODEL.vocab_size


def test_another_kind_of_tokenizer_is_refused(tree, old):
    with pytest.raises(DataError, match=r"this is a WordPiece with pre-tokenizer ByteLevel; terms are added to byte-"):
        check_extensible({**tree, "model": {"type": "WordPiece"}}, old)
    with pytest.raises(DataError, match=r"this is a BPE with pre-tokenizer None"):
        check_extensible({**tree, "pre_tokenizer": None}, old)


def test_an_entry_that_merges_do_not_make_is_refused(tree):
    model = {**tree["model"], "vocab": {**tree["model"]["vocab"], f"{SPACE}zyzzyva": MODEL.vocab_size}}
    odd = {**tree, "model": model}
    with pytest.raises(
        DataError, match=r"1 entries of the vocabulary are not made by its merges \(first: 'Ġzyzzyva'\)"
    ):
        check_extensible(odd, Tokenizer.from_str(json.dumps(odd)))


def test_rows_begin_at_the_mean_of_their_pieces_and_all_others_are_kept(weights, terms):
    ids = list(range(MODEL.vocab_size, MODEL.vocab_size + 60))
    shape = extended_shape(MODEL, ids)
    assert shape.vocab_size == 1088
    grown = with_new_rows(weights, shape, terms, ids, -2.0)
    old_VD, old_V = weights[EMBEDDING], weights[DECODER_BIAS]
    assert torch.equal(grown[EMBEDDING][:1024], old_VD)
    assert torch.equal(grown[DECODER_BIAS][:1024], old_V)
    for term, place in zip(terms, ids, strict=True):
        torch.testing.assert_close(
            grown[EMBEDDING][place], sum(old_VD[each] for each in term.pieces) / len(term.pieces)
        )
        torch.testing.assert_close(
            grown[DECODER_BIAS][place], sum(old_V[each] for each in term.pieces) / len(term.pieces) - 2.0
        )
    assert not grown[EMBEDDING][1084:].any()
    assert (grown[DECODER_BIAS][1084:] == FILLER_BIAS).all()


def test_rows_that_nothing_used_are_taken_first(weights):
    shape = extended_shape(MODEL, [1020, 1021])
    assert shape.vocab_size == 1024
    grown = with_new_rows(weights, shape, [Term("x", (7, 9), 1)], [1020], 0.0)
    torch.testing.assert_close(grown[EMBEDDING][1020], (weights[EMBEDDING][7] + weights[EMBEDDING][9]) / 2)


@pytest.mark.parametrize("most_added", [1e-1, 1e-4, 1e-6])
def test_the_shift_adds_as_much_as_is_allowed_and_no_more(most_added):
    old_M, new_M = torch.tensor([3.0, 9.0, -2.0]), torch.tensor([4.0, 1.0, 2.0])
    shift = shift_for(old_M, new_M, most_added)
    added = torch.log1p(torch.exp(new_M.double() + shift - old_M.double())).mean()
    assert float(added) == pytest.approx(most_added, rel=1e-6)


def test_new_entries_that_take_nothing_are_not_lowered():
    assert shift_for(torch.tensor([30.0]), torch.tensor([0.0]), 1e-4) == 0.0


def test_the_loss_on_texts_without_the_terms_is_no_worse(extended):
    out, extension, said = extended
    assert 0 <= extension.loss_after - extension.loss_before < 2e-4
    assert extension.shift < 0
    assert extension.tokens_after < 0.97 * extension.tokens_before
    assert "loss on texts without the terms: " in said
    weights = load_file(out / "model.safetensors")
    assert weights[EMBEDDING].shape[0] == extension.vocab_size == 1088


def test_the_folder_loads_in_transformers_and_keeps_what_is_known_of_the_source(extended):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    out, extension, _ = extended
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForMaskedLM.from_pretrained(out)
    assert tokenizer("a haemorrhage")["input_ids"][2] >= MODEL.vocab_size
    assert model.config.vocab_size == extension.vocab_size
    facts = json.loads((out / "padless.json").read_text())
    assert (facts["clock_tokens"], facts["lr_share"], facts["lr_peak"]) == (5_000, 1.0, 7e-4)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"terms": "0"}, ConfigError, "terms=0 adds nothing"),
        ({"terms": "-3"}, ConfigError, "terms=-3 adds nothing"),
        ({"terms": "none.txt"}, DataError, "terms=none.txt is neither a number nor a file"),
        ({"most_added": 0.0}, ConfigError, "most_added=0 is not above 0"),
        ({"most_added": float("nan")}, ConfigError, "most_added=nan is not above 0"),
    ],
)
def test_a_wrong_setting_is_refused_and_nothing_is_written(source, notes, tmp_path, more, error, message):
    with pytest.raises(error, match=message):
        extend_tokenizer(str(notes), str(source), str(tmp_path / "out"), console=QUIET, **more)
    assert not (tmp_path / "out").exists()


def test_its_own_source_is_not_written_over(source, notes):
    before = sorted(source.iterdir())
    with pytest.raises(ModelError, match="would take the place of its own source"):
        extend_tokenizer(str(notes), str(source), str(source), console=QUIET)
    assert sorted(source.iterdir()) == before


def test_a_list_in_another_encoding_is_refused(source, notes, tmp_path):
    (tmp_path / "words.txt").write_bytes("h\u00e4morrhage\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"words\.txt is not UTF-8"):
        extend_tokenizer(
            str(notes), str(source), str(tmp_path / "out"), terms=str(tmp_path / "words.txt"), console=QUIET
        )


def test_a_list_of_words_that_are_one_token_already_is_refused(source, notes, tmp_path):
    (tmp_path / "words.txt").write_text("the\nand\n")
    with pytest.raises(DataError, match=r"the list names no word that is not one token already"):
        extend_tokenizer(
            str(notes), str(source), str(tmp_path / "out"), terms=str(tmp_path / "words.txt"), console=QUIET
        )


def test_a_list_without_a_word_is_refused_before_any_document(source, tmp_path):
    (tmp_path / "words.txt").write_text(" \n\n")
    with pytest.raises(DataError, match=r"words\.txt has no word"):
        extend_tokenizer(
            "nothing.csv", str(source), str(tmp_path / "out"), terms=str(tmp_path / "words.txt"), console=QUIET
        )


def test_a_failure_at_the_end_leaves_no_folder(source, notes, tmp_path, monkeypatch):
    monkeypatch.setattr("padless.domain.extend_command.MOST_LOGIT_DIFFERENCE", -1.0)
    with pytest.raises(ModelError, match="logits differ"):
        extend_tokenizer(str(notes), str(source), str(tmp_path / "out"), terms="5", console=QUIET)
    assert list(tmp_path.iterdir()) == []
