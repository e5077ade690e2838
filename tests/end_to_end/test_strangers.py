"""Files from strangers, each where a user would be talked into opening it: refused by name, and nothing in it is run.

A canary tells whether a payload ran; that the payload would run is shown first, by opening the same file the unsafe way
in a process of its own.
"""

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from faults import (
    NEWEST,
    Canary,
    PeakMemory,
    command_refusal,
    content_of,
    edit_json,
    prepared_copy,
    seal,
    small,
    small_run,
    stream_at,
)
from here import copy_of, refusal, run_here
from runs import overrides, run

from padless.config.compose import YAML_FOLDER
from padless.export.command import export_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.composer]

UNPICKLE = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
TORCH_LOAD = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
YAML_LOAD = "import sys, yaml; yaml.unsafe_load(open(sys.argv[1]))"
MOST_GROWTH_BYTES = 100 << 20


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The folder of a good run."""
    return small_run(tmp_path_factory)


@pytest.fixture(scope="module")
def exported(good, tmp_path_factory):
    """A good Hugging Face folder."""
    folder = tmp_path_factory.mktemp("exported") / "hf"
    export_checkpoint(good / "checkpoints" / "short" / f"{NEWEST}.pt", folder)
    return folder


@pytest.fixture
def canary(tmp_path):
    bird = Canary(tmp_path / "executed")
    yield bird
    assert not bird.path.exists()


def checkpoint_of(run_folder):
    return run_folder / "checkpoints" / "short" / f"{NEWEST}.pt"


def refused_where_a_source_is_named(tmp_path, source):
    """Name the source in each of the places that take one; return the errors."""
    start = {"start": "source", "start.source": source}
    errors = [
        refusal(small(tmp_path / "start", **start)),
        refusal(small(tmp_path / "branch", **start, **{"start.keep": "[weights,optimizer,clock]"})),
        refusal(small(tmp_path / "init", **{"init": "tiled", "init.source": source})),
    ]
    return errors if Path(source).is_dir() else [*errors, command_refusal("export", f"checkpoint={source}", "out=out")]


def refused_everywhere(tmp_path, path, *parts):
    with PeakMemory() as memory:
        errors = refused_where_a_source_is_named(tmp_path, path)
    for error in errors:
        assert str(path) in error
        for part in parts:
            assert part in error
    assert memory.grew_bytes < MOST_GROWTH_BYTES
    assert not list(tmp_path.glob("*/smoke/checkpoints/*/*"))


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def test_1_a_pickle_named_like_a_checkpoint(tmp_path, canary):
    evil = tmp_path / "weights.pt"
    evil.write_bytes(pickle.dumps(canary, 2))
    assert canary.sings(UNPICKLE, evil)
    refused_everywhere(tmp_path, evil, "it is a pickle that would call posix.system, not the zip archive")


def test_2_a_checkpoint_of_the_old_format_of_torch(tmp_path, canary, good):
    evil = tmp_path / "weights.pt"
    torch.save({**content_of(checkpoint_of(good)), "meta": canary}, evil, _use_new_zipfile_serialization=False)
    assert canary.sings(TORCH_LOAD, evil)
    refused_everywhere(tmp_path, evil, "it is a pickle that would call ", "not the zip archive")


def test_3_a_pickle_in_the_optimizer_state_of_a_right_checkpoint(tmp_path, canary, good):
    """Given as a source, and as the newest checkpoint of a run folder with a sidecar that agrees."""
    copy_of(good, tmp_path / "smoke")
    evil = checkpoint_of(tmp_path / "smoke")
    content = content_of(evil)
    name = next(iter(content["optimizer"]["moments"]))
    content["optimizer"]["moments"][name]["exp_avg"] = canary
    torch.save(content, evil)
    seal(evil)
    assert canary.sings(TORCH_LOAD, evil)
    source = copy_of(evil, tmp_path / "source.pt")
    refused_everywhere(tmp_path / "source", source, "it would call posix.system; nothing in it was run")
    error = refusal(small(tmp_path))
    assert f"{evil} cannot be read as a checkpoint: it would call posix.system; nothing in it was run" in error


def test_4_a_zip_bomb(tmp_path, good):
    evil = tmp_path / "weights.pt"
    with zipfile.ZipFile(checkpoint_of(good)) as whole, zipfile.ZipFile(evil, "w", zipfile.ZIP_DEFLATED) as bomb:
        for info in whole.infolist():
            if info.filename.endswith("/data/0"):
                with bomb.open(info.filename, "w") as record:
                    for _ in range(400):
                        record.write(bytes(1 << 20))
            else:
                bomb.writestr(info.filename, whole.read(info))
    assert evil.stat().st_size < 4 << 20
    with PeakMemory() as memory, zipfile.ZipFile(evil) as bomb:
        bomb.read(next(name for name in bomb.namelist() if name.endswith("/data/0")))
    assert memory.grew_bytes > 350 << 20, "unpacking it takes the memory"
    refused_everywhere(tmp_path, evil, "is compressed or encrypted (")


def test_5_a_tensor_of_a_million_million_elements_in_one(tmp_path, good):
    evil = tmp_path / "weights.pt"
    content = content_of(checkpoint_of(good))
    name = next(iter(content["model"]))
    content["model"][name] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(content, evil)
    claims = torch.load(evil, weights_only=True)["model"][name]
    assert claims.numel() * claims.element_size() == 4 << 40, "torch itself believes it"
    refused_everywhere(tmp_path, evil, "a tensor of shape (1048576, 1048576) does not fit its storage of 1 elements")


# ---- Hugging Face folders --------------------------------------------------------------------------------------------


def test_6_a_pickle_named_model_safetensors(tmp_path, canary, exported):
    folder = copy_of(exported, tmp_path / "hf")
    evil = folder / "model.safetensors"
    evil.write_bytes(pickle.dumps(canary, 2))
    assert canary.sings(UNPICKLE, evil)
    error = refusal(small(tmp_path, **{"start": "source", "start.source": folder}))
    assert f"{evil} cannot be read: it is a pickle that would call posix.system, not safetensors" in error
    error = refusal(small(tmp_path, **{"init": "tiled", "init.source": folder}))
    assert f"{evil} cannot be read: it is a pickle that would call posix.system, not safetensors" in error


def test_7_a_safetensors_header_of_absurd_size(tmp_path, exported):
    folder = copy_of(exported, tmp_path / "hf")
    evil = folder / "model.safetensors"
    header = json.dumps({"model.embeddings.tok_embeddings.weight": {"dtype": "F32", "shape": [1 << 40, 64]}})
    for content, cause in (
        (struct.pack("<Q", 1 << 62) + bytes(100), f"its header claims {1 << 62:_} bytes, the file has 108"),
        (struct.pack("<Q", len(header)) + header.encode(), "cannot be read: "),
    ):
        evil.write_bytes(content)
        with PeakMemory() as memory:
            error = refusal(small(tmp_path, **{"init": "tiled", "init.source": folder}))
        assert str(evil) in error
        assert cause in error
        assert memory.grew_bytes < MOST_GROWTH_BYTES


EVIL_PYTHON = "import os\nos.system('touch ' + repr({path!r}))\n"
LOAD_TRUSTING = """
import sys
from transformers import AutoConfig, AutoTokenizer
(AutoConfig if sys.argv[2] == "config" else AutoTokenizer).from_pretrained(sys.argv[1], trust_remote_code=True)
"""


def with_remote_code(folder, canary, name, key):
    (folder / "evil.py").write_text(EVIL_PYTHON.format(path=str(canary.path)))
    edit_json(folder / name, lambda tree: tree.update(auto_map={key: "evil.Evil"}))
    return folder


def test_8_python_files_that_a_source_folder_wants_to_have_run(tmp_path, canary, exported, monkeypatch):
    """Not refused: weights and shape are taken from it, and its Python is not looked at."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = with_remote_code(copy_of(exported, tmp_path / "hf"), canary, "config.json", "AutoConfig")
    edit_json(folder / "config.json", lambda tree: tree.update(model_type="evil"))
    assert canary.sings(LOAD_TRUSTING, folder, "config")
    edit_json(folder / "config.json", lambda tree: tree.update(model_type="modernbert"))
    run_here(small(tmp_path, **{"start": "source", "start.source": folder, "run.stop_after_tokens": 500}))
    assert (tmp_path / "smoke" / "status.json").is_file()


