"""What a checkpoint says of itself: every fact that is used has to be there and to be of its kind."""

import pytest

from padless.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from padless.checkpoint.facts import is_stretch
from padless.config.compose import compose
from padless.config.load import to_plain
from padless.errors import CheckpointError
from padless.model.masked_lm import MaskedLM

CONFIG = compose(["recipe=smoke"])
FACTS = {
    "config": to_plain(CONFIG),
    "phase": "short",
    "clock_tokens": 512,
    "step": 1,
    "data": {"code": "a"},
    "tokenizer_sha256": "0" * 64,
    "tokenizer_folder": "tokenizer",
    "train_seconds": 1.5,
}


@pytest.fixture(scope="module")
def weights():
    return MaskedLM(CONFIG.model, CONFIG.phases["short"].rope).state_dict()


def saved(folder, weights, **facts):
    content = {name: value for name, value in {**FACTS, **facts}.items() if value != "absent"}
    save_checkpoint(folder / "a.pt", Checkpoint(weights, None, content), "hash")
    return folder / "a.pt"


def test_a_checkpoint_that_makes_sense_is_opened_with_its_config(tmp_path, weights):
    checkpoint, config = open_checkpoint(saved(tmp_path, weights, skipped=[["short", 4, 4]], recent_losses=[5.0]))
    assert config == CONFIG
    assert checkpoint.step == 1


def test_facts_that_earlier_versions_did_not_write_may_be_absent(tmp_path, weights):
    open_checkpoint(saved(tmp_path, weights, skipped="absent", recent_losses="absent", eval_loss="absent"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("config", "absent", "no config, where a configuration belongs"),
        ("config", [1], r"config=\[1\], where a configuration belongs"),
        ("data", {"code": 1}, "where a hash by stream belongs"),
        ("tokenizer_sha256", "short", "where a SHA-256 belongs"),
        ("tokenizer_folder", 3, "where a folder belongs"),
        ("train_seconds", -1.0, "where a number of seconds belongs"),
        ("train_seconds", float("nan"), "where a number of seconds belongs"),
        ("eval_loss", "low", "where a loss belongs"),
        ("skipped", [["short", 0, 0]], "where a list of blocks left out belongs"),
        ("recent_losses", [1.0, None], "where a list of losses belongs"),
        ("loss_scale", [0.5, 3], "where a loss scale and its good steps belongs"),
        ("merged_from", [{"path": "a.pt"}], "where a list of merged checkpoints belongs"),
        ("loss_scale", [65536.0], "where a loss scale and its good steps belongs"),
        ("phase", "nope", "is from phase 'nope', its config has short, context, anneal"),
        ("config", {}, "run.* has no value"),
    ],
)
def test_each_fact_that_is_not_what_it_should_be_is_named_with_the_file(tmp_path, weights, name, value, words):
    path = saved(tmp_path, weights, **{name: value})
    with pytest.raises(CheckpointError, match=rf"a\.pt.*{words}"):
        open_checkpoint(path)


def test_weights_of_another_shape_or_not_finite_are_refused_with_the_file(tmp_path, weights):
    name = "head.dense.weight"
    with pytest.raises(CheckpointError, match=r"a\.pt: its weights: head\.dense\.weight is \(1, 64\), the config says"):
        open_checkpoint(saved(tmp_path, {**weights, name: weights[name][:1].clone()}))
    with pytest.raises(CheckpointError, match=r"a\.pt: its weights: head\.dense\.weight holds NaN"):
        open_checkpoint(saved(tmp_path, {**weights, name: weights[name] * float("nan")}))


@pytest.mark.parametrize(
    ("value", "right"),
    [
        (["short", 0, 4], True),
        (("short", 4, 4), True),
        (["short", -4, 4], False),
        (["short", 0, 0], False),
        (["short", 0, 10**24], False),
        (["short", 0, 1.5], False),
        (["short", True, 4], False),
        (["short", 0], False),
        ("abc", False),
    ],
)
def test_a_stretch_is_a_phase_a_place_and_a_length(value, right):
    assert is_stretch(value) == right
