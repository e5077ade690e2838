"""Hydra composition, and its errors as ours."""

import pytest

from padless.config import compose as module
from padless.config.compose import compose
from padless.errors import ConfigError


def test_one_field_of_one_phase_can_be_overridden():
    before, after = compose([]), compose(["phases.context.lr.peak=1e-4"])
    assert after.phases["context"].lr.peak == 1e-4
    assert after.phases["short"] == before.phases["short"]


def test_the_command_line_wins_over_the_recipe():
    assert compose(["recipe=modernbert_base", "model=17m"]).model.hidden_size == 256


def test_a_stream_and_a_phase_can_be_added():
    config = compose(["+data.streams.web.local=/shards", "+phase@phases.more=stable", "phases.more.streams={web: 1}",
        "phases.more.tokens=1M", "phases.more.max_seq_len=64", "phases.more.rope={global_theta: 1e4, local_theta: 1e4}",
        "phases.more.lr.peak=1e-3", "phases.more.batch={blocks: 4, quantum_blocks: 2}", "phases.more.shuffle_seed=1",
        "phases.more.save_every_tokens=1M", "phases.more.eval_every_tokens=1M"])  # fmt: skip
    assert config.data.streams["web"].remote is None
    assert config.phases["more"].masking.rate == 0.3


@pytest.mark.parametrize(
    ("override", "cause", "remedy"),
    [
        ("recipe=modernbert_bse", "there is no recipe called 'modernbert_bse'", "did you mean recipe=modernbert_base?"),
        ("recipe=modernbert_bse", "no recipe", "available: demo, demo_branches, domain_continued, domain_short"),
        ("hardware=tpu", "there is no hardware called 'tpu'", "8xh100"),
        ("phases.context.lr.peek=1", "unknown setting phases.context.lr.peek", "did you mean phases.context.lr.peak?"),
        ("phases.contxt.lr.peak=1", "unknown setting phases.contxt.lr.peak", "did you mean phases.context.lr.peak?"),
        ("recipes=demo", "unknown setting recipes", "did you mean recipe?"),
        (
            "data.streams.web.local=x",
            "unknown setting data.streams.web.local",
            "to add it: +data.streams.web.local=",
        ),
        ("+bogus=1", "unknown setting bogus", "use one of: run, model"),
        ("+phases.short.lr.peek=1", "unknown setting phases.short.lr.peek", "did you mean phases.short.lr.peak?"),
        ("+model.layers=1", "unknown setting model.layers", "num_layers"),
        ("two words", "cannot read the override 'two words'", "write key=value"),
        ("~phases.short.nothing", "phases.short.nothing", "--cfg job"),
        ("init=tiled", "init.source has no value", "init.source=..."),
        ("recipe=domain_continued", "start.source has no value", "start.source=..."),
    ],
)
def test_a_wrong_override_is_refused_with_what_would_work(override, cause, remedy):
    with pytest.raises(ConfigError) as caught:
        compose([override])
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


def test_a_yaml_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "pretrain.yaml").write_text("run: {name: [}")
    monkeypatch.setattr(module, "YAML_FOLDER", tmp_path)
    with pytest.raises(ConfigError, match=r"a YAML file cannot be read.*pretrain\.yaml"):
        compose([])


def test_a_package_without_its_checkout_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "YAML_FOLDER", tmp_path / "none")
    with pytest.raises(ConfigError, match="no configuration tree"):
        compose([])
