"""A domain run from one command: losses of domain and general text from the source to the end, and a model to use."""

import csv
import json
from itertools import islice

import pytest
from here import run_here, smoke_run
from rich.console import Console
from runs import metrics

from padless.data.bundled import corpus_file
from padless.data.documents import Meter, list_input, read_documents
from padless.domain.command import continue_on
from padless.domain.settings import Continuation
from padless.train.forgetting import before_and_after

pytestmark = [pytest.mark.slow, pytest.mark.composer]


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    path = tmp_path_factory.mktemp("notes") / "notes.csv"
    (file,) = list_input(corpus_file("science"))
    texts = [document.text for document in islice(read_documents(file, "text", Meter()), 30)]
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["number", "note"], *([str(number), text] for number, text in enumerate(texts))])
    return path


@pytest.fixture(scope="module")
def continued(tmp_path_factory, notes):
    """What a run without replay from the smoke recipe's annealed export printed, and its folder."""
    base = tmp_path_factory.mktemp("continued")
    settings = ["hardware=cpu", "phases.adapt.lr.peak=1e-3", "eval.max_blocks=20", "loggers.tensorboard=false"]
    arguments = {"name": "notes", "runs": str(base), "shards": str(base / "shards"), "block_tokens": 256,
                 "val_fraction": 0.2, "passes": 0.2, "recipe": "domain_short", "train": False}  # fmt: skip
    source = smoke_run(tmp_path_factory).folder / "hf"
    wanted = Continuation(input=str(notes), source=str(source), settings=settings, **arguments)
    command = continue_on(wanted, Console(quiet=True))
    return run_here(command[2:]), base / "notes"


def test_both_losses_are_in_lines_metrics_table_and_picture(continued):
    output, folder = continued
    assert "no general text in" in output
    assert "tokens (domain " in output
    rows = before_and_after(metrics(folder))
    assert [row.stream for row in rows] == ["domain", "general"]
    assert rows[0].change < 0, "the domain was learned"
    for row in rows:
        assert f"{row.before:.4f}" in output
        assert f"{row.change:+.4f}" in output
    evaluations = [line for line in metrics(folder) if "eval_loss_general" in line]
    assert len(evaluations) >= 5, "forgetting is a curve"
    assert {"loss.png", "forgetting.png"} <= {path.name for path in folder.iterdir()}


def test_an_annealed_source_is_said_and_is_in_the_lineage(continued):
    output, folder = continued
    assert "the source is annealed: its learning rate came down to 0.0113 of its peak in phase 'anneal'" in output
    assert "start.source=" in output[output.index("the source is annealed") :].split("\n", 1)[0]
    start = json.loads((folder / "lineage.jsonl").read_text().split("\n", 1)[0])
    assert (start["event"], start["clock_tokens"]) == ("start", 0)
    parent = start["parent"]
    assert parent["tokens_seen"] > 50_000
    assert (parent["phase"], parent["kept"]) == ("anneal", ["weights"])


def test_it_ends_with_a_folder_of_the_sources_shape(continued, tmp_path_factory):
    output, folder = continued
    assert "exported" in output
    own, parent = (
        json.loads((each / "hf" / "config.json").read_text()) for each in (folder, smoke_run(tmp_path_factory).folder)
    )
    for key in ("hidden_size", "num_hidden_layers", "vocab_size", "global_rope_theta", "mask_token_id"):
        assert own[key] == parent[key]
