import io
import json
import os
import pickle
import struct
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from padless.errors import ModelError
from padless.export.importer import load_hf_folder
from padless.export.source import load_source
from padless.model.tensor_shapes import EMBEDDING


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


def renamed(weights, old, new):
    for name in [name for name in weights if old in name]:
        weights[name.replace(old, new)] = weights.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: renamed(w, "model.layers", "bert.encoder.layer"),
            r"these are weights of a plain BERT",
        ),
        (lambda w: renamed(w, "Wqkv", "q_proj"), "q_proj.weight; these are weights of a decoder"),
        (
            lambda w: w.update({"model.layers.1.mlp_norm.bias": torch.ones(32)}),
            r"\.bias; its norms have biases",
        ),
        (lambda w: w.update({"model.layers.1.attn.Wo.bias": torch.ones(32)}), r"Wo\.bias; its linear layers have bias"),
        (lambda w: renamed(w, "model.", ""), r"embeddings\.\S+; it is an encoder saved without its prediction head"),
        (
            lambda w: [w.pop(f"head.{name}.weight") for name in ("dense", "norm")],
            r"head\.dense\S+; it has no pred",
        ),
        (
            lambda w: w.update({"decoder.weight": torch.ones(320, 32)}),
            r"decoder\.weight differs from model\.emb",
        ),
    ],
)
def test_weights_of_another_kind_of_model_are_named(exported, change, message):
    rewrite(exported[0], change)
    with pytest.raises(ModelError, match=message):
        load_hf_folder(exported[0])


def test_a_bias_is_there_exactly_if_the_config_says_so(exported):
    path = exported[0] / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "decoder_bias": False}))
    with pytest.raises(ModelError, match=r"tensors this model does not know: decoder\.bias"):
        load_hf_folder(exported[0])
    rewrite(exported[0], lambda w: w.pop("decoder.bias"))
    assert not load_hf_folder(exported[0]).state_dict["decoder.bias"].any()
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"lacks decoder\.bias"):
        load_hf_folder(exported[0])


class Touch:
    def __reduce__(self):
        return (os.system, ("touch executed",))


@pytest.fixture
def canary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "executed").exists()


def as_pickle(out, change=lambda weights: weights):
    path = out / "model.safetensors"
    torch.save(change(load_file(path)), out / "pytorch_model.bin")
    path.unlink()


def test_a_pickle_of_tensors_alone_loads_as_safetensors_do(exported):
    out, _ = exported
    before = load_hf_folder(out).state_dict
    as_pickle(out, lambda weights: OrderedDict({**weights, "decoder.weight": weights[EMBEDDING]}))
    after = load_hf_folder(out).state_dict
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "decoder.bias": Touch()}, r"it would call posix\.system; nothing in it was run"),
        (lambda w: list(w.values()), "does not hold tensors by name"),
        (lambda w: {**w, "surplus": 3}, "surplus is not a tensor"),
        (lambda w: {**w, "surplus": torch.ones(2)}, "does not know: surplus"),
        (lambda w: {**w, "head.norm.weight": torch.full((32,), float("nan"))}, r"head\.norm\.weight holds NaN"),
    ],
)
def test_a_pickle_with_anything_else_is_refused(exported, canary, change, message):
    as_pickle(exported[0], change)
    with pytest.raises(ModelError, match=message):
        load_hf_folder(exported[0])


