"""Runs that begin with a model of somebody else's making, with a vocabulary that is no multiple of 64."""

import pytest
import torch
import yaml
from here import run_here
from runs import metrics, overrides

from padless.export.command import export_checkpoint
from padless.export.importer import load_hf_folder

from ..export.reference import envelope, flexbert_settings, flexbert_weights, save_network

pytestmark = [pytest.mark.slow, pytest.mark.composer]

VOCAB = 2053
SHAPE = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
THETAS = {"global_rope_theta": 10_000.0, "local_rope_theta": 10_000.0}
STOP = {
    "data.prepare_bundled": "false",  # what is prepared is for a model of the tokenizer's own size
    "run.stop_after_tokens": "1_000",
    "loggers.tensorboard": "false",
    "phases.short.lr.warmup_tokens": 0,
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return a folder of transformers and a FlexBert trainer's checkpoint of the same weights."""
    base = tmp_path_factory.mktemp("published")
    network = save_network(base / "hf", **SHAPE, **THETAS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.2 if parameter.ndim > 1 else 1.0)  # closer to where training can begin
    network.save_pretrained(base / "hf")
    checkpoint = base / "ep0-ba1-rank0.pt"
    torch.save(envelope(flexbert_weights(network)), checkpoint)
    settings = {"model": {"model_config": flexbert_settings(network)}}
    checkpoint.with_suffix(".yaml").write_text(yaml.safe_dump(settings))
    return base / "hf", checkpoint


def evals(folder):
    return [line["eval_loss"] for line in metrics(folder / "smoke") if "eval_loss" in line]


def test_a_composer_checkpoint_and_a_folder_of_the_same_weights_train_alike_and_export(sources, tmp_path):
    for name, source in zip(("folder", "checkpoint"), sources, strict=True):
        more = {"start": "source", "start.source": source, "model.vocab_size": VOCAB}
        output = run_here(overrides(tmp_path / name, **STOP, **more))
        seen = {"folder": "unknown", "checkpoint": "5M"}[name]
        assert f"tokens seen by it: {seen}); this run's clock starts at 0" in output
        saved = next((tmp_path / name / "smoke" / "checkpoints" / "short").glob("*.pt"))
        assert export_checkpoint(saved, tmp_path / name / "hf").max_abs_difference < 1e-4
        assert load_hf_folder(tmp_path / name / "hf").model_config.vocab_size == VOCAB
    assert evals(tmp_path / "folder") == evals(tmp_path / "checkpoint")
    assert evals(tmp_path / "folder")[-1] < evals(tmp_path / "folder")[0]


def test_a_larger_model_is_tiled_from_a_composer_checkpoint(sources, tmp_path):
    larger = {"model.hidden_size": 96, "model.num_heads": 3, "model.intermediate_size": 144, "model.vocab_size": 2112}
    more = {"init": "tiled", "init.source": sources[1], "export.enabled": "false"}
    output = run_here(overrides(tmp_path, **STOP, **larger, **more))
    assert "model.layers." in output
    assert "new vocabulary rows random" in output
    assert evals(tmp_path)
