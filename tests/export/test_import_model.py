"""``padless import``: any source as a folder that loads everywhere, or an error and nothing written."""

import json
import os
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from padless.cli import main
from padless.data.tokenizer_training import build_tokenizer
from padless.errors import CheckpointError, ConfigError, DataError, ModelError
from padless.export import import_check
from padless.export import import_model as module
from padless.export.import_command import lines_of, parse
from padless.export.import_model import import_model
from padless.export.source import load_source

from .conftest import SENTENCES
from .reference import envelope, flexbert_settings, flexbert_weights, make_network, save_network

LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 598635032\n"


@pytest.fixture
def folder(tmp_path, tokenizer_folder):
    save_network(tmp_path / "source", classifier_pooling="cls")
    shutil.copy(tokenizer_folder / "tokenizer.json", tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def composer(tmp_path):
    """A FlexBert checkpoint with its trainer's YAML beside it and no tokenizer."""
    network = make_network()
    path = tmp_path / "composer" / "ep0-ba52988-rank0.pt"
    path.parent.mkdir()
    torch.save(envelope(flexbert_weights(network)), path)
    settings = {"max_seq_len": 1024, "model": {"model_config": flexbert_settings(network)}}
    (path.parent / "config.yaml").write_text(yaml.safe_dump(settings))
    return path


def loads_in_transformers(out):
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    network = AutoModelForMaskedLM.from_pretrained(out, local_files_only=True)
    for name in ("cls", "sep", "pad", "mask"):
        assert getattr(network.config, f"{name}_token_id") == getattr(tokenizer, f"{name}_token_id")
    return network


def test_a_folder_comes_in_byte_for_byte_with_its_tokenizer(folder, tmp_path):
    imported = import_model(str(folder), tmp_path / "out")
    before, after = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "out"))
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "out" / "tokenizer.json").read_bytes()
    network = loads_in_transformers(tmp_path / "out")
    assert network.config.classifier_pooling == "cls"
    assert network.config.max_position_embeddings == imported.max_position_tokens == 4096
    assert imported.parity.max_abs_difference < 1e-4
    lines = lines_of(tmp_path / "out", imported)
    assert "max |logit difference|" in lines[4]
    assert lines[5].startswith("  The capital of France is [MASK].  ->  ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_pickled_folder_comes_in_as_safetensors_without_being_unpickled(folder, tmp_path, monkeypatch):
    save_file(load_file(folder / "model.safetensors"), tmp_path / "kept.safetensors")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr("torch.load", lambda *args, **kwargs: pytest.fail("torch.load was called"))
    import_model(str(folder), tmp_path / "out")
    before, after = (
        load_file(each) for each in (tmp_path / "kept.safetensors", tmp_path / "out" / "model.safetensors")
    )
    assert all(after[name].equal(tensor) for name, tensor in before.items())


def test_a_composer_checkpoint_comes_in_with_the_tokenizer_that_is_given(composer, tokenizer_folder, tmp_path, capsys):
    with pytest.raises(CheckpointError, match=r"holds no tokenizer, and none lies beside it\n.*tokenizer=<tok"):
        import_model(str(composer), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    words = ["import", str(composer), f"out={tmp_path / 'out'}", f"tokenizer={tokenizer_folder}"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:3] == [
        f"reading {composer}",
        "comparing our logits with those of transformers",
        f"writing {tmp_path / 'out'} and comparing its logits in transformers with ours",
    ]
    assert "tokens seen: 5M" in out
    assert "optimizer moments: kept by start.keep=[weights,optimizer]" in out
    assert loads_in_transformers(tmp_path / "out").config.max_position_embeddings == 1024
    assert main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"reading {composer}\n")
    answer = json.loads(said.out)
    assert (answer["ok"], answer["tokens_seen"], answer["model"]["num_layers"]) == (True, 5_000_000, 4)
    assert json.loads((tmp_path / "out" / "padless.json").read_text())["imported_from"] == str(composer)
    assert load_source(str(tmp_path / "out"))[0].tokens_seen == 5_000_000
    assert str(composer) in (tmp_path / "out" / "README.md").read_text()


def test_a_checkpoint_that_does_not_say_its_length_is_asked_for_it(composer, tokenizer_folder, tmp_path):
    (composer.parent / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    file = composer.parent / "config.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, "max_seq_len": "${length}"}))
    with pytest.raises(CheckpointError, match=r"does not say how long the segments were(.|\n)*max_seq_len=1024"):
        import_model(str(composer), tmp_path / "out")
    imported = import_model(str(composer), tmp_path / "out", max_seq_len=256)
    assert imported.max_position_tokens == 256


def test_a_tokenizer_in_the_checkpoint_and_other_names_of_specials_are_taken(composer, tmp_path):
    tokenizer = build_tokenizer(SENTENCES, 320)
    text = tokenizer.to_str().replace("[MASK]", "<mask>").replace("[CLS]", "<s>").replace("[SEP]", "</s>")
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
    bos = {"__type": "AddedToken", "content": "<s>", **flags}
    names = {"bos_token": bos, "eos_token": "</s>", "mask_token": "<mask>", "pad_token": "[PAD]"}
    saved = {"tokenizer.json": {"content": json.loads(text)}, "tokenizer_config.json": {"content": names}}
    network = make_network()
    settings = {"config": {"content": flexbert_settings(network)}}
    inside = {"integrations": {"huggingface": {"model": settings, "tokenizer": saved}}}
    torch.save(envelope(flexbert_weights(network), **inside), composer)
    imported = import_model(str(composer), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["mask_token_id"] == tokenizer.token_to_id("[MASK]")
    assert written["cls_token_id"] == tokenizer.token_to_id("[CLS]")
    assert "<mask>" in imported.filled.text
    saved["tokenizer_config.json"]["content"]["mask_token"] = "[GAP]"
    torch.save(envelope(flexbert_weights(network), **inside), composer)
    with pytest.raises(
        DataError, match=r"the tokenizer in \S+ has no mask \(\[GAP\]\)\n.*tokenizer_config\.json beside"
    ):
        import_model(str(composer), tmp_path / "out")


def test_a_known_model_comes_in_with_the_tokenizer_of_its_published_sibling(hub, composer, tokenizer_folder, tmp_path):
    file = "context-extension/ep0-ba52988-rank0.pt"
    settings = {"context-extension/config.yaml": (composer.parent / "config.yaml").read_bytes()}
    repo = "answerdotai/ModernBERT-base-training-checkpoints"
    hub.repos[repo] = {"main": {file: composer.read_bytes(), **settings}}
    published = {"tokenizer.json": (tokenizer_folder / "tokenizer.json").read_bytes(), "model.safetensors": b"large"}
    hub.repos["answerdotai/ModernBERT-base"] = {"main": published}
    imported = import_model("modernbert-base@extended", tmp_path / "out")
    assert imported.origin == f"modernbert-base@extended ({repo}@{hub.sha(repo, 'main')} {file})"
    assert imported.max_position_tokens == 8192
    assert "model.safetensors" not in hub.downloads
    assert f"\nbase_model: {repo}\n" in (tmp_path / "out" / "README.md").read_text()
    loads_in_transformers(tmp_path / "out")


def test_a_checkpoint_of_padless_comes_in_as_it_is_exported(run_folder, tmp_path):
    imported = import_model(f"{run_folder}/pretrain@4096", tmp_path / "out")
    assert (imported.rope.global_theta, imported.max_position_tokens, imported.tokens_seen) == (10_000.0, 128, 4096)
    assert imported.filled is not None
    for more in ({"tokenizer": tmp_path}, {"max_seq_len": 5}):
        with pytest.raises(CheckpointError, match=r"has no effect: .* is a padless checkpoint, which knows its own"):
            import_model(f"{run_folder}@latest", tmp_path / "other", **more)


def test_a_folder_without_a_tokenizer_is_written_without_one_and_said(folder, tmp_path):
    (folder / "tokenizer.json").unlink()
    imported = import_model(str(folder), tmp_path / "out")
    assert "note: the source has no tokenizer" in lines_of(tmp_path / "out", imported)[-1]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mask_token_id": None}))
    with pytest.raises(ModelError, match=r"has no tokenizer\.json, and its config\.json does not state cls, sep, pad"):
        import_model(str(folder), tmp_path / "other")


def break_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")


def misspell_settings(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": {"content": "[MASK]"}}))


def break_settings(folder):
    (folder / "tokenizer_config.json").write_text("{")


def enlarge_settings(folder):
    with (folder / "tokenizer_config.json").open("wb") as file:
        file.truncate(1 << 30)  # takes no disk


def grow_tokenizer(folder):
    build_tokenizer(SENTENCES, 384).save(str(folder / "tokenizer.json"))


def drop_a_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["head.norm.weight"]
    save_file(weights, folder / "model.safetensors")


def point_to_weights(folder):
    (folder / "model.safetensors").write_text(LFS_POINTER)


def point_to_tokenizer(folder):
    (folder / "tokenizer.json").write_text(LFS_POINTER)


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_tokenizer, r"tokenizer\.json is not a tokenizer"),
        (break_settings, r"tokenizer_config\.json of \S+ cannot be read"),
        (misspell_settings, "does not load in transformers: Special token mask_token has to be"),
        (enlarge_settings, r"tokenizer_config\.json has 1_073_741_824 bytes"),
        (grow_tokenizer, "the tokenizer has 384 ids, the model's vocabulary is 320"),
        (drop_a_tensor, r"lacks head\.norm\.weight"),
        (cut_weights, r"model\.safetensors cannot be read"),
        (
            point_to_weights,
            r"model\.safetensors is a Git LFS pointer: the file itself of 598_635_032 bytes was",
        ),
        (point_to_tokenizer, r"tokenizer\.json is a Git LFS pointer(.|\n)*git lfs pull"),
    ],
)
def test_a_spoilt_folder_is_refused_and_nothing_is_written(folder, tmp_path, spoil, message):
    spoil(folder)
    with pytest.raises((ModelError, DataError), match=message):
        import_model(str(folder), tmp_path / "a" / "b" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_other_logits_are_refused_before_and_after_writing(folder, tmp_path, monkeypatch):
    real = import_check.compare_with_transformers
    for place in (import_check, module):
        with monkeypatch.context() as patch:
            patch.setattr(
                place,
                "compare_with_transformers",
                lambda *args: type(real(*args))(0.5, 0.9),
            )
            with pytest.raises(ModelError, match=r"logits differ from \S+ \S+ 0\.5|differ from the model's by 0\.5"):
                import_model(str(folder), tmp_path / "a" / "b" / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["source"]


class Touch:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_a_pickle_with_code_is_refused_by_name_whatever_holds_it(folder, composer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Touch()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    torch.save(envelope({"w": Touch()}), composer)
    for source in (folder, composer):
        with pytest.raises((ModelError, CheckpointError), match=r"would call posix\.system"):
            import_model(str(source), tmp_path / "out")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out").exists()


def test_what_is_not_an_export_is_not_overwritten(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("dear")
    with pytest.raises(ModelError, match="exists and is not an export"):
        import_model(str(folder), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"tokenizer=\S+ is no tokenizer\.json and no folder with one"):
        import_model(str(folder), tmp_path / "new", tokenizer=tmp_path / "gone")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/b"], "no out= given"),
        (["out=x"], r"0 sources \(none\) given"),
        (["a", "b", "out=x"], r"2 sources \(a, b\) given"),
        (["a", "out=x", "out=y"], "out has two values"),
        (["a", "out=x", "tokenizer="], "tokenizer has no value"),
        (["", "out=x"], r"0 sources \(none\) given"),
        (["a", "out=x", "max_seq_len=3_000_000_000"], r"000 is not a length in tokens\n.*at most 2_147_483_647"),
        (["a", "out=x", f"max_seq_len={'9' * 5000}"], "9 is not a length in tokens"),
        (["a", "out=x", "max_seq_len=many"], "max_seq_len=many is not a length in tokens"),
        (["a", "out=x", "tokeniser=y"], "unknown setting tokeniser=y, did you mean tokenizer=y"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse(arguments)


def test_a_length_may_be_grouped():
    assert parse(["a", "out=x", "max_seq_len=8_192"]).max_seq_len == 8192


def test_a_length_beyond_what_the_source_was_trained_on_is_written_and_said(folder, composer, tmp_path):
    imported = import_model(str(folder), tmp_path / "out", max_seq_len=99_999)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_position_embeddings"] == 99_999
    assert lines_of(tmp_path / "out", imported)[-1] == (
        "note: max_seq_len=99999 is written as given; the source says it was trained on segments of up to 4096"
    )
    assert import_model(str(folder), tmp_path / "out", max_seq_len=4096).notes == ()
    imported = import_model(str(composer), tmp_path / "out", folder / "tokenizer.json", max_seq_len=2048)
    assert "max_seq_len=2048 is written as given; the source says it was trained on segments of up to 1024" in (
        imported.notes
    )


@pytest.mark.parametrize(("length", "text"), [(4, "[MASK]"), (2, None)])
def test_segments_too_short_for_a_sentence_have_a_shorter_example_or_none(folder, tmp_path, length, text):
    imported = import_model(str(folder), tmp_path / "out", max_seq_len=length)
    assert (imported.filled and imported.filled.text) == text
    assert "no tokenizer" not in lines_of(tmp_path / "out", imported)[-1]


def test_a_reference_to_compare_with_is_written_where_the_next_import_would_remove_it(
    composer, tokenizer_folder, tmp_path, monkeypatch
):
    real, seen = import_check.compare_with_transformers, []
    monkeypatch.setattr(
        import_check, "compare_with_transformers", lambda place, *args: (seen.append(place), real(place, *args))[1]
    )
    import_model(str(composer), tmp_path / "out", tokenizer_folder)
    assert seen[0].parent.name == f".out.{os.getpid()}.partial"
    assert not seen[0].exists()
