"""The script that holds other libraries to padless's own outputs; here with those that are installed."""

import importlib.util
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[1] / "consumers" / "consumers.py"


@pytest.fixture(scope="module")
def consumers():
    spec = importlib.util.spec_from_file_location("consumers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recorded(consumers, exported, tmp_path):
    assert consumers.main(["record", str(exported[0]), str(tmp_path / "answers.safetensors")]) == 0
    return exported[0], tmp_path / "answers.safetensors"


@pytest.mark.parametrize("library", ["transformers", "sentence_transformers", "pylate"])
def test_a_library_computes_what_padless_computes(consumers, recorded, library, monkeypatch, capsys):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed here: run tests/consumers/consumers.py where it is")
    monkeypatch.setattr(consumers, "LIBRARIES", {library: consumers.LIBRARIES[library]})
    assert consumers.main(["compare", *map(str, recorded)]) == 0
    assert f"{library} " in capsys.readouterr().out


def test_a_difference_or_no_library_at_all_is_no_success(consumers, recorded, monkeypatch):
    folder, answers = recorded
    assert load_file(answers)["hidden.3"].shape[0] > 128, "longer than a window"
    monkeypatch.setattr(consumers, "LIBRARIES", {"no_such_library": None})
    assert consumers.main(["compare", str(folder), str(answers)]) == 1
    monkeypatch.undo()
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "local_attention": 32}))
    monkeypatch.setattr(consumers, "LIBRARIES", {"transformers": consumers.LIBRARIES["transformers"]})
    assert consumers.main(["compare", str(folder), str(answers)]) == 1
