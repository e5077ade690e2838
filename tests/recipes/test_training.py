"""Every recipe trains: a shrunken version of each, all phases and branches, from its own start."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shrink import shrink

from padless.config.compose import compose
from padless.recipes.read import read_recipe, recipe_names
from padless.schedule.phases import plan_phases

pytestmark = [pytest.mark.slow, pytest.mark.composer]
WORKER = Path(__file__).parent / "train_worker.py"
LAUNCHER = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
FIRST = "modernbert_base"  # others grow from its first phase, or continue it


@pytest.fixture(scope="module")
def trained(tmp_path_factory, prepared):
    """The folder of all recipes' runs, trained one after another in one process."""
    folder = tmp_path_factory.mktemp("recipes")
    first_end = plan_phases(compose(shrink(read_recipe(FIRST), folder, prepared, None)))[0].actual_end_tokens
    source = folder / FIRST / "checkpoints" / "pretrain" / f"pretrain-{first_end:_}tok.pt"
    names = [FIRST, *(name for name in recipe_names() if name != FIRST)]
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps([(name, shrink(read_recipe(name), folder, prepared, str(source))) for name in names]))
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER}
    done = subprocess.run(
        [sys.executable, str(WORKER), str(jobs)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def steps_of(run_folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_every_recipe_trains_all_its_phases_and_branches(trained):  # one test: several would train on each worker
    for name in recipe_names():
        config = read_recipe(name).config
        run_folder = trained / config.run.name
        steps = steps_of(run_folder)
        assert len(steps) >= 2, name
        assert list(dict.fromkeys(step["phase"] for step in steps)) == list(config.phase_order), name
        assert steps[0]["mask_rate"] == config.phases[config.phase_order[0]].masking.rate, name
        ends = [steps_of(run_folder / "branches" / branch) for branch in config.branches]
        assert [branch_steps[-1]["phase"] for branch_steps in ends] == list(config.branches), name
        assert all(math.isfinite(step["loss"]) for step in [*steps, *(step for end in ends for step in end)]), name
