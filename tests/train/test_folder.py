"""The run folder: what is written once, appended, rewound after a kill, and compared on resume."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from padless.config.compose import compose
from padless.config.load import load_config
from padless.errors import CheckpointError
from padless.schedule.skipped import SkippedRange
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


HOSTS = ["node-a", "node-b"]


def lineage(folder):
    return [json.loads(line) for line in (folder / "lineage.jsonl").read_text().splitlines()]


def test_it_keeps_config_tokenizer_and_lineage(tmp_path, data):
    config = compose(["recipe=smoke"])
    folder = RunFolder(tmp_path / "run", is_leader=True)
    folder.begin(config, FRESH, data, HOSTS, "start", [])
    folder.note("phase_end", 5, "short")
    assert load_config(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())) == config
    assert (folder.tokenizer / "tokenizer.json").read_text() == "{}"
    start, end = lineage(tmp_path / "run")
    assert (start["event"], start["world_size"], start["hosts"]) == ("start", 2, HOSTS)
    assert (start["detail"], start["data"]) == ("random weights", data.hashes)
    assert start["versions"]["mosaicml"]
    assert start["git"]
    assert (end["event"], end["clock_tokens"], end["detail"]) == ("phase_end", 5, "short")


def test_other_ranks_and_other_settings_are_lines_of_their_own(tmp_path, data):
    folder = RunFolder(tmp_path / "run", is_leader=True)
    folder.begin(compose(["recipe=smoke"]), FRESH, data, HOSTS, "start", [])
    later = replace(FRESH, clock_tokens=512, origin="a.pt")
    folder.begin(
        compose(["recipe=smoke", "run.log_every_steps=5"]), later, data, HOSTS[:1], "resume", ["run.seed: 1 -> 2"]
    )
    _, ranks, settings, resume = lineage(tmp_path / "run")
    assert (ranks["event"], ranks["detail"], ranks["clock_tokens"]) == ("ranks", "2 -> 1", 512)
    assert (settings["event"], settings["changes"]) == ("settings", ["run.log_every_steps: 1 -> 5"])
    assert (resume["event"], resume["detail"], resume["accepted"]) == ("resume", "a.pt", ["run.seed: 1 -> 2"])
    folder.begin(compose(["recipe=smoke", "run.log_every_steps=5"]), later, data, HOSTS[:1], "resume", [])
    assert [line["event"] for line in lineage(tmp_path / "run")[4:]] == ["resume"], (
        "nothing changed, nothing more is said"
    )


def test_a_config_before_that_cannot_be_read_does_not_stop_the_run(tmp_path, data):
    folder = RunFolder(tmp_path / "run", is_leader=True)
    (tmp_path / "run" / "config.yaml").write_text("a: [")
    folder.begin(compose(["recipe=smoke"]), FRESH, data, HOSTS, "resume", [])
    settings, _ = lineage(tmp_path / "run")
    assert "the config before cannot be read" in settings["changes"][0]


def test_blocks_left_out_are_kept_and_a_damaged_list_is_an_error(tmp_path):
    folder = RunFolder(tmp_path / "run", is_leader=True)
    assert folder.read_skipped() == ()
    ranges = (SkippedRange("context", 4, 4), SkippedRange("short", 0, 2))
    folder.write_skipped(ranges)
    assert folder.read_skipped() == ranges
    (tmp_path / "run" / "skipped.json").write_text('[["short", 0')
    with pytest.raises(CheckpointError, match=r"skipped\.json is not a list of blocks left out"):
        folder.read_skipped()


def test_other_ranks_than_the_first_write_nothing(tmp_path, data):
    folder = RunFolder(tmp_path / "run", is_leader=False)
    folder.begin(compose(["recipe=smoke"]), FRESH, data, HOSTS, "start", [])
    folder.write_skipped(())
    folder.note("phase_end", 5, "short")
    folder.metrics.append({"tokens": 1})
    folder.metrics.rewind(0)
    assert list((tmp_path / "run").iterdir()) == []


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
    metrics.rewind(5_000)
    assert path.read_text().count("\n") == 4
    metrics.rewind(-1)
    assert path.read_text() == ""


def test_rewinding_reads_only_the_end_of_a_long_file(tmp_path):
    """A resume at 99 % of a run takes no longer than one at 1 %: what is before the checkpoint is not read."""
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"tokens": tokens, "filler": "x" * 300}) + "\n" for tokens in range(0, 100_000, 50)]
    whole = "".join(lines).encode()
    path.write_bytes(b"\xff" * 100_000 + b"\n" + whole)  # not even text: whoever reads it fails
    MetricsFile(path, enabled=True).rewind(99_000)
    assert path.read_bytes().endswith(lines[1_980].encode())
    assert path.stat().st_size == 100_001 + len("".join(lines[:1_981]))
