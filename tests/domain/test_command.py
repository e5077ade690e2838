"""One command: what source and documents say becomes settings of a run that passes every check."""

import json
import shutil

import pytest
from rich.console import Console

from padless.config.check import check
from padless.config.compose import compose
from padless.config.load import to_plain
from padless.data.manifest import read_manifest
from padless.domain.command import continue_on, continue_on_script
from padless.domain.run_settings import quoted
from padless.domain.settings import Continuation
from padless.errors import ConfigError, DataError
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


def test_without_general_text_nothing_is_replayed_and_the_bundled_text_is_validated_on(tmp_path, notes, source):
    config, _ = prepared(tmp_path, notes, source)
    assert config.phases["adapt"].streams == {"domain": 1.0}
    assert config.eval.streams == ("domain", "general")
    assert config.data.prepare_bundled


def test_general_text_is_replayed_with_its_share_and_validated_on(tmp_path, notes, source):
    general = tmp_path / "general.jsonl"
    general.write_text(
        "".join(json.dumps({"text": f"Chapter {n}. " + "It was a dull evening. " * 40}) + "\n" for n in range(60))
    )
    config, _ = prepared(tmp_path, notes, source, general=str(general), replay=0.25)
    assert config.phases["adapt"].streams == {"domain": 0.75, "general": 0.25}
    assert not config.data.prepare_bundled
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
    ("more", "message"),
    [
        ({"passes": 0.0}, "passes=0 is not above 0"),
        ({"passes": float("nan")}, "passes=nan is not above 0"),
        ({"replay": 1.0}, r"replay=1 is not in \[0, 1\)"),
        ({"ranks": 0}, "ranks=0 is less than 1"),
        ({"max_seq_len": 512}, r"max_seq_len=512 is more than the source was trained on \(256\)"),
        ({"recipe": "domain_log"}, "there is no recipe called 'domain_log'"),
    ],
)
def test_a_wrong_setting_is_refused(tmp_path, notes, source, more, message):
    with pytest.raises(ConfigError, match=message):
        prepared(tmp_path, notes, source, **more)


@pytest.mark.parametrize("path", ["a/b@stable", "run/anneal@1_351_680", "/a b/c=d.pt", "x,y", "it's", "/p/ä{1}.pt"])
def test_any_path_reaches_the_trainer_as_it_is(path):
    assert compose(["recipe=domain_short", f"start.source={quoted(path)}"]).start.source == path


def test_words_for_the_trainer_are_told_from_its_own(capsys):
    assert continue_on_script(["inptu=x", "hardware=cpu", "phases.adapt.tokens=1M"]) == 2
    assert "unknown key 'inptu'\n  remedy: did you mean input?" in capsys.readouterr().err
    assert continue_on_script(["input=x"]) == 2
    assert "source is missing" in capsys.readouterr().err