def test_9_python_files_that_a_tokenizer_wants_to_have_run_through_training_and_export(tmp_path, canary, monkeypatch):
    """Not refused: the tokens are in tokenizer.json; an export's settings are padless' own."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    streams = {}
    for name in ("general", "code", "science"):
        streams |= stream_at(prepared_copy(tmp_path / "data", name), name)
    for folder in streams.values():
        with_remote_code(folder, canary, "tokenizer_config.json", "AutoTokenizer")
        edit_json(
            folder / "tokenizer_config.json",
            lambda tree: tree.update(tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]}),
        )
    assert canary.sings(LOAD_TRUSTING, folder, "tokenizer")
    run_here(small(tmp_path, **streams, **{"run.stop_after_tokens": 500}))
    saved = next((tmp_path / "smoke" / "checkpoints" / "short").glob("*.pt"))
    export_checkpoint(saved, tmp_path / "hf")
    assert "auto_map" not in (tmp_path / "hf" / "tokenizer_config.json").read_text()
    assert not (tmp_path / "hf" / "evil.py").exists()


# ---- YAML ------------------------------------------------------------------------------------------------------------

TAG = "name: !!python/object/apply:os.system ['touch {path}']\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)


def test_10_a_tag_in_a_run_s_config(tmp_path, canary, good):
    """Given to ``padless diff``, and in a run folder that goes on."""
    folder = copy_of(good, tmp_path / "smoke")
    evil = folder / "config.yaml"
    evil.write_text(TAG.format(path=canary.path))
    assert canary.sings(YAML_LOAD, evil)
    error = command_refusal("diff", good, folder)
    assert f"{evil} cannot be read: could not determine a constructor for the tag" in error
    run_here(small(tmp_path))  # the checkpoints hold the settings; the file is written anew
    assert "python/object" not in evil.read_text()


def test_11_aliases_that_make_a_small_config_a_huge_tree(tmp_path, good):
    folder = copy_of(good, tmp_path / "smoke")
    (folder / "config.yaml").write_text(BOMB)
    with PeakMemory() as memory:
        error = command_refusal("diff", good, folder)
    assert f"{folder / 'config.yaml'} cannot be read: it uses an alias" in error
    assert memory.grew_bytes < MOST_GROWTH_BYTES


def recipe_from(folder, text):
    """Lay a stranger's recipe in a folder of its own, as a user would add it; return the arguments that choose it."""
    (folder / "recipe").mkdir(parents=True)
    smoke = (YAML_FOLDER / "recipe" / "smoke.yaml").read_text()
    (folder / "recipe" / "evil.yaml").write_text(smoke + text)
    return [f"hydra.searchpath=[file://{folder}]"]


