"""``padless export`` in words: one checkpoint or all of a run, what its card says, and what is pushed."""

import json

import pytest
from safetensors.torch import load_file

from padless.cli import main
from padless.errors import CheckpointError, ConfigError
from padless.export.export_command import export, parse
from padless.export.run_facts import facts_of_run
from padless.export.source import load_source

from .conftest import point_at
from .reference import envelope, flexbert_settings, flexbert_weights, make_network, save_network

NAMES = ["pretrain-2048tok", "pretrain-4096tok", "context-8192tok"]


def said(arguments):
    lines = []
    return export(parse(arguments), lines.append), lines


def test_every_checkpoint_of_a_run_becomes_a_folder_of_its_phase(run_folder, tmp_path):
    exported, lines = said([f"run={run_folder}", "every=true", f"out={tmp_path / 'all'}", "licence=apache-2.0"])
    assert [each.out.name for each in exported] == NAMES
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(NAMES)
    configs = [json.loads((tmp_path / "all" / name / "config.json").read_text()) for name in NAMES]
    thetas = [(each["global_rope_theta"], each["local_rope_theta"]) for each in configs]
    assert thetas == [(10_000.0, 10_000.0), (10_000.0, 10_000.0), (160_000.0, 10_000.0)]
    kinds = [{kind["rope_theta"] for kind in each["rope_parameters"].values()} for each in configs]
    assert kinds == [{10_000.0}, {10_000.0}, {160_000.0, 10_000.0}]
    assert [each["max_position_embeddings"] for each in configs] == [128, 128, 512]
    assert [load_source(str(tmp_path / "all" / name))[0].tokens_seen for name in NAMES] == [2048, 4096, 8192]
    assert all(each.parity.max_abs_difference < 1e-4 and each.parity.top1_agreement == 1.0 for each in exported)
    assert sum("max |logit difference|" in line for line in lines) == 3
    assert sum("The capital of France is [MASK].  ->  " in line for line in lines) == 3


def test_the_card_tells_the_run(run_folder, tmp_path):
    said([f"checkpoint={run_folder}@latest", f"out={tmp_path / 'hf'}", "licence=apache-2.0"])
    card = (tmp_path / "hf" / "README.md").read_text()
    for piece in (
        "\nlicense: apache-2.0\n",
        "## Licence\n\napache-2.0\n",
        "hardware: 8 ranks on 1 machine, NVIDIA H100; then 16 ranks on 2 machines, NVIDIA H100\n",
        "| phase | tokens | loss | code | general |",
        "| pretrain | 4.096K | 3.2500 | 3.5000 | 3.0000 |",
        "| context | 8.192K | 2.5000 |  | 2.5000 |",
        'SentenceTransformer("<this folder>")',
        "hours of training: 0.01",
    ):
        assert piece in card, piece
    assert "base_model" not in card


def test_what_takes_its_time_is_said_before_it_is_done(run_folder, tmp_path):
    out, (path,) = tmp_path / "hf", run_folder.glob("checkpoints/pretrain/pretrain-2_048tok.pt")
    _, lines = said([f"checkpoint={path}", f"out={out}"])
    assert lines[:2] == [f"reading {path}", f"writing {out} and comparing its logits in transformers with ours"]
    assert lines[2].startswith(f"exported {out}: ")


def test_a_card_of_an_earlier_checkpoint_does_not_tell_what_came_after(run_folder, tmp_path):
    said([f"checkpoint={run_folder}/pretrain@2048", f"out={tmp_path / 'hf'}"])
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "hardware: 8 ranks on 1 machine, NVIDIA H100\n" in card
    assert "| pretrain | 0 | 5.0000 | 5.0000 |" in card
    assert "| context | 8.192K" not in card
    assert "Not stated by the run" in card


def test_files_of_a_run_that_are_gone_or_strange_leave_the_card_without_them(tmp_path):
    assert facts_of_run(tmp_path, 100).eval_rows == ()
    lines = ["[1]", '{"tokens": "many", "eval_loss": 1}', '{"tokens": 5, "eval_loss": "low"}', '{"event": "start"}']
    for name in ("lineage.jsonl", "metrics.jsonl"):
        (tmp_path / name).write_text("\n".join([*lines, '{"event": "start", "clock_tokens": 1, "world_size": "2"}']))
    assert facts_of_run(tmp_path, 100) == facts_of_run(tmp_path / "gone", 100)


