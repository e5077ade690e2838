"""Out of one run and into another: an export, imported and continued, is the run that continued from the checkpoint."""

import json

import pytest
import torch
from here import run_here, smoke_run
from runs import overrides, steps

from padless.checkpoint import load_checkpoint
from padless.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.composer]

STOP = {"run.stop_after_tokens": "3_000", "export.enabled": "false", "loggers.tensorboard": "false"}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return smoke_run(tmp_path_factory)


def continued(folder, source):
    """Return steps and last weights of a run that continues from ``source`` with a fresh optimizer."""
    run_here(overrides(folder, **STOP, **{"start": "source", "start.source": source}))
    done = [{key: value for key, value in line.items() if key != "wall"} for line in steps(folder / "smoke")]
    last = max((folder / "smoke" / "checkpoints" / "short").glob("*.pt"), key=lambda path: load_checkpoint(path).step)
    return done, load_checkpoint(last)


def test_export_import_continue_is_the_uninterrupted_run_with_a_reset_optimizer_bit_for_bit(smoke, tmp_path):
    exported, imported = tmp_path / "exported", tmp_path / "imported"
    assert main(["export", f"checkpoint={smoke.first_phase}", f"out={exported}"]) == 0
    assert main(["import", str(exported), f"out={imported}"]) == 0
    clock = load_checkpoint(smoke.first_phase).clock_tokens
    by_name = f"{smoke.folder}/short@{clock:_}"
    own_steps, own = continued(tmp_path / "own", by_name)
    assert len(own_steps) > 5
    for source in (exported, imported):
        steps_of, saved = continued(tmp_path / f"from_{source.name}", source)
        assert steps_of == own_steps
        assert all(torch.equal(saved.model[name], tensor) for name, tensor in own.model.items())
        moments, own_moments = saved.optimizer["moments"], own.optimizer["moments"]
        assert all(
            torch.equal(moments[name][key], each[key])
            for name, each in own_moments.items()
            for key in ("exp_avg", "exp_avg_sq")
        )
    lineage = (tmp_path / "own" / "smoke" / "lineage.jsonl").read_text().splitlines()
    assert json.loads(lineage[0])["detail"] == f"{by_name} ({smoke.first_phase})"


def test_the_card_of_a_real_run_tells_its_hardware_and_losses(smoke, tmp_path, capsys):
    assert main(["export", f"checkpoint={smoke.folder}@latest", f"out={tmp_path / 'hf'}", "licence=apache-2.0"]) == 0
    assert "The capital of France is [MASK].  ->  " in capsys.readouterr().out
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "hardware: 1 rank on 1 machine, CPU (" in card
    assert "| phase | tokens | loss |" in card
    table = card[card.index("## Evaluation") : card.index("## Data")]
    assert [line.split()[1] for line in table.splitlines() if line.startswith("| ")] == [
        *("phase", "---", "short", "context", "anneal")
    ]