def evil_run(tmp_path, text):
    arguments = ["recipe=evil", *overrides(tmp_path)[1:], *recipe_from(tmp_path / "recipes", text)]
    return [*arguments, "run.stop_after_tokens=300", "export.enabled=false", "loggers.tensorboard=false"]


def test_12_a_tag_in_a_recipe(tmp_path, canary):
    arguments = evil_run(tmp_path, TAG.format(path=canary.path))
    assert canary.sings(YAML_LOAD, tmp_path / "recipes" / "recipe" / "evil.yaml")
    error = refusal(arguments)
    assert "a YAML file cannot be read: could not determine a constructor for the tag" in error
    assert "evil.yaml" in error
    output = run(arguments, expect=2)
    assert "Traceback" not in output


@pytest.mark.parametrize("called", ["os.system", "numpy.load"])
def test_13_a_recipe_that_asks_hydra_to_call_something(tmp_path, canary, called):
    """Hydra makes an object of any ``_target_`` in its own settings, and a recipe may change those."""
    (tmp_path / "array.npy").write_bytes(pickle.dumps(canary, 2))
    assert canary.sings("import numpy, sys; numpy.load(sys.argv[1], allow_pickle=True)", tmp_path / "array.npy")
    payload = {"os.system": {"command": f"touch {canary.path}"}}
    payload["numpy.load"] = {"file": str(tmp_path / "array.npy"), "allow_pickle": True}
    hydra = {"hydra": {"callbacks": {"evil": {"_target_": called, **payload[called]}}}}
    output = run(evil_run(tmp_path, yaml.safe_dump(hydra)), expect=None)
    did = canary.path.exists()
    canary.path.unlink(missing_ok=True)
    assert not did, output
    assert output.count("error: ") == output.count("\n  remedy: ") == 1
    assert "hydra.callbacks" in output


def test_14_aliases_that_make_a_small_recipe_a_huge_tree(tmp_path):
    code = "import sys; from padless.cli import main; sys.exit(main(['check', *sys.argv[1:]]))"
    limits = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (20, 20)); "
    limits += "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)); "
    done = subprocess.run(
        [sys.executable, "-c", limits + code, *evil_run(tmp_path, BOMB)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, f"{done.returncode} (-24: more than 20 s)\n{done.stderr[-2000:]}"
    assert "alias" in done.stderr
