"""Checkpoints of a small model, as runs write them."""

from dataclasses import replace

import pytest
import torch

from padless.checkpoint import Checkpoint, checkpoint_path, save_checkpoint
from padless.config.compose import compose
from padless.config.load import config_hash, to_plain
from padless.model.masked_lm import MaskedLM

SHA = "0" * 64


@pytest.fixture(scope="session")
def config():
    composed = compose(["recipe=smoke"])
    shape = replace(composed.model, num_layers=2, hidden_size=32, num_heads=2, intermediate_size=64, vocab_size=256)
    return replace(composed, model=shape)


@pytest.fixture
def save(tmp_path, config):
    """Return a function that saves weights drawn from a seed in a run's folder, and returns the file."""

    def save(seed, run="run", phase="anneal", clock=1_000, config=config, eval_loss=None, **facts):
        torch.manual_seed(seed)
        weights = MaskedLM(config.model, config.phases[phase].rope).state_dict()
        folder = tmp_path / run
        (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
        meta = {
            "config": to_plain(config),
            "phase": phase,
            "clock_tokens": clock,
            "step": clock // 100,
            "data": {"code": "a"},
            "tokenizer_sha256": SHA,
            "tokenizer_folder": str(folder / "tokenizer"),
            "train_seconds": 1.5,
            "eval_loss": eval_loss,
            **facts,
        }
        path = checkpoint_path(folder, phase, clock)
        save_checkpoint(path, Checkpoint(weights, None, meta), config_hash(config))
        return path

    return save
