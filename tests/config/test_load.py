"""One strict conversion, and back."""

import json
from copy import deepcopy

import pytest
import yaml
from omegaconf import OmegaConf

from padless.config.compose import YAML_FOLDER, compose
from padless.config.load import config_hash, load_config, to_plain, to_yaml
from padless.errors import ConfigError

CONFIG = compose([])
PLAIN = to_plain(CONFIG)


def changed(key, value):
    """The plain tree with one dotted key set."""
    tree = deepcopy(PLAIN)
    *parents, last = key.split(".")
    section = tree
    for parent in parents:
        section = section[parent]
    section[last] = value
    return tree


@pytest.mark.parametrize("recipe", ["demo", "smoke", "modernbert_base", "modernbert_large"])
def test_plain_and_yaml_read_back_equal(recipe):
    config = compose([f"recipe={recipe}"])
    assert load_config(json.loads(json.dumps(to_plain(config)))) == config
    assert load_config(yaml.safe_load(to_yaml(config))) == config


def test_large_token_counts_are_readable_in_yaml():
    assert "tokens: 1.719T" in to_yaml(compose(["recipe=modernbert_base"]))


@pytest.mark.parametrize(
    ("key", "value", "cause", "remedy"),
    [
        ("bogus", 1, "unknown setting bogus", "use one of: run, model"),
        ("model.num_layer", 1, "unknown setting model.num_layer", "did you mean model.num_layers?"),
        ("phases.short.lr.peek", 1, "unknown setting phases.short.lr.peek", "did you mean phases.short.lr.peak?"),
        ("data.streams.code.remot", None, "unknown setting data.streams.code.remot", "data.streams.code.remote?"),
        ("phases.short.batch.warmup.level", 1, "unknown setting phases.short.batch.warmup.level", "warmup.levels?"),
        ("model.num_layers", "???", "model.num_layers has no value", "a whole number"),
        ("phases.short.tokens", "???", "phases.short.tokens has no value", '"1.7T"'),
        ("phases.short.streams", "???", "phases.short.streams has no value", "mapping of names"),
        ("init.kind", "???", "init.kind has no value", "one of random, tiled"),
        ("start.source", "???", "start.source has no value", "text, or null"),
        ("phases.short.rope", "???", "phases.short.rope has no value", "the keys global_theta, local_theta"),
        ("model.num_layers", 4.5, "model.num_layers=4.5 has the wrong type", "a whole number"),
        ("model.num_layers", True, "model.num_layers=True has the wrong type", "a whole number"),
        ("model.num_layers", None, "model.num_layers=None has the wrong type", "a whole number"),
        ("optimizer.eps", "tiny", "optimizer.eps='tiny' has the wrong type", "a number"),
        ("optimizer.eps", float("nan"), "optimizer.eps=nan has the wrong type", "a number"),
        ("data.shuffle", "yes", "data.shuffle='yes' has the wrong type", "true or false"),
        ("run.name", 3, "run.name=3 has the wrong type", "text"),
        ("init.kind", "tile", "init.kind='tile' is none of random, tiled", "did you mean tiled?"),
        ("init.kind", 3, "init.kind=3 is none of random, tiled", "write one of them"),
        ("phase_order", "short", "phase_order='short' has the wrong type", "a list"),
        ("eval.streams", [1], "eval.streams[0]=1 has the wrong type", "text"),
        ("phases.short.streams", 1, "phases.short.streams=1 has the wrong type", "a mapping"),
        ("phases.short.streams.code", "x", "phases.short.streams.code='x' has the wrong type", "a number"),
        ("phases.short", None, "phases.short=None is not a section", "give it the keys tokens"),
        ("phases.short.tokens", "12Q", "phases.short.tokens: '12Q' is not a number of tokens", '"1.7T"'),
        ("phases.short.tokens", True, "phases.short.tokens: True is not a number of tokens", "3_000"),
        ("phases.short.lr.warmup_tokens", "0.5", "phases.short.lr.warmup_tokens: '0.5' is 0.5", '"1.7T"'),
    ],
)
def test_a_wrong_tree_is_refused_naming_key_value_and_remedy(key, value, cause, remedy):
    with pytest.raises(ConfigError) as caught:
        load_config(changed(key, value))
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


def test_a_missing_key_is_refused():
    tree = deepcopy(PLAIN)
    del tree["phases"]["context"]["rope"]["global_theta"]
    with pytest.raises(ConfigError, match=r"phases\.context\.rope\.global_theta has no value"):
        load_config(tree)


def test_a_stream_without_remote_is_local():
    tree = deepcopy(PLAIN)
    del tree["data"]["streams"]["code"]["remote"]
    assert load_config(tree) == CONFIG


def test_token_counts_may_be_whole_floats():
    assert load_config(changed("phases.short.tokens", 2e6)).phases["short"].tokens == 2_000_000


def test_an_interpolation_that_names_nothing_is_refused():
    tree = OmegaConf.create(changed("run.name", "${nothing.here}"))
    with pytest.raises(ConfigError, match="does not resolve"):
        load_config(tree)


def test_hash_changes_with_results_only():
    def hashed(*overrides):
        return config_hash(compose(list(overrides)))

    same = ["run.name=x", "run.folder=y", "hardware=cpu", "hardware.microbatch_blocks=2", "data.num_workers=3"]
    same += ["data.streams.code.local=z", "loggers.tensorboard=false", "eval.max_blocks=1", "export.enabled=false"]
    same += ["phases.short.save_every_tokens=5K", "phases.short.allow_short_documents=true"]
    other = ["run.seed=1", "model.num_layers=2", "phases.anneal.lr.peak=1e-3", "phases.short.batch.warmup=null"]
    other += ["optimizer.beta1=0.8", "data.shuffle=false", "phases.context.streams.code=1", "init.scale=published"]
    assert {hashed(override) for override in same} == {hashed()}
    assert len({hashed(), *(hashed(override) for override in other)}) == 1 + len(other)


@pytest.mark.parametrize("path", sorted(YAML_FOLDER.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_is_a_mapping_with_a_comment_on_top(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert isinstance(yaml.safe_load(text), dict)
