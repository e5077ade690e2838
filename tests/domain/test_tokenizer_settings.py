"""What a source says beside its tokenizer.json comes along with the terms, but for what would undo them."""

import json
import shutil

import pytest
from rich.console import Console
from tokenizers import Tokenizer

from padless.domain.extend_command import extend_tokenizer
from padless.domain.terms import SPACE
from padless.domain.tokenizer_settings import kept_settings, read_settings
from padless.errors import DataError

SAID = {
    "model_max_length": 777,
    "clean_up_tokenization_spaces": True,
    "chat_template": "{{ messages }}",
    "padding_side": "left",
    "additional_special_tokens": ["[MASK]"],
    "tokenizer_class": "GPT2TokenizerFast",
    "add_prefix_space": True,
    "auto_map": {"AutoTokenizer": ["code.py"]},
    "name_or_path": "somewhere/else",
}
MASK = {"content": "[MASK]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}


@pytest.fixture(scope="module")
def extended(source, notes, tmp_path_factory):
    """A source whose owner said much beside its tokenizer, extended."""
    folder = tmp_path_factory.mktemp("said")
    own = folder / "own"
    shutil.copytree(source, own)
    tree = json.loads((own / "tokenizer.json").read_text())
    decoder = {str(token["id"]): {**token, "lstrip": token["content"] == "[MASK]"} for token in tree["added_tokens"]}
    decoder["1024"] = {"content": "[TOOL]", "special": True}
    (own / "tokenizer_config.json").write_text(json.dumps({**SAID, "added_tokens_decoder": decoder}))
    (own / "special_tokens_map.json").write_text(json.dumps({"mask_token": MASK}))
    (own / "chat_template.jinja").write_text("{{ messages }}")
    extension = extend_tokenizer(str(notes), str(own), str(folder / "out"), terms="20", console=Console(quiet=True))
    return own, folder / "out", extension


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_settings_are_kept_but_for_those_that_would_undo_the_terms(extended):
    own, out, _ = extended
    said, kept = read(own, "tokenizer_config.json"), read(out, "tokenizer_config.json")
    for name in ("model_max_length", "clean_up_tokenization_spaces", "chat_template", "padding_side"):
        assert kept[name] == said[name]
    assert kept["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert kept["model_input_names"] == ["input_ids", "attention_mask"], "said by nobody, so as in any export"
    assert {"add_prefix_space", "auto_map", "name_or_path"}.isdisjoint(kept)
    assert "1024" not in kept["added_tokens_decoder"], "that id is a term's"
    assert len(kept["added_tokens_decoder"]) == len(said["added_tokens_decoder"]) - 1
    specials = read(out, "special_tokens_map.json")
    assert specials["mask_token"] == MASK
    assert specials["cls_token"] == "[CLS]"
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"


def test_transformers_gives_the_tokens_of_the_extended_tokenizer_and_knows_the_settings(extended, medical):
    from transformers import AutoTokenizer

    _, out, extension = extended
    loaded, plain = AutoTokenizer.from_pretrained(out), Tokenizer.from_file(str(out / "tokenizer.json"))
    for text in [*medical[:5], "a haemorrhage [MASK]"]:
        assert loaded(text, truncation=False)["input_ids"] == plain.encode(text).ids
    assert f"{SPACE}{extension.terms[0].token[1:]}" in loaded.get_vocab()
    assert loaded.model_max_length == 777
    assert loaded.padding_side == "left"


def test_a_source_without_settings_gets_those_of_an_export():
    usual = {"model_max_length": 256, "tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]"}
    assert kept_settings({}, usual, {"[MASK]": 4}) == usual


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"tokenizer_config\.json cannot be read: "),
        ("[" * 100_000, r"tokenizer_config\.json cannot be read: "),
        ("[]", r"tokenizer_config\.json is a JSON list, not an object"),
        ("1" * (17 << 20), r"tokenizer_config\.json has 17_825_792 bytes"),
    ],
)
def test_settings_that_cannot_be_read_are_refused_before_any_document(source, tmp_path, content, message):
    own = tmp_path / "own"
    shutil.copytree(source, own)
    (own / "tokenizer_config.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_settings(own / "tokenizer.json")
    with pytest.raises(DataError, match=message):
        extend_tokenizer("nothing.csv", str(own), str(tmp_path / "out"), console=Console(quiet=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]
