"""Names of sources: paths first, a run's checkpoints, short names, models of the hub."""

import dataclasses

import pytest
import torch

from padless.errors import CheckpointError, ModelError
from padless.export.known_models import KNOWN, HubSource, hub_source
from padless.export.source import load_source, resolve_source

from .conftest import point_at
from .reference import envelope, flexbert_settings, flexbert_weights, make_network, save_network

_FILES = "config.json model.safetensors 'model-*.safetensors' model.safetensors.index.json"
_TOKENIZER = "tokenizer.json tokenizer_config.json special_tokens_map.json"
_STEPS = "where there is a network: `hf download answerdotai/ModernBERT-{}-training-checkpoints"
_THEN = f"answerdotai/ModernBERT-{{}} {_TOKENIZER} --local-dir model/tokenizer`; then give the path of the .pt file, "
OFFLINE = {
    "other/name": f"where there is a network: `hf download other/name {_FILES} {_TOKENIZER} padless.json --local-dir "
    "model`, or pytorch_model.bin in the place of safetensors where it has none; then give the path of model/",
    "modernbert-large@extended": f"{_STEPS.format('large')} context-extension/ep0-ba49552-rank0.pt context-extension/"
    "ep0-ba49552-rank0.yaml context-extension/config.yaml --local-dir model && hf download "
    f"{_THEN.format('large')}tokenizer=model/tokenizer and max_seq_len=8192",
    "modernbert-base@stable": f"{_STEPS.format('base')} 'pretrain/<its newest>.pt' 'pretrain/<its newest>.yaml' "
    f"pretrain/config.yaml --local-dir model && hf download {_THEN.format('base')}tokenizer=model/tokenizer and "
    "max_seq_len=1024",
}
FOLDER = ("config.json", "model.safetensors")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a model of transformers as the files of a repository, and as a FlexBert checkpoint."""
    base = tmp_path_factory.mktemp("published")
    network = save_network(base, num_hidden_layers=2, hidden_size=64)
    torch.save(envelope(flexbert_weights(network), flexbert_settings(network)), base / "x.pt")
    return {name: (base / name).read_bytes() for name in (*FOLDER, "x.pt")}


def folder_of(files, **more):
    return {
        **{name: files[name] for name in FOLDER},
        "onnx/model.onnx": b"large",
        "pytorch_model.bin": b"large",
        **more,
    }


def test_every_short_name_says_where_it_is_and_nothing_twice():
    for name, source in KNOWN.items():
        assert hub_source(name) == source
        assert source.repo.count("/") == 1
        assert not (source.file and source.newest_in)
        assert (source.max_seq_len is None) == (source.file is None and source.newest_in is None)
    assert hub_source("modernbert-base@extended").file == "context-extension/ep0-ba52988-rank0.pt"
    assert hub_source("ettin-68m@decay8210") == HubSource("jhu-clsp/ettin-encoder-68m", "decay8210")
    assert hub_source("owner/name") == HubSource("owner/name")
    assert hub_source("owner/name@v1.2") == HubSource("owner/name", "v1.2")
    assert [hub_source(text) for text in ("/a/b", "a/b/c", "a", "a/b.pt", "../x", "a/b@", "a/b@x y")] == [None] * 7


def test_an_unknown_stage_or_name_is_answered_with_the_nearest():
    with pytest.raises(CheckpointError, match=r"no checkpoint 'final' of modernbert-base is known\n.*base@stable, mod"):
        resolve_source("modernbert-base@final")
    with pytest.raises(CheckpointError, match=r"ettin-17m is known\n.*ettin-17m or a revision such as step599525"):
        resolve_source("ettin-17m@stable")
    with pytest.raises(
        CheckpointError, match=r"modernbert-bose is neither a checkpoint(.|\n)*did you mean modernbert-b"
    ):
        resolve_source("modernbert-bose")


def test_a_folder_of_the_hub_is_downloaded_once_without_what_is_not_needed(hub, files):
    hub.repos["owner/name"] = {"main": {}, "step-7": folder_of(files)}
    resolved = resolve_source("owner/name@step-7")
    assert sorted(hub.downloads) == sorted(FOLDER)
    assert resolved.origin == f"owner/name@step-7 (owner/name@{hub.sha('owner/name', 'step-7')})"
    loaded, moments = load_source(resolved)
    assert (loaded.model_config.num_layers, moments) == (2, None)
    load_source("owner/name@step-7")
    assert len(hub.downloads) == 2


def test_a_pickle_is_downloaded_where_there_is_nothing_else(hub, files, tmp_path):
    state = make_network(num_hidden_layers=2, hidden_size=64).state_dict()
    torch.save(state, tmp_path / "weights.bin")
    hub.repos["jhu-clsp/ettin-encoder-150m"] = {
        "step599525": {
            "config.json": files["config.json"],
            "pytorch_model.bin": (tmp_path / "weights.bin").read_bytes(),
        }
    }
    loaded, _ = load_source("ettin-150m@stable")
    name = "model.layers.1.mlp.Wi.weight"
    assert torch.equal(loaded.state_dict[name], state[name])


def test_the_newest_checkpoint_of_a_folder_is_the_one_with_the_most_batches(hub, files):
    repo = "answerdotai/ModernBERT-base-training-checkpoints"
    names = [f"pretrain/ep0-ba{count}-rank0.pt" for count in (4000, 96000, 8000)]
    hub.repos[repo] = {"main": {**dict.fromkeys(names, files["x.pt"]), "context-extension/ep0-ba99-rank0.pt": b""}}
    resolved = resolve_source("modernbert-base@stable")
    assert hub.downloads == [names[1]]
    assert resolved.origin.endswith(" ep0-ba96000-rank0.pt)")
    assert load_source(resolved)[0].tokens_seen == 5_000_000
    del hub.repos[repo]["main"][names[0]], hub.repos[repo]["main"][names[1]], hub.repos[repo]["main"][names[2]]
    with pytest.raises(CheckpointError, match="has no checkpoint in pretrain, none of which says its batch"):
        resolve_source("modernbert-base@stable")
    with pytest.raises(CheckpointError, match=r"has no file context-extension/ep0-ba52988-rank0\.pt"):
        resolve_source("modernbert-base@extended")


def test_an_unknown_repository_or_revision_is_named(hub, files):
    hub.repos["owner/name"] = {"main": folder_of(files)}
    with pytest.raises(CheckpointError, match="owner/other is no path here, and the hub has no model of this name"):
        resolve_source("owner/other")
    with pytest.raises(CheckpointError, match="the hub has no revision 'v9' of owner/name"):
        resolve_source("owner/name@v9")
    assert hub.downloads == []


def test_without_a_network_a_copy_in_the_cache_is_taken_and_anything_else_is_a_plain_error(hub, files, monkeypatch):
    repo = "answerdotai/ModernBERT-large-training-checkpoints"
    hub.repos["owner/name"] = {"main": folder_of(files)}
    hub.repos[repo] = {"main": {"learning-rate-decay/ep0-ba7-rank0.pt": files["x.pt"]}}
    before = {name: resolve_source(name).path for name in ("owner/name", "modernbert-large@decayed")}
    point_at(monkeypatch, "http://127.0.0.1:9")
    assert {name: resolve_source(name).path for name in before} == before
    for name in ("other/name", "modernbert-large@extended", "modernbert-base@stable"):
        with pytest.raises(CheckpointError, match=r"not in the cache, and the hub cannot be reached") as caught:
            resolve_source(name)
        assert caught.value.remedy == OFFLINE[name]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_source("owner/name").path == before["owner/name"]
    with pytest.raises(CheckpointError, match="cannot be reached"):
        resolve_source("other/name")


def test_a_path_comes_before_a_name(hub, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ettin-150m@stable", "owner/name"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        for file in FOLDER:
            (folder / file).write_bytes(files[file])
        assert resolve_source(name).path.resolve() == folder
        assert load_source(name)[0].model_config.num_layers == 2
    assert hub.requests == []


def test_a_hub_folder_that_is_no_modernbert_is_refused(hub, files):
    hub.repos["google/bert"] = {"main": {**folder_of(files), "config.json": b'{"model_type": "bert"}'}}
    with pytest.raises(ModelError, match="describes a 'bert' model, not 'modernbert'"):
        load_source("google/bert")


def test_a_source_of_another_kind_changes_no_field(files, tmp_path):
    for name in FOLDER:
        (tmp_path / name).write_bytes(files[name])
    resolved = resolve_source(str(tmp_path))
    assert dataclasses.asdict(resolved) == {"name": str(tmp_path), "path": tmp_path, "hub": None}
    assert resolved.origin == str(tmp_path)


@pytest.mark.parametrize("name", ["foo--bar/x", "a" * 300, f"{'a' * 300}@latest"])
def test_what_can_be_neither_a_path_nor_a_name_is_an_error_of_one_line(name):
    with pytest.raises(CheckpointError):
        resolve_source(name)
