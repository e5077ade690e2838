import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from padless.errors import ModelError
from padless.export.importer import load_hf_folder


def rewrite(out, change):
    weights = load_file(out / "model.safetensors")
    change(weights)
    save_file(weights, out / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.final_norm.weight"), r"lacks model\.final_norm\.weight"),
        (lambda w: w.update(surplus=torch.ones(2)), "does not know: surplus"),
        (lambda w: w.update({"decoder.bias": torch.ones(7)}), r"decoder\.bias is \(7,\), the config says \(320,\)"),
        (lambda w: w["decoder.bias"].fill_(float("inf")), r"decoder\.bias holds NaN or infinite"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused_by_name(exported, change, message):
    out, _ = exported
    rewrite(out, change)
    with pytest.raises(ModelError, match=message):
        load_hf_folder(out)


def test_pickles_are_refused_with_a_remedy(exported):
    out, _ = exported
    (out / "model.safetensors").rename(out / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin, a pickle(.|\n)*safe_serialization=True"):
        load_hf_folder(out)


def test_folder_without_weights_or_no_folder_is_refused(exported):
    out, _ = exported
    (out / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        load_hf_folder(out)
    with pytest.raises(ModelError, match="is not a folder"):
        load_hf_folder(out / "config.json")


def test_truncated_safetensors_is_refused(exported):
    path = exported[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        load_hf_folder(exported[0])


def split_into_shards(out):
    weights = load_file(out / "model.safetensors")
    names = sorted(weights)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, out / file)
    (out / "model.safetensors").unlink()
    weight_map = {name: file for file, part in shards.items() for name in part}
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weights


def test_sharded_folder_loads_equal(exported):
    weights = split_into_shards(exported[0])
    loaded = load_hf_folder(exported[0]).state_dict
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    "shard", ["../outside.safetensors", "/etc/outside.safetensors", "sub/x.safetensors", "x.bin", 3]
)
def test_shard_outside_the_folder_is_refused(exported, shard):
    out, _ = exported
    split_into_shards(out)
    (out.parent / "outside.safetensors").write_bytes((out / "model-1.safetensors").read_bytes())
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"decoder.bias": shard}}))
    with pytest.raises(ModelError, match="not a safetensors file of that folder"):
        load_hf_folder(out)


def test_missing_shard_and_broken_index_are_refused(exported):
    out, _ = exported
    split_into_shards(out)
    (out / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-2\.safetensors is missing"):
        load_hf_folder(out)
    (out / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="is not a safetensors index"):
        load_hf_folder(out)


def test_half_precision_weights_come_back_as_fp32(exported):
    out, _ = exported
    rewrite(out, lambda w: w.update({name: tensor.to(torch.bfloat16) for name, tensor in w.items()}))
    assert {tensor.dtype for tensor in load_hf_folder(out).state_dict.values()} == {torch.float32}
