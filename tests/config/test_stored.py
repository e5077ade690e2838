"""Stored configurations: of today, of earlier versions, and of strangers."""

import os

import pytest
import yaml

from padless.config.compose import compose
from padless.config.load import to_plain, to_yaml
from padless.config.stored import load_stored, read_stored_yaml
from padless.errors import ConfigError

CONFIG = compose(["recipe=smoke"])


def earlier():
    """What a run stored before these settings existed."""
    plain = to_plain(CONFIG)
    for section, keys in (
        ("run", ("keep_newest_checkpoints", "accept_changes", "profile_steps", "profile_from_step")),
        ("data", ("verify", "cache_limit_bytes")),
    ):
        for key in keys:
            del plain[section][key]
    del plain["guard"], plain["hardware"]["rank_timeout_s"], plain["hardware"]["compile"]
    for phase in plain["phases"].values():
        del phase["keep_every_tokens"]
    return plain


def test_a_configuration_of_today_reads_back_equal(tmp_path):
    assert load_stored(to_plain(CONFIG)) == CONFIG
    (tmp_path / "config.yaml").write_text(to_yaml(CONFIG))
    assert read_stored_yaml(tmp_path / "config.yaml") == CONFIG


@pytest.mark.parametrize(
    ("old", "new"), [("weights", ("weights",)), ("weights_and_optimizer", ("weights", "optimizer"))]
)
def test_an_earlier_one_gets_what_the_program_did_then(old, new):
    plain = earlier()
    plain["start"]["keep"] = old
    config = load_stored(plain)
    assert config.start.keep == new
    assert config.run.keep_newest_checkpoints is None
    assert config.phases["short"].keep_every_tokens is None
    assert (config.data.verify, config.guard.on_non_finite) == ("off", "stop")
    assert (config.run.profile_steps, config.hardware.compile) == (None, "off")
    assert "guard" not in plain, "the tree that was given is left alone"


def test_a_setting_nobody_knows_is_an_error():
    with pytest.raises(ConfigError, match=r"unknown setting run\.nonsense"):
        load_stored({**to_plain(CONFIG), "run": {**to_plain(CONFIG)["run"], "nonsense": 1}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: !!python/object/apply:os.system ['touch {canary}']\n", "could not determine a constructor for the tag"),
        ("a: &a [x, x]\nb: [*a, *a]\n", "it uses an alias"),
        ("- a\n- b\n", "is not a configuration"),
        ("a: [\n", "cannot be read"),
        ("a: " + "[" * 5_000 + "\n", "cannot be read"),
        ("a: b\n" + "#" * (1 << 20), "a configuration has at most 1_048_576"),
    ],
    ids=["tag", "alias", "list", "cut", "deep", "large"],
)
def test_yaml_of_strangers_is_data_or_refused(tmp_path, text, message):
    canary = tmp_path / "canary"
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("{canary}", str(canary)))
    with pytest.raises(ConfigError, match=message) as caught:
        read_stored_yaml(path)
    assert str(path) in caught.value.cause
    assert not canary.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read: .*No such file"):
        read_stored_yaml(tmp_path / "gone.yaml")


def test_the_dangerous_tag_would_run_with_another_loader(tmp_path):
    """The canary test above can fail: PyYAML's unsafe loader does run such a file."""
    canary = tmp_path / "canary"
    yaml.load(f"!!python/object/apply:os.mkdir ['{canary}']", Loader=yaml.UnsafeLoader)
    assert os.path.isdir(canary)  # noqa: PTH112
