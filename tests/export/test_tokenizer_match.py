"""A tokenizer with other ids than the weights were trained with is not taken, whatever it is compared with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from padless.data.durable import sha256_of_file
from padless.errors import CheckpointError, ModelError
from padless.export.import_command import lines_of
from padless.export.import_model import import_model
from padless.export.importer import load_hf_folder

from .reference import envelope, flexbert_settings, flexbert_weights, make_network, save_network


@pytest.fixture
def given(tokenizer_folder, tmp_path):
    """A copy of the tokenizer to change."""
    return Path(shutil.copytree(tokenizer_folder, tmp_path / "given")) / "tokenizer.json"


@pytest.fixture
def source(exported):
    """An export, which brings its tokenizer and the hash of it."""
    return exported[0]


def change(file, edit):
    tree = json.loads(file.read_text())
    edit(tree)
    file.write_text(json.dumps(tree))


def token_of(tree, place):
    return next(token for token, each in tree["model"]["vocab"].items() if each == place)


def exchange_two_ids(tree):
    first, second = token_of(tree, 300), token_of(tree, 290)
    tree["model"]["vocab"].update({first: 290, second: 300})


def drop_the_last_token(tree):
    """Drop it; the ids of the ten added tokens behind it then move up."""
    del tree["model"]["vocab"][token_of(tree, 309)]
    tree["model"]["merges"].pop()


def exchange_mask_and_pad(tree):
    text = json.dumps(tree).replace("[MASK]", "[X]").replace("[PAD]", "[MASK]").replace("[X]", "[PAD]")
    tree.update(json.loads(text))


def forget_hash(folder):
    change(folder / "padless.json", lambda facts: facts.pop("tokenizer_sha256"))


def forget_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()


@pytest.mark.parametrize("forget", [lambda folder: None, forget_hash])
def test_ids_that_differ_from_those_of_the_sources_own_are_named(source, given, tmp_path, forget):
    forget(source)
    token = token_of(json.loads(given.read_text()), 290)
    change(given, exchange_two_ids)
    with pytest.raises(ModelError) as caught:
        import_model(str(source), tmp_path / "out", given)
    assert caught.value.cause == (
        f"tokenizer={given} has {token!r} as 300, in {source}/tokenizer.json it is 290; 2 of 320 tokens differ"
    )
    assert caught.value.remedy.startswith("leave tokenizer= out, since the source brings its own")
    assert not (tmp_path / "out").exists()


def test_a_token_that_is_missing_is_named(source, given, tmp_path):
    change(given, drop_the_last_token)
    with pytest.raises(ModelError, match=r"lacks '.+', in \S+ it is 309; 11 of 320 tokens differ"):
        import_model(str(source), tmp_path / "out", given)


def test_special_tokens_of_other_ids_are_named_where_the_file_is_the_same(source, given, tmp_path):
    (given.parent / "tokenizer_config.json").write_text(json.dumps({"mask_token": "[UNK]"}))
    with pytest.raises(
        ModelError, match=r"given has 0 as the id of mask, the source's config\.json says mask_token_id=4"
    ):
        import_model(str(source), tmp_path / "out", given.parent)
    forget_hash(source)
    with pytest.raises(ModelError, match=r"given has 0 as the id of mask, \S+/tokenizer\.json has 4\n"):
        import_model(str(source), tmp_path / "out", given.parent)


def test_the_same_ids_in_another_form_are_taken_and_another_reading_is_said(source, given, tmp_path):
    given.write_text(json.dumps(json.loads(given.read_text()), indent=1))
    assert import_model(str(source), tmp_path / "out", given).notes == ()
    written = json.loads((tmp_path / "out" / "padless.json").read_text())["tokenizer_sha256"]
    assert written == sha256_of_file(given) == load_hf_folder(tmp_path / "out").tokenizer_sha256
    change(given, lambda tree: tree.update(normalizer={"type": "Lowercase"}))
    (note,) = import_model(str(source), tmp_path / "out", given).notes
    assert note == f"tokenizer={given} has the ids of {source}/tokenizer.json, but another normalizer"


def test_the_recorded_hash_is_what_counts_where_the_tokenizer_is_gone(source, given, tmp_path):
    forget_tokenizer(source)
    assert import_model(str(source), tmp_path / "out", given).notes == ()
    import_model(str(source), tmp_path / "without")
    change(given, exchange_two_ids)
    message = r"\(SHA-256 [0-9a-f]{12}\) is not the tokenizer that padless\.json records \([0-9a-f]{12}\)\n"
    for place in (source, tmp_path / "without"):
        with pytest.raises(ModelError, match=message):
            import_model(str(place), tmp_path / "other", given)
    assert not (tmp_path / "other").exists()


def test_a_tokenizer_put_into_an_export_is_found_out_and_the_right_one_mends_it(source, given, tmp_path):
    right = Path(shutil.copy(given, tmp_path / "right.json"))
    change(given, exchange_two_ids)
    shutil.copy(given, source / "tokenizer.json")
    for more in ((), (given,)):
        with pytest.raises(ModelError, match=r"is not the tokenizer that padless\.json records"):
            import_model(str(source), tmp_path / "out", *more)
    assert import_model(str(source), tmp_path / "out", right).notes == ()


def test_without_a_tokenizer_and_a_hash_special_ids_are_judged_and_the_rest_is_said(source, given, tmp_path):
    forget_tokenizer(source)
    forget_hash(source)
    imported = import_model(str(source), tmp_path / "out", given)
    assert lines_of(tmp_path / "out", imported)[-1] == (
        f"note: whether the ids of tokenizer={given} are the source's could not be compared: the source has no "
        "tokenizer of its own; it has 320 ids, the model's vocabulary is 320"
    )
    change(given, exchange_mask_and_pad)
    with pytest.raises(ModelError, match=r"as the id of pad, the source's config\.json says pad_token_id=\d\n"):
        import_model(str(source), tmp_path / "other", given)


def test_ids_beyond_the_vocabulary_in_a_config_say_nothing(given, tmp_path):
    ids = {name: json.loads(given.read_text())["model"]["vocab"][f"[{name.upper()}]"] for name in ("pad", "mask")}
    save_network(tmp_path / "hf", **{f"{name}_token_id": place for name, place in ids.items()})
    far = dict.fromkeys(("cls_token_id", "sep_token_id"), 50281)
    change(tmp_path / "hf" / "config.json", lambda config: config.update(far))
    assert len(import_model(str(tmp_path / "hf"), tmp_path / "out", given).notes) == 1


def test_a_tokenizer_beside_or_in_a_checkpoint_is_compared_and_one_that_cannot_be_read_is_said(given, tmp_path):
    network = make_network()
    path = tmp_path / "composer" / "ep0-ba1-rank0.pt"
    path.parent.mkdir()
    right = Path(shutil.copy(given, path.parent / "tokenizer.json"))
    inside = {"tokenizer.json": {"content": json.loads(given.read_text())}}
    settings = {"config": {"content": flexbert_settings(network)}}
    integrations = {"huggingface": {"model": settings, "tokenizer": inside}}
    torch.save(envelope(flexbert_weights(network), integrations=integrations), path)
    (path.parent / "config.yaml").write_text(yaml.safe_dump({"max_seq_len": 128}))
    change(given, exchange_two_ids)
    with pytest.raises(ModelError, match=r"in \S+composer/tokenizer\.json it is 290; 2 of 320"):
        import_model(str(path), tmp_path / "out", given)
    right.write_text("{}")
    (note,) = import_model(str(path), tmp_path / "out", given).notes
    assert "could not be compared: of the source's own, " in note
    assert "tokenizer.json is not a tokenizer" in note
    right.unlink()
    with pytest.raises(ModelError, match=r"in the tokenizer in ep0-ba1-rank0\.pt it is 290; 2 of 320"):
        import_model(str(path), tmp_path / "out", given)


def test_the_published_tokenizer_of_a_known_checkpoint_is_compared_where_it_can_be_had(hub, given, tmp_path):
    network = make_network()
    torch.save(envelope(flexbert_weights(network), flexbert_settings(network)), tmp_path / "x.pt")
    file = "context-extension/ep0-ba52988-rank0.pt"
    repo = "answerdotai/ModernBERT-base-training-checkpoints"
    hub.repos[repo] = {"main": {file: (tmp_path / "x.pt").read_bytes()}}
    (note,) = import_model("modernbert-base@extended", tmp_path / "out", given).notes
    assert "the hub has no model of this name" in note
    hub.repos["answerdotai/ModernBERT-base"] = {"main": {"tokenizer.json": given.read_bytes()}}
    assert import_model("modernbert-base@extended", tmp_path / "out", given).notes == ()
    change(given, exchange_two_ids)
    with pytest.raises(ModelError, match=r"in the tokenizer of answerdotai/ModernBERT-base it is 290; 2 of 320"):
        import_model("modernbert-base@extended", tmp_path / "other", given)


@pytest.mark.parametrize("value", ["short", 3, None, "G" * 64])
def test_a_hash_that_is_none_is_not_believed(source, value):
    change(source / "padless.json", lambda facts: facts.update(tokenizer_sha256=value))
    assert load_hf_folder(source).tokenizer_sha256 == sha256_of_file(source / "tokenizer.json")


def test_a_tokenizer_that_is_not_there_is_an_error(source, tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer=\S+gone is no tokenizer\.json and no folder with one"):
        import_model(str(source), tmp_path / "out", tmp_path / "gone")
