"""A checkpoint that Composer's own Trainer saved, around a module with FlexBert's names."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from padless.export.composer_source import is_composer_checkpoint, load_composer_checkpoint, outline_of_checkpoint
from padless.export.parity import compare_with_transformers

from .reference import IDS, flexbert_settings, flexbert_weights, save_network

pytestmark = [pytest.mark.composer, pytest.mark.slow]


def as_modules(weights):
    """Return a tree of modules that holds ``weights`` under their own names, the decoder tied."""
    root = nn.Module()
    for name, weight in weights.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_parameter(leaf, nn.Parameter(weight))
    root.decoder.weight = root.bert.embeddings.tok_embeddings.weight
    return root


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    one_process = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0"}
    for name, value in one_process.items():  # set, not deleted: Composer asks for them after an earlier test
        monkeypatch.setenv(name, value)


def test_what_composers_trainer_saves_is_read_with_settings_weights_moments_and_tokens(tmp_path):
    from composer import Trainer
    from composer.models import HuggingFaceModel
    from composer.optim import DecoupledAdamW
    from transformers import BertConfig, PreTrainedModel

    network = save_network(tmp_path / "hf")

    class FlexBertShaped(PreTrainedModel):
        config_class = BertConfig

        def __init__(self, config):
            super().__init__(config)
            for name, child in as_modules(flexbert_weights(network, prefix="")).named_children():
                self.add_module(name, child)

        def get_input_embeddings(self):
            return self.bert.embeddings.tok_embeddings

        def forward(self, input_ids=None, **_):
            return {"loss": sum(each.square().sum() for each in self.parameters()), "logits": input_ids}

    config = BertConfig(**flexbert_settings(network))
    model = HuggingFaceModel(FlexBertShaped(config), metrics=[], eval_metrics=[])
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(4)]
    trainer = Trainer(
        model=model,
        train_dataloader=DataLoader(data, batch_size=2),
        optimizers=DecoupledAdamW(model.parameters(), lr=1e-4),
        max_duration="2ba",
        save_folder=str(tmp_path / "checkpoints"),
        save_interval="2ba",
        device="cpu",
        progress_bar=False,
    )
    trainer.fit()
    trained = {name.removeprefix("model."): each for name, each in model.state_dict().items()}
    moments = {name: dict(trainer.state.optimizers[0].state[each]) for name, each in model.named_parameters()}
    trainer.close()

    path = tmp_path / "checkpoints" / "latest-rank0.pt"
    outline = outline_of_checkpoint(path)
    assert is_composer_checkpoint(outline)
    loaded, kept = load_composer_checkpoint(path, outline)
    assert loaded.tokens_seen == 32
    assert loaded.source_thetas == (160_000.0, 10_000.0)
    assert kept is not None
    assert int(kept["group_steps"]["1"]) == 2
    ours, theirs = "model.layers.2.mlp.Wi.weight", "bert.encoder.layers.2.mlp.Wi.weight"
    assert torch.equal(loaded.state_dict[ours], trained[theirs])
    assert torch.equal(kept["moments"][ours]["exp_avg"], moments[f"model.{theirs}"]["exp_avg"])
    with torch.no_grad():
        for name, each in network.named_parameters():
            each.copy_(loaded.state_dict[name])
    network.save_pretrained(tmp_path / "trained")
    parity = compare_with_transformers(
        tmp_path / "trained", loaded.state_dict, loaded.model_config, loaded.rope, IDS, 300
    )
    assert parity.max_abs_difference < 1e-4
