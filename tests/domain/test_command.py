"""One command: what source and documents say becomes settings of a run that passes every check."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from padless.checkpoint import Checkpoint, save_checkpoint
from padless.config.check import check
from padless.config.compose import compose
from padless.config.load import to_plain, to_yaml
from padless.data.manifest import read_manifest
from padless.domain.command import continue_on, continue_on_script
from padless.domain.run_settings import quoted, refuse_missing_gpus
from padless.domain.settings import Continuation, judge
from padless.errors import CheckpointError, ConfigError, DataError, ModelError
from padless.model.masked_lm import MaskedLM
from padless.train.handover import state_from_source

SMALL = {"block_tokens": 512, "val_fraction": 0.1, "train": False, "settings": ["hardware=cpu"]}


def prepared(tmp_path, notes, source, **more):
    console = Console(record=True, width=200, file=(tmp_path / "said").open("w"))
    arguments = {"shards": str(tmp_path / "shards"), "runs": str(tmp_path / "runs"), **SMALL, **more}
    command = continue_on(Continuation(input=str(notes), source=str(source), **arguments), console)
    return compose(command[2:]), console.export_text()


def test_shape_thetas_lengths_and_tokenizer_are_the_sources(tmp_path, notes, source):
    config, said = prepared(tmp_path, notes, source)
    state_from_source(config.start.source, config.start.keep, config.model)  # refuses another shape
    assert {phase.rope.global_theta for phase in config.phases.values()} == {160_000.0}
    assert {phase.max_seq_len for phase in config.phases.values()} == {256} == {config.eval.max_seq_len}
    manifest = read_manifest(tmp_path / "shards" / "domain")
    facts = json.loads((source / "config.json").read_text())
    assert manifest.special_ids["mask"] == facts["mask_token_id"]
    assert "text of" in said
    assert "'note', whose texts are longest" in said
    assert f"start.source={source}" in said
    assert check(config, 1) == []


def test_an_annealed_source_is_said_before_the_documents_are_prepared(tmp_path, notes, source):
    annealed = Path(shutil.copytree(source, tmp_path / "annealed"))  # the source is every test's
    known = json.loads((annealed / "padless.json").read_text())
    (annealed / "padless.json").write_text(json.dumps({**known, "lr_share": 0.001, "phase": "anneal"}))
    _, said = prepared(tmp_path, notes, annealed)
    assert said.startswith("note: the source is annealed: its learning rate came down to 0.001 of its peak")


def test_without_general_text_nothing_is_replayed_and_the_bundled_text_is_validated_on(tmp_path, notes, source):
    config, said = prepared(tmp_path, notes, source)
    assert config.phases["adapt"].streams == {"domain": 1.0}
    assert config.eval.streams == ("domain", "general")
    assert config.data.prepare_bundled
    assert said.startswith("note: no replay: without general=<general text> every batch is of your documents alone")


def test_the_rate_is_the_peak_that_an_export_records_and_the_recipes_where_none_is(tmp_path, notes, source):
    config, said = prepared(tmp_path, notes, source)
    assert {phase.lr.peak for phase in config.phases.values()} == {7e-4}
    assert "peak learning rate: 0.0007 in adapt, 0.0007 in anneal; the source was trained with 0.0007\n" in said
    older = Path(shutil.copytree(source, tmp_path / "older"))  # the source is every test's
    known = json.loads((older / "padless.json").read_text())
    for peak in ({}, {"lr_peak": None}, {"lr_peak": "high"}, {"lr_peak": -1.0}, {"lr_peak": True}):
        (older / "padless.json").write_text(json.dumps({k: v for k, v in known.items() if k != "lr_peak"} | peak))
        config, said = prepared(tmp_path, notes, older)
        assert {phase.lr.peak for phase in config.phases.values()} == {3e-4}
        assert "the source does not say its own: phases.adapt.lr.peak=... phases.anneal.lr.peak=... set another" in said


def test_general_text_is_replayed_with_its_share_and_validated_on(tmp_path, notes, source):
    general = tmp_path / "general.jsonl"
    general.write_text(
        "".join(json.dumps({"text": f"Chapter {n}. " + "It was a dull evening. " * 40}) + "\n" for n in range(60))
    )
    config, said = prepared(tmp_path, notes, source, general=str(general), replay=0.25)
    assert config.phases["adapt"].streams == {"domain": 0.75, "general": 0.25}
    assert not config.data.prepare_bundled
    assert "no replay" not in said
    again, _ = prepared(tmp_path, notes, source, general=str(general), replay=0.0)
    assert again.phases["adapt"].streams == {"domain": 1.0}
    assert again.eval.streams == ("domain", "general")


def test_a_setting_of_the_user_wins_and_a_short_recipe_has_one_phase(tmp_path, notes, source):
    settings = ["hardware=cpu", "phases.adapt.lr.peak=1e-3"]
    config, _ = prepared(tmp_path, notes, source, recipe="domain_short", keep="weights", settings=settings)
    assert config.phase_order == ("adapt",)
    assert config.phases["adapt"].lr.peak == 1e-3
    assert config.hardware.device == "cpu"


def test_the_same_command_again_prepares_nothing_and_gives_the_same_run(tmp_path, notes, source):
    first, _ = prepared(tmp_path, notes, source)
    again, said = prepared(tmp_path, notes, source)
    assert "is prepared already with these settings: nothing to do" in said
    assert to_plain(again) == to_plain(first)


def test_a_source_without_its_tokenizer_is_refused(tmp_path, notes, source):
    bare = tmp_path / "bare"
    shutil.copytree(source, bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"there is no tokenizer\.json with .*bare\n.*tokenizer=<tokenizer\.json>"):
        prepared(tmp_path, notes, bare)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"max_seq_len": 512}, ConfigError, r"max_seq_len=512 is more than the source was trained on \(256\)"),
        ({"settings": ["phases.adapt.lr.peak=-1"]}, ConfigError, r"phases\.adapt\.lr\.peak=-1 is not above 0"),
        ({"settings": ["phases.adapt.lr.pek=1"]}, ConfigError, r"unknown setting phases\.adapt\.lr\.pek"),
        ({"settings": ["run.seed=-1"]}, ConfigError, r"run\.seed=-1 is not in"),
        (
            {"keep": "weights,optimizer"},
            CheckpointError,
            r"keep=weights,optimizer, but .* holds weights only\n.*keep=w",
        ),
    ],
)
def test_what_no_document_could_mend_is_refused_before_any_is_looked_at(tmp_path, source, more, error, message):
    with pytest.raises(error, match=message):
        prepared(tmp_path, "nothing.csv", source, **more)
    assert [path.name for path in tmp_path.iterdir()] == ["said"]


def test_a_setting_that_fits_some_sizes_only_is_not_refused_before_the_size_is_known(tmp_path, notes, source):
    settings = ["hardware=cpu", "phases.adapt.batch.blocks=2", "phases.anneal.save_every_tokens=1_000_000"]
    config, _ = prepared(tmp_path, notes, source, settings=settings)
    assert config.phases["adapt"].batch.blocks == 2


def test_weights_that_are_not_finite_are_refused_before_any_document(tmp_path, source):
    bad = tmp_path / "bad"
    shutil.copytree(source, bad)
    weights = load_file(bad / "model.safetensors")
    weights["model.layers.1.mlp.Wi.weight"][0, 0] = float("nan")
    save_file(weights, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"bad: model\.layers\.1\.mlp\.Wi\.weight holds NaN"):
        prepared(tmp_path, "nothing.csv", bad)


def test_another_tokenizer_than_the_sources_is_refused(tmp_path, source, tokenizer_folder):
    other, bad = tmp_path / "tokenizer.json", tmp_path / "bad"
    tree = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    other.write_text(json.dumps(tree, indent=1), encoding="utf-8")
    with pytest.raises(ModelError, match=r"was trained with another tokenizer \(.*\n.*leave tokenizer= out"):
        prepared(tmp_path, "nothing.csv", source, tokenizer=str(other))
    shutil.copytree(source, bad)
    tree["model"]["vocab"]["zyzzyva"] = 1024
    (bad / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    (bad / "padless.json").unlink()  # which has the tokenizer's hash
    with pytest.raises(ModelError, match=r"tokenizer\.json has 1_025 ids, .*bad 1_024"):
        prepared(tmp_path, "nothing.csv", bad)


def test_gpus_that_are_not_here_are_refused_before_preparing_for_them():
    wanted = Continuation(input="a.csv", source="b", ranks=8, settings=["hardware=8xh100"])
    recipe = judge(wanted)
    with pytest.raises(ConfigError, match=r"ranks=8, and this machine has 0 GPUs\n.*hardware=cpu.*train=false"):
        refuse_missing_gpus(wanted, recipe, 0)
    with pytest.raises(ConfigError, match=r"ranks=8, and this machine has 2 GPUs\n.*use ranks=2"):
        refuse_missing_gpus(wanted, recipe, 2)
    refuse_missing_gpus(wanted, recipe, 8)
    refuse_missing_gpus(replace(wanted, train=False), recipe, 0)


def test_the_name_of_another_run_is_refused(tmp_path, source):
    config = compose(["recipe=smoke"])
    folder = tmp_path / "runs" / "notes"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    meta = {"config": to_plain(config), "phase": "short", "clock_tokens": 3_072, "step": 6, "train_seconds": 1.5}
    meta |= {"data": {"code": "a"}, "tokenizer_folder": "tokenizer", "tokenizer_sha256": "0" * 64}
    (folder / "checkpoints" / "short").mkdir(parents=True)
    model = MaskedLM(config.model, config.phases["short"].rope, "reference")
    saved = Checkpoint(model.state_dict(), None, meta)
    save_checkpoint(folder / "checkpoints" / "short" / "short-3_072tok.pt", saved, "hash")
    with pytest.raises(
        CheckpointError, match=r"notes is another run, from random weights with phases short.*\n.*name="
    ):
        prepared(tmp_path, "nothing.csv", source, name="notes")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(DataError, match=r"nothing\.csv does not exist"):
        prepared(tmp_path, "nothing.csv", source, name="notes")


def test_a_small_table_is_prepared_with_a_share_and_few_steps_are_said(tmp_path, source):
    rows = tmp_path / "rows.csv"
    rows.write_text("note\n" + "".join(f"row {number} is a note about a patient\n" for number in range(40)))
    config, said = prepared(tmp_path, rows, source, val_fraction=None)
    assert "4 are kept of the 40 different documents" in said
    assert "steps of training move a model little: give more text, smaller blocks (block_tokens=256)" in said
    assert read_manifest(tmp_path / "shards" / "domain").documents["val"] == 4
    assert check(config, 1) == []


@pytest.mark.parametrize(
    "path",
    [
        "a/b@stable",
        "run/anneal@1_351_680",
        "/a b/c=d.pt",
        "x,y",
        "it's",
        "/p/ä{1}.pt",
        "7",
        "null",
        "1e3",
        "-x",
        ".5",
        "On",
    ],
)
def test_any_path_reaches_the_trainer_as_it_is(path):
    assert compose(["recipe=domain_short", f"start.source={quoted(path)}"]).start.source == path


def test_words_for_the_trainer_are_told_from_its_own(capsys):
    assert continue_on_script(["inptu=x", "hardware=cpu", "phases.adapt.tokens=1M"]) == 2
    assert "unknown key 'inptu'\n  remedy: did you mean input?" in capsys.readouterr().err
    assert continue_on_script(["input=x"]) == 2
    assert "source is missing" in capsys.readouterr().err