def test_the_source_of_a_continued_run_is_the_base_model(config, state_dict, tokenizer_folder, tmp_path):
    import dataclasses

    from padless.config.schema import StartConfig
    from padless.export.command import export_from

    for source, line in (
        ("modernbert-base@extended", "answerdotai/ModernBERT-base-training-checkpoints"),
        ("x/y", "x/y"),
    ):
        continued = dataclasses.replace(config, start=StartConfig(source, ("weights",)))
        export_from(state_dict, continued, "context", tokenizer_folder, tmp_path / "hf", 8192, 36.0, None)
        assert f"\nbase_model: {line}\n" in (tmp_path / "hf" / "README.md").read_text()


def test_one_json_object_is_printed(run_folder, tmp_path, capsys):
    assert main(["export", f"checkpoint={run_folder}@latest", f"out={tmp_path / 'hf'}", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["out"], answer["pushed"]) == (True, str(tmp_path / "hf"), None)
    assert answer["max_abs_difference"] < 1e-4
    assert main(["export", f"run={run_folder}", "every=true", f"out={tmp_path / 'all'}", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["exports"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=x"], "neither checkpoint= nor run= given"),
        (["checkpoint=a", "run=b", "out=x"], "both checkpoint= and run= given"),
        (["run=b", "out=x"], "run= exports every checkpoint; every=true is missing"),
        (["checkpoint=a", "every=true", "out=x"], "every=true exports a whole run; run= is missing"),
        (["checkpoint=a"], "out has no value"),
        (["checkpoint=a", "out="], "out has no value"),
        (["checkpoint=a", "checkpoint=b", "out=x"], "checkpoint has two values"),
        (["checkpoint=a", "out=x", "private=no", "push=a/b"], "private=no is neither true nor false"),
        (["checkpoint=a", "out=x", "private=true"], "private=true has no effect without push="),
        (["checkpont=a", "out=x"], "unknown setting checkpont=a, did you mean checkpoint=a"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse(arguments)


def test_a_run_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"run=.*none is no folder of a run with checkpoints/"):
        said([f"run={tmp_path / 'none'}", "every=true", "out=x"])
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="empty has no whole checkpoint"):
        said([f"run={tmp_path / 'empty'}", "every=true", "out=x"])


def test_what_is_to_be_imported_is_said_to_be(tmp_path):
    import torch

    network = make_network()
    torch.save(envelope(flexbert_weights(network), flexbert_settings(network)), tmp_path / "ep0-ba1-rank0.pt")
    save_network(tmp_path / "hf")
    for name, kind in (("ep0-ba1-rank0.pt", "another Composer trainer"), ("hf", "is a folder, not a checkpoint")):
        with pytest.raises(CheckpointError, match=rf"{kind}(.|\n)*padless import \S+{name} out=x"):
            said([f"checkpoint={tmp_path / name}", "out=x"])
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        said([f"checkpoint={tmp_path / 'text.pt'}", "out=x"])


def test_each_checkpoint_is_pushed_as_a_revision_and_the_last_as_main(hub, run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    hub.repos["me/mine"] = {"main": {"stale.bin": b"from before"}}
    exported, lines = said([f"run={run_folder}", "every=true", f"out={tmp_path / 'all'}", "push=me/mine"])
    assert lines[-1] == "pushed to me/mine (private)"
    assert set(hub.repos["me/mine"]) == {"main", *NAMES}
    for name, out in [*((each.out.name, each.out) for each in exported), ("main", exported[-1].out)]:
        assert hub.repos["me/mine"][name] == {path.name: path.read_bytes() for path in out.iterdir()}
    weights = load_source("me/mine@pretrain-2048tok")[0].state_dict
    before = load_file(tmp_path / "all" / "pretrain-2048tok" / "model.safetensors")
    assert all(weights[name].equal(tensor) for name, tensor in before.items())


def test_a_hub_that_refuses_or_is_not_there_is_a_plain_error_before_anything_is_written(
    hub, run_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    arguments = [f"checkpoint={run_folder}@latest", f"out={tmp_path / 'hf'}"]
    with pytest.raises(CheckpointError, match=r"push=a/b/c is not a name of the hub\n.*owner/name"):
        said([*arguments, "push=a/b/c"])
    assert not (tmp_path / "hf").exists()
    hub.refuse_commits = True
    with pytest.raises(CheckpointError, match=r"the hub refuses me/mine@main: (.|\n)*hf auth login"):
        said([*arguments, "push=me/mine", "private=false"])
    point_at(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(
        CheckpointError, match=r"me/mine: the hub cannot be reached \(ConnectionError\)\n.*leave push= out"
    ):
        said([*arguments, "push=me/mine"])
