import json
import resource

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from padless.checkpoint import Checkpoint, save_checkpoint
from padless.config.load import to_plain
from padless.data.durable import sha256_of_file
from padless.data.tokenise import tokenizer_facts
from padless.errors import CheckpointError, ModelError
from padless.export import writer
from padless.export.command import export_checkpoint, export_from
from padless.export.fill_mask import fill_masks
from padless.export.importer import load_hf_folder, recorded_lr_peak
from padless.export.parity import ParityResult, compare_with_transformers
from padless.export.writer import refuse_taken, require_parity


def export(state_dict, config, tokenizer_folder, out):
    return export_from(state_dict, config, "context", tokenizer_folder, out, 8192, None, None)


def test_transformers_loads_the_export_and_gives_our_logits(exported):
    out, parity = exported
    assert parity.max_abs_difference < 1e-4
    assert parity.top1_agreement == 1.0
    network = AutoModelForMaskedLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert network.config.global_rope_theta == 160_000.0
    assert network.config.max_position_embeddings == 512
    assert network.config.mask_token_id == tokenizer.mask_token_id
    assert network.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer("nine").input_ids[0] == network.config.cls_token_id
    assert tokenizer.model_max_length == 512


def test_parity_is_checked_on_logits_of_order_one(exported, state_dict):
    network = AutoModelForMaskedLM.from_pretrained(exported[0])
    assert network(input_ids=torch.arange(5, 40)[None]).logits.std() > 0.5


def test_import_of_an_export_gives_the_same_bytes(exported, state_dict, rope):
    source = load_hf_folder(exported[0])
    assert set(source.state_dict) == set(state_dict) - {"decoder.weight"}
    for name, tensor in source.state_dict.items():
        assert tensor.numpy().tobytes() == state_dict[name].numpy().tobytes(), name
    assert source.rope == rope
    assert source.source_thetas == (160_000.0, 10_000.0)
    assert source.tokens_seen == 8192
    assert source.tokenizer_sha256 is not None


def test_weights_may_be_read_by_whoever_may_read_the_rest(exported):
    modes = {file.stat().st_mode for file in exported[0].iterdir()}
    assert len(modes) == 1, modes


def test_a_second_export_replaces_what_is_its_own_and_keeps_what_others_put_there(
    exported, state_dict, config, tokenizer_folder
):
    out, _ = exported
    (out / "1_Pooling").mkdir()
    (out / "1_Pooling" / "config.json").write_text("{}")
    (out / "model.safetensors.index.json").write_text("stale")
    (out / "config.json").write_text("stale")
    export(state_dict, config, tokenizer_folder, out)
    assert (out / "1_Pooling" / "config.json").read_text() == "{}"
    assert not (out / "model.safetensors.index.json").exists()
    assert json.loads((out / "config.json").read_text())["model_type"] == "modernbert"
    assert [path.name for path in out.parent.iterdir()] == ["hf"]


