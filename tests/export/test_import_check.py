from dataclasses import replace

import pytest
import torch

from padless.config.schema import RopeConfig
from padless.errors import ModelError
from padless.export.composer_source import load_composer_checkpoint, outline_of_checkpoint
from padless.export.import_check import check_import
from padless.export.importer import load_hf_folder

from .reference import envelope, flexbert_settings, flexbert_weights, save_network


def test_folders_and_checkpoints_compute_what_transformers_computes(tmp_path):
    network = save_network(tmp_path / "hf", vocab_size=321)
    parity = check_import(tmp_path / "hf", load_hf_folder(tmp_path / "hf"), 1e-4)
    assert parity.top1_agreement == 1.0
    path = tmp_path / "x.pt"
    torch.save(envelope(flexbert_weights(network), flexbert_settings(network)), path)
    loaded, _ = load_composer_checkpoint(path, outline_of_checkpoint(path))
    assert check_import(path, loaded, 1e-4).max_abs_difference < 1e-4
    assert sorted(each.name for each in tmp_path.iterdir()) == ["hf", "x.pt"]


def test_other_logits_are_refused(tmp_path):
    save_network(tmp_path / "hf")
    loaded = replace(load_hf_folder(tmp_path / "hf"), rope=RopeConfig(160_000.0, 20_000.0))
    with pytest.raises(
        ModelError, match=r"our logits differ from transformers' by \S+ \(limit 0\.0001; same best token"
    ):
        check_import(tmp_path / "hf", loaded, 1e-4)