def test_a_pickle_that_is_cut_off_or_in_the_old_format_is_refused(exported):
    out, _ = exported
    as_pickle(out)
    path = out / "pytorch_model.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-50])
    with pytest.raises(
        ModelError, match=r"pytorch_model\.bin cannot be read: it is a truncated or damaged zip archive"
    ):
        load_hf_folder(out)
    bias = torch.load(io.BytesIO(data), weights_only=True)["model.layers.1.mlp.Wi.weight"].numpy().tobytes()
    at = data.index(bias)
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(ModelError, match=r"cannot be read: it is a damaged zip archive"):
        load_hf_folder(out)
    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(ModelError, match=r"it is a pickle, not the zip(.|\n)*safe_serialization=True"):
        load_hf_folder(out)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_a_git_lfs_pointer_in_the_place_of_a_pickle_is_said_to_be_one(exported, name):
    out, _ = exported
    (out / "model.safetensors").unlink()
    (out / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    place = out / name if name.endswith(".pt") else out
    with pytest.raises(ModelError, match=rf"{name} is a Git LFS pointer: the file itself of 12_345 bytes was not dow"):
        load_source(str(place))


def test_pickles_in_shards_are_named(exported):
    out, _ = exported
    (out / "model.safetensors").rename(out / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(
        ModelError, match=r"holds only pytorch_model-00001\S+; model.safetensors is needed(.|\n)*safe_s"
    ):
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


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: path.write_bytes(pickle.dumps(Touch(), 2)),
            r"it is a pickle that would call posix\.system, not s",
        ),
        (
            lambda path: path.write_bytes(pickle.dumps(Touch(), 5)),
            r"it is a pickle that would call posix\.system, not s",
        ),
        (lambda path: torch.save({"w": Touch()}, path), "it is a zip archive, not safetensors"),
        (lambda path: path.write_bytes(b""), "it is an empty file, not safetensors"),
        (lambda path: path.write_bytes(b"\xff" * 7 + b"\x7f{}"), r"its header claims 9_[\d_]+ bytes, the file has 10"),
        (lambda path: path.write_bytes(struct.pack("<Q", 5) + b"{]}  "), "invalid JSON in header"),
    ],
)
def test_other_files_under_the_name_of_safetensors_are_refused_by_what_they_are(exported, canary, write, message):
    path = exported[0] / "model.safetensors"
    path.unlink()
    write(path)
    with pytest.raises(ModelError, match=rf"model\.safetensors cannot be read: .*{message}"):
        load_hf_folder(exported[0])


def test_an_absurdly_large_header_is_refused_unread(exported):
    path = exported[0] / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate(2 << 30)  # takes no disk
    with pytest.raises(ModelError, match="its header claims 1_073_741_824 bytes, at most 16_777_216 are read"):
        load_hf_folder(exported[0])


@pytest.mark.parametrize("name", ["config.json", "padless.json", "model.safetensors.index.json"])
def test_absurdly_large_json_is_refused_unread(exported, name):
    with (exported[0] / name).open("ab") as file:
        file.truncate(1 << 32)  # takes no disk
    with pytest.raises(ModelError, match=rf"{name} has 4_294_967_296 bytes, at most [\d_]+ are read"):
        load_hf_folder(exported[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_hidden_layers": 10**15, "layer_types": None},
            "says 1_000_000_000_000_000 layers, the weights are 29 tens",
        ),
        ({"hidden_size": 10**15}, r"is \(320, 32\), the config says \(320, 1000000000000000\)"),
        ({"vocab_size": float("inf")}, "config.json has vocab_size=inf, not a whole number"),
        ({"rope_parameters": [1]}, "config.json has a value of the wrong kind"),
    ],
)
def test_a_config_with_absurd_sizes_is_refused_before_memory_is_taken(exported, changes, message):
    path = exported[0] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=message):
        load_hf_folder(exported[0])


def test_json_nested_to_crash_its_reader_is_refused(exported):
    out, _ = exported
    (out / "config.json").write_text("[" * 200_000)
    with pytest.raises(ModelError, match=r"config\.json has a value of the wrong kind: maximum rec"):
        load_hf_folder(out)


def test_a_deep_index_is_refused(exported):
    out, _ = exported
    (out / "model.safetensors.index.json").write_text("[" * 200_000)
    with pytest.raises(ModelError, match="is not a safetensors index: maximum recursion"):
        load_hf_folder(out)


def test_quantized_weights_and_names_in_two_shards_are_refused(exported):
    out, _ = exported
    rewrite(out, lambda w: w.update({"decoder.bias": torch.ones(320, dtype=torch.int8)}))
    with pytest.raises(ModelError, match=r"'decoder\.bias' has type I8, weights have F64, F32, F16, BF16"):
        load_hf_folder(out)
    rewrite(out, lambda w: w.update({"decoder.bias": torch.ones(320)}))
    split_into_shards(out)
    save_file(load_file(out / "model-1.safetensors"), out / "model-2.safetensors")
    with pytest.raises(ModelError, match=r"model-2\.safetensors holds '\S+', which another file has, too"):
        load_hf_folder(out)


@pytest.mark.parametrize("tokens", [True, -1, 1.5, "many", None, float("inf")])
def test_a_count_of_tokens_that_is_none_is_not_believed(exported, tokens):
    (exported[0] / "padless.json").write_text(json.dumps({"clock_tokens": tokens}))
    assert load_hf_folder(exported[0]).tokens_seen is None
