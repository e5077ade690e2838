"""``padless plan`` as it is typed."""

import json
import sys

import pytest

from padless.cli import main
from padless.config.compose import YAML_FOLDER
from padless.errors import ConfigError
from padless.plan.command import plan_command


def plain(capsys, *arguments):
    assert main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_one_object_has_phases_parameters_memory_and_cost(capsys):
    found = plain(capsys, "recipe=modernbert_base", "gpus=8xh100", "price=2")
    assert [phase["name"] for phase in found["phases"]] == ["pretrain", "context", "anneal"]
    first = found["phases"][0]
    assert (first["tokens"], first["steps"]) == (1_719_004_299_264, 374_902)
    assert first["gpu_hours_training"] < first["gpu_hours"]
    assert found["parameters"] == 149_655_232
    assert found["memory"]["total"] < found["memory"]["usable"]
    assert found["memory"]["microbatch_blocks"] == 12 <= found["memory"]["largest_microbatch_blocks"]
    assert found["cost"]["usd"] == pytest.approx(2 * found["gpu_hours"])
    assert found["gpu_hours"] == pytest.approx(sum(phase["gpu_hours"] for phase in found["phases"]))
    assert found["model_error"] == {"fitted": 0.02, "others": 0.16}
    assert found["extrapolated"] is False


def test_the_tables_say_schedule_cost_and_stated_error(capsys):
    assert main(["plan", "recipe=modernbert_base", "gpus=4xl40s"]) == 0
    out = capsys.readouterr().out
    for words in (
        "modernbert_base: the plan",
        "on 4xl40s",
        "the fit's own residual is 2%",
        "-16% (1B), +7% (400M), -16% (68M)",
        "extrapolated to l40s",
        "as published for 8 H100, times how much longer l40s trains",
        "epochs unknown (no data/main/manifest.json)",
        "segments of pretrain: 519 tokens on average, assumed: web-like",
        "largest microbatch that fits",
        "1.8 GB each",
        "network: gradients need",
    ):
        assert words in out


def test_a_cpu_and_small_models_carry_their_warnings(capsys):
    assert main(["plan"]) == 0
    assert "for a CPU it is a guess: measure with --measure" in capsys.readouterr().out
    assert main(["plan", "recipe=modernbert_base", "model=17m", "gpus=8xh100"]) == 0
    assert "-49% (32M), -60% (17M)" in capsys.readouterr().out
    small = plain(capsys, "recipe=modernbert_base", "model=17m", "gpus=8xl4")
    assert (small["model_error"], small["extrapolated"]) == ({"fitted": 0.02, "others": 0.60}, True)


def test_errors_are_not_stated_for_other_lengths_than_those_of_the_fit(capsys):
    arguments = ["recipe=modernbert_base", "gpus=8xh100", "lengths=full"]
    assert plain(capsys, *arguments)["model_error"] is None
    assert main(["plan", *arguments]) == 0
    out = capsys.readouterr().out
    assert "its errors are known for the lengths assumed in the fit only" in out
    assert "residual" not in out
    found = plain(capsys, "--fit", "8xa100, 30 days", "lengths=full")
    assert found["extrapolated"] is True
    assert all(size["model_error"] is None for size in found["sizes"])


def test_a_picture_is_drawn_where_it_is_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "recipe=demo_branches", "out=plan.png"]) == 0
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert "drawn: plan.png" in capsys.readouterr().out
    assert main(["plan"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["plan.png"]


@pytest.mark.parametrize("out", ["/proc/plan.png", "folder.png"])
def test_a_picture_that_cannot_be_written_is_refused_first(out, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    assert main(["plan", "recipe=demo", f"out={out}"]) == 2
    captured = capsys.readouterr()
    assert f"out={out} cannot be written" in captured.err
    assert "the plan" not in captured.out


def test_fit_answers_by_itself(capsys):
    found = plain(capsys, "--fit", "8xh100, 3 days")
    assert found["ok"] is True
    assert found["gpu_hours"] == 576
    assert any(size["model"] == found["suggested"] for size in found["sizes"])
    with pytest.raises(ConfigError, match="--fit stands by itself"):
        plan_command(["recipe=demo", "--fit=8xh100, 3 days"], as_json=False)


def test_planning_loads_no_array_library(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("padless",)]:
        monkeypatch.delitem(sys.modules, name)
    heavy = ("torch", "numpy", "matplotlib", "composer", "streaming", "transformers")
    for name in heavy:
        monkeypatch.setitem(sys.modules, name, None)  # importing it now fails
    from padless.plan.command import plan_command as fresh

    fresh(["recipe=modernbert_base", "gpus=8xh100"], as_json=True)
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_an_unknown_gpu_ends_with_2(capsys):
    assert main(["plan", "gpus=8xh10"]) == 2
    assert "did you mean h100?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in (YAML_FOLDER / "recipe").glob("*.yaml")))
def test_every_recipe_is_planned(name, capsys):
    source = ["start.source=somewhere"] if name.startswith("domain_") else []
    found = plain(capsys, f"recipe={name}", *source)
    assert found["gpu_hours"] > 0
    assert all(phase["gpu_hours_training"] > 0 for phase in found["phases"])


def test_memory_names_the_low_copies_and_counts_one_block_as_one(capsys):
    assert main(["plan", "recipe=modernbert_large", "gpus=1xl4", "hardware.microbatch_blocks=1"]) == 0
    out = capsys.readouterr().out
    assert "memory of a rank, 1 block of 8192 at once" in out
    assert "1 blocks" not in out
    assert "their bf16 copies 755 MiB" in out
    assert "may be filled (92% assumed)" in out
    assert main(["plan", "recipe=demo", "gpus=1xcpu"]) == 0
    assert "evaluation, checkpoints and starts are left out" in capsys.readouterr().out
