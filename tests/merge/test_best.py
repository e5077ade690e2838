"""The best of a run are picked by what the merge measures, not by what checkpoints record of an earlier step."""

import sys
from pathlib import Path

import pytest

from padless.checkpoint import open_checkpoint
from padless.config.compose import compose
from padless.data.preflight import open_data
from padless.merge.command import MergeRequest, merge
from padless.merge.evaluate import evaluation_config
from padless.train.world import lone_world

pytestmark = [pytest.mark.slow, pytest.mark.composer]


@pytest.fixture(scope="module")
def own():
    """The smoke recipe on the bundled corpus, two blocks of validation, and the hash of its tokenizer."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))
    from runs import overrides, prepare_shared

    prepare_shared()
    config = compose([*overrides(Path("runs")), "eval.max_blocks=2"])
    return config, open_data(evaluation_config(config, {}), lone_world(), lambda line: None).tokenizer_sha256


def test_a_stale_recorded_loss_picks_nothing(save, own, tmp_path):
    config, digest = own
    clocks = (1_000, 2_000, 3_000, 4_000)

    def save_all(run, losses):
        return [
            save(clock, run=run, clock=clock, config=config, tokenizer_sha256=digest, eval_loss=loss)
            for clock, loss in zip(clocks, losses, strict=True)
        ]

    named = save_all("named", [None] * 4)
    _, rows = merge(MergeRequest(tmp_path / "all.pt", tuple(map(str, named))), lambda line: None)
    truth = {row.tokens: row.score.loss for row in rows[:-1]}
    save_all("run", [20.0 - truth[clock] for clock in clocks])  # the best records the highest
    said = []
    path, picked = merge(MergeRequest(tmp_path / "best.pt", best=1, run=str(tmp_path / "run")), said.append)
    best = min(clocks[:-1], key=lambda clock: truth[clock])
    assert [each["clock_tokens"] for each in open_checkpoint(path)[0].meta["merged_from"]] == [best, 4_000]
    assert [row.score.loss for row in picked[:-1]] == [truth[best], truth[4_000]]
    (line,) = [line for line in said if "measured and left out" in line]
    assert all(f"{truth[clock]:.4f}" in line for clock in clocks[:-1] if clock != best)
