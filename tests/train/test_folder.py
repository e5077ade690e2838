"""The run folder: what is written once, appended, rewound after a kill, and compared on resume."""

import json
from types import SimpleNamespace

import pytest
import yaml

from padless.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from padless.config.compose import compose
from padless.config.load import load_config, to_plain
from padless.errors import CheckpointError
from padless.train.callbacks.metrics import MetricsFile, read_metrics
from padless.train.folder import RunFolder
from padless.train.handover import StartState


@pytest.fixture
def data(tmp_path):
    """What a run folder asks of prepared data: hashes of streams, and where the tokenizer is."""
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "tokenizer.json").write_text("{}")
    return SimpleNamespace(hashes={"code": "new", "later": "x"}, tokenizer_folder=tmp_path / "tokens")


FRESH = StartState(None, None, 0, 0, 0.0, "random weights")


def saved(folder, config, clock, hashes):
    meta = {"config": to_plain(config), "phase": "short", "clock_tokens": clock, "step": 3, "data": hashes}
    path = folder / f"short-{clock}tok.pt"
    save_checkpoint(path, Checkpoint({}, None, meta), "hash")
    return path


def test_it_keeps_config_tokenizer_and_lineage(tmp_path, data):
    config = compose(["recipe=smoke"])
    folder = RunFolder(tmp_path / "run", is_leader=True)
    folder.begin(config, FRESH, data, 2)
    folder.note("phase_end", 5, "short")
    assert load_config(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())) == config
    assert (folder.tokenizer / "tokenizer.json").read_text() == "{}"
    start, end = (json.loads(line) for line in (tmp_path / "run" / "lineage.jsonl").read_text().splitlines())
    assert (start["event"], start["world_size"], start["detail"]) == ("start", 2, "random weights")
    assert start["versions"]["mosaicml"]
    assert (end["event"], end["clock_tokens"], end["detail"]) == ("phase_end", 5, "short")


def test_other_ranks_than_the_first_write_nothing(tmp_path, data):
    folder = RunFolder(tmp_path / "run", is_leader=False)
    folder.begin(compose(["recipe=smoke"]), FRESH, data, 2)
    folder.note("phase_end", 5, "short")
    folder.metrics.append({"tokens": 1})
    folder.metrics.rewind(0)
    assert list((tmp_path / "run").iterdir()) == []


def test_what_changes_results_or_data_is_refused_with_old_and_new(tmp_path, data):
    config = compose(["recipe=smoke"])
    folder = RunFolder(tmp_path / "run", is_leader=True)
    path = saved(tmp_path, config, 20_480, {"code": "old"})
    changed = compose(["recipe=smoke", "phases.short.weight_decay=0.1"])
    expected = (
        r"old -> new: phases.short.weight_decay: 1e-05 -> 0.1; data of stream 'code': old -> new\n"
        r".*choose another run.name"
    )
    with pytest.raises(CheckpointError, match=expected):
        folder.refuse_other_config(load_checkpoint(path).meta, changed, data)


@pytest.mark.parametrize(
    "free",
    [
        "run.stop_after_tokens=30_000",
        "hardware.microbatch_blocks=2",
        "loggers.tensorboard=false",
        "phases.short.save_every_tokens=7K",
        "phases.anneal.lr.peak=1e-3",
        "data.num_workers=1",
        "run.log_every_steps=50",
    ],
)
def test_what_does_not_change_the_past_may_change(tmp_path, data, free):
    path = saved(tmp_path, compose(["recipe=smoke"]), 20_480, {"code": "new"})
    RunFolder(tmp_path / "run", is_leader=True).refuse_other_config(
        load_checkpoint(path).meta, compose(["recipe=smoke", free]), data
    )


def test_metrics_are_rewound_to_the_checkpoint_and_lose_a_cut_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, enabled=True)
    metrics.rewind(0)
    assert not path.exists()
    for tokens in (0, 512, 1024, 1536):
        metrics.append({"tokens": tokens, "loss": 0.1})
    with path.open("a") as file:
        file.write('{"tokens": 2048, "lo')
    assert [line["tokens"] for line in read_metrics(path)] == [0, 512, 1024, 1536]
    metrics.rewind(1024)
    assert path.read_text().count("\n") == 3
    metrics.append({"tokens": 1536, "loss": 0.2})
    assert [line["tokens"] for line in read_metrics(path)] == [0, 512, 1024, 1536]