def test_other_theta_in_the_written_config_is_refused_and_leaves_nothing(
    monkeypatch, state_dict, config, tokenizer_folder, tmp_path
):
    real = writer.hf_config
    monkeypatch.setattr(writer, "hf_config", lambda *args: {**real(*args), "global_rope_theta": 500.0})
    with pytest.raises(ModelError, match=r"logits differ from the model's by .* nothing was written"):
        export(state_dict, config, tokenizer_folder, tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


def test_failed_export_keeps_the_earlier_one(monkeypatch, exported, state_dict, config, tokenizer_folder):
    out, _ = exported
    before = (out / "model.safetensors").read_bytes()
    real = writer.hf_config
    monkeypatch.setattr(writer, "hf_config", lambda *args: {**real(*args), "local_rope_theta": 77.0})
    with pytest.raises(ModelError, match="logits differ"):
        export(state_dict, config, tokenizer_folder, out)
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["hf"]


def test_logits_that_are_not_numbers_are_refused():
    with pytest.raises(ModelError, match="differ from the model's by nan"):
        require_parity(ParityResult(float("nan"), 0.0), 1e-4)


def test_folder_with_a_missing_tensor_is_refused(exported, state_dict, model_config, rope):
    from safetensors.torch import load_file, save_file

    out, _ = exported
    weights = load_file(out / "model.safetensors")
    del weights["head.dense.weight"]
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    ids = {"cls": 1, "sep": 2, "pad": 3, "mask": 4}
    with pytest.raises(ModelError, match=r"does not take the exported tensors.*head\.dense\.weight"):
        compare_with_transformers(out, state_dict, model_config, rope, ids, 512)


def test_folder_that_does_not_load_is_refused(tmp_path, state_dict, model_config, rope):
    ids = {"cls": 1, "sep": 2, "pad": 3, "mask": 4}
    with pytest.raises(ModelError, match="transformers cannot load the export"):
        compare_with_transformers(tmp_path, state_dict, model_config, rope, ids, 512)


def test_weights_with_nan_or_a_missing_tensor_are_refused(state_dict, config, tokenizer_folder, tmp_path):
    damaged = {**state_dict, "head.norm.weight": state_dict["head.norm.weight"] * float("nan")}
    with pytest.raises(ModelError, match=r"head\.norm\.weight holds NaN"):
        export(damaged, config, tokenizer_folder, tmp_path / "hf")
    del damaged["head.norm.weight"]
    with pytest.raises(ModelError, match=r"lacks head\.norm\.weight"):
        export(damaged, config, tokenizer_folder, tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_something_else_is_not_overwritten(state_dict, config, tokenizer_folder, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "thesis.tex").write_text("dear")
    with pytest.raises(ModelError, match="exists and is not an export"):
        export(state_dict, config, tokenizer_folder, tmp_path / "hf")
    assert (tmp_path / "hf" / "thesis.tex").read_text() == "dear"


def test_an_export_records_the_tokenizer_by_the_hash_that_prepared_data_has(exported, tokenizer_folder):
    facts = json.loads((exported[0] / "padless.json").read_text())
    assert facts["tokenizer_sha256"] == tokenizer_facts(tokenizer_folder / "tokenizer.json").sha256
    assert load_hf_folder(exported[0]).tokenizer_sha256 == facts["tokenizer_sha256"]
    (exported[0] / "tokenizer.json").unlink()
    assert load_hf_folder(exported[0]).tokenizer_sha256 == facts["tokenizer_sha256"]


def test_an_export_records_the_peak_learning_rate_of_its_phase(exported, config):
    facts = json.loads((exported[0] / "padless.json").read_text())
    assert facts["lr_peak"] == config.phases["context"].lr.peak == recorded_lr_peak(exported[0])


@pytest.mark.parametrize("name", ["file/below", "a" * 300, "b" * 250])
def test_a_folder_that_cannot_be_is_an_error_of_one_line(state_dict, config, tokenizer_folder, tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"cannot be written: (File name too long|\S+file is no folder)\n  remedy"):
        export(state_dict, config, tokenizer_folder, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *args: False)  # root may write everywhere
    with pytest.raises(ModelError, match=rf"out cannot be written: {tmp_path} is not writable"):
        refuse_taken(tmp_path / "new" / "out")


def test_a_disk_that_is_full_leaves_neither_a_folder_nor_those_above_it(state_dict, config, tokenizer_folder, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ModelError, match=r"hf cannot be written: model\.safetensors: .*File too large"):
            export(state_dict, config, tokenizer_folder, tmp_path / "a" / "b" / "hf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_with_more_ids_than_the_model_is_refused(state_dict, config, tmp_path):
    from padless.data.tokenizer_training import build_tokenizer

    build_tokenizer(["one two three four five"], 384).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match="tokenizer has 384 ids, the model's vocabulary is 320"):
        export(state_dict, config, tmp_path, tmp_path / "hf")


def test_model_card_is_filled_from_the_run(exported):
    card = (exported[0] / "README.md").read_text()
    for piece in (
        "# card-test",
        "| pretrain |",
        "| context |",
        "160000 / 10000",
        "`general`",
        "8_192",
        "0.01",
        "2.5000",
    ):
        assert piece in card, piece
    assert "None" not in card


def test_checkpoint_exports_with_the_thetas_of_its_phase(state_dict, config, tokenizer_folder, tmp_path):
    meta = {
        "config": to_plain(config),
        "phase": "pretrain",
        "clock_tokens": 4096,
        "step": 4,
        "tokenizer_folder": str(tokenizer_folder),
        "tokenizer_sha256": sha256_of_file(tokenizer_folder / "tokenizer.json"),
        "data": {"general": "a"},
        "train_seconds": 1.0,
    }
    path = tmp_path / "pretrain.pt"
    save_checkpoint(path, Checkpoint(state_dict, None, meta), "hash")
    export_checkpoint(path, tmp_path / "hf")
    content = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (content["global_rope_theta"], content["max_position_embeddings"]) == (10_000.0, 128)
    save_checkpoint(path, Checkpoint(state_dict, None, {**meta, "phase": "anneal"}), "hash")
    with pytest.raises(CheckpointError, match="from phase 'anneal', its config has pretrain, context"):
        export_checkpoint(path, tmp_path / "hf")
    del meta["tokenizer_folder"]
    save_checkpoint(path, Checkpoint(state_dict, None, meta), "hash")
    with pytest.raises(CheckpointError, match=r"pretrain\.pt has no tokenizer_folder, where a folder belongs"):
        export_checkpoint(path, tmp_path / "hf")


def test_masks_are_filled_best_first(exported):
    (row,) = fill_masks(exported[0], ["the library opens at [MASK] in the morning"], top_k=3)
    probabilities = [probability for _, probability in row.guesses]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert row.as_line().startswith("the library opens at [MASK] in the morning  ->  ")


def test_text_without_a_mask_and_a_folder_that_does_not_load_are_errors(exported, tmp_path):
    with pytest.raises(ModelError, match=r"no \[MASK\] within the first 512 tokens of 'nothing to fill'"):
        fill_masks(exported[0], ["nothing to fill"], top_k=1)
    with pytest.raises(ModelError, match="does not load in transformers"):
        fill_masks(tmp_path / "absent", ["a [MASK]"], top_k=1)
