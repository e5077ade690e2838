"""Run folders as the trainer writes them, small enough to write by hand."""

import json
from pathlib import Path

import pytest

from padless.config.compose import compose
from padless.config.load import to_yaml

START = {
    "event": "start",
    "clock_tokens": 0,
    "detail": "random weights",
    "world_size": 1,
    "hosts": ["one"],
    "data": {"code": "aa"},
    "python": "3.11.7",
    "versions": {"torch": "2.7.0", "mosaicml": "0.32.1"},
    "git": "abc",
}


def step_line(
    number: int, loss: float | None, phase: str = "short", blocks: str | None = None, tokens: int | None = None
):
    """A line of one step of 512 tokens."""
    return {
        "tokens": tokens or 512 * number,
        "step": number,
        "phase": phase,
        "loss": loss,
        "lr": 1e-3,
        "blocks": blocks or f"block{number}",
        "real_tokens": 500,
        "seconds": 0.5,
    }


def eval_line(tokens: int, loss: float):
    """A line of one validation."""
    return {"tokens": tokens, "step": tokens // 512, "phase": "short", "eval_loss": loss}


BRANCH = {**START, "event": "branch", "clock_tokens": 1024, "detail": "runs/a/checkpoints/short/short-1_024tok.pt"}

LOSSES = [7.5, 7.25, 7.125, 6.75, 6.5, 6.25]
METRICS = [eval_line(0, 7.6), *(step_line(number, loss) for number, loss in enumerate(LOSSES, 1)), eval_line(3072, 6.0)]


def write_lines(path: Path, lines) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def make_run(tmp_path):
    """Write a run folder of the smoke recipe and return it."""

    def make(name: str, *overrides: str, lineage=(START,), metrics=METRICS) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(to_yaml(compose(["recipe=smoke", *overrides])))
        write_lines(folder / "lineage.jsonl", lineage)
        write_lines(folder / "metrics.jsonl", metrics)
        return folder

    return make
