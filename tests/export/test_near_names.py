"""Names of runs and checkpoints that are nearly right are answered with the right ones, before the hub is asked."""

import pytest

from padless.errors import CheckpointError
from padless.export.export_command import export, parse
from padless.export.source import resolve_source


@pytest.fixture(autouse=True)
def here(run_folder, monkeypatch, hub):
    """Stand where ``runs/mine`` is, with a hub that has nothing."""
    monkeypatch.chdir(run_folder.parent.parent)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mine", "mine@latest"),
        ("mine@latset", "mine@latest"),
        ("runs/mine@latset", "runs/mine@latest"),
        ("mine@2_048", "mine/pretrain@2_048"),
        ("mine/pretrian@latest", "mine@latest"),
    ],
)
def test_a_run_named_rightly_is_never_looked_up_on_the_hub(hub, name, near):
    with pytest.raises(CheckpointError, match=rf"{name} names no checkpoint of the run \S+\n.*did you mean {near}\?"):
        resolve_source(name)
    assert hub.requests == []
    with pytest.raises(CheckpointError, match=rf"checkpoint={name} is neither a file nor a .*\n.*you mean {near}\?"):
        export(parse([f"checkpoint={name}", "out=x"]), print)


@pytest.mark.parametrize(
    ("name", "near"), [("mien@latest", "mine@latest"), ("runs/mines", "runs/mine@latest"), ("rnus/other", None)]
)
def test_a_run_named_nearly_is_offered_beside_what_the_hub_says(name, near):
    with pytest.raises(CheckpointError, match=name) as caught:
        resolve_source(name)
    assert caught.value.remedy.startswith(f"did you mean {near}? Or " if near else "check the name")


@pytest.mark.parametrize("place", ["runs/mine", "runs/mine/checkpoints", "runs/mine/checkpoints/pretrain"])
def test_a_folder_of_a_run_is_answered_with_its_checkpoints(place):
    message = rf"{place} is a folder of a run, not(.|\n)*such as runs/mine(@latest|/\w+@[\d_]+); `padless chec"
    with pytest.raises(CheckpointError, match=message):
        resolve_source(place)
    with pytest.raises(CheckpointError, match=message):
        export(parse([f"checkpoint={place}", "out=x"]), print)


def test_a_model_that_has_a_folder_called_checkpoints_is_a_model(run_folder):
    (run_folder / "config.json").write_text("{}")
    assert resolve_source("runs/mine").path.name == "mine"


def test_a_run_to_export_whole_is_answered_with_the_nearest():
    for name, near in (("mien", "mine"), ("runs/mien", "runs/mine")):
        with pytest.raises(CheckpointError, match=rf"run={name} is no folder of a run(.|\n)*did you mean run={near}\?"):
            export(parse([f"run={name}", "every=true", "out=x"]), print)
    with pytest.raises(CheckpointError, match=r"run=elsewhere(.|\n)*give runs/<name> or the run's name"):
        export(parse(["run=elsewhere", "every=true", "out=x"]), print)
    with pytest.raises(CheckpointError, match=r"checkpoint=elsewhere is neither(.|\n)*give a \.pt file of a run"):
        export(parse(["checkpoint=elsewhere", "out=x"]), print)
