"""A loss or gradient that is not finite stops the run before it reaches weights or a checkpoint."""

import re

import pytest
import torch
from composer.core import Callback

from padless.checkpoint import load_checkpoint, newest_checkpoint
from padless.cli import exit_code_of
from padless.errors import TrainingError
from padless.train.callbacks.checkpointing import SaveCheckpoint
from padless.train.callbacks.finite import StopOnNonFinite

pytestmark = pytest.mark.composer


class Poison(Callback):
    """Before a step, puts a value into one weight."""

    def __init__(self, model, at_clock, value):
        self._model, self._at_clock, self._value = model, at_clock, value

    def batch_start(self, state, logger):
        if int(state.timestamp.token) == self._at_clock:
            with torch.no_grad():
                self._model.model.embeddings.tok_embeddings.weight[7, 0] = self._value


def saver(phase, folder):
    return SaveCheckpoint(
        phase.record, phase.model, run_folder=folder, meta={}, config_hash="hash", world=phase.world,
        end_tokens=8_000, trained_s=0.0, say=lambda line: None,
    )  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_it_stops_with_step_phase_clock_and_blocks_and_the_last_checkpoint_is_whole(
    make_phase, tmp_path, value, capsys
):
    phase = make_phase("phases.short.save_every_tokens=1_000")
    stop = StopOnNonFinite(phase.record, phase.loader)
    trainer = phase.trainer([Poison(phase.model, 2_560, value), stop, saver(phase, tmp_path)], 8_000)
    assert exit_code_of(trainer.fit) == 2
    error = capsys.readouterr().err
    error = error[error.index("error: ") :]
    assert re.match(r"error: gradient norm is (nan|inf) at step 5 of phase 'short' \(clock 2_560 tokens\), ", error)
    assert "blocks code:10, code:11\n  remedy: the weights of the last checkpoint are whole: " in error
    assert "phases.short.lr.peak" in error
    newest = newest_checkpoint(tmp_path, print)
    assert newest is not None
    saved = load_checkpoint(newest)
    assert saved.clock_tokens == 2_048
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved.model.values())


def test_a_learning_rate_that_overflows_is_stopped(make_phase, tmp_path):
    phase = make_phase(
        "phases.short.lr.peak=1e38", "phases.short.lr.warmup_tokens=0", "phases.short.save_every_tokens=500"
    )
    stop = StopOnNonFinite(phase.record, phase.loader)
    with pytest.raises(TrainingError, match=r"not finite|gradient norm is (nan|inf) at step \d of phase 'short'"):
        phase.trainer([stop, saver(phase, tmp_path)], 8_000).fit()


def test_many_blocks_are_counted_after_the_first_sixteen(make_phase):
    phase = make_phase()
    phase.loader.last_step.block_ids = [("code", number) for number in range(20)]
    text = StopOnNonFinite(phase.record, phase.loader)._blocks()
    assert text.startswith("code:0, code:1, ")
    assert text.endswith("code:15 and 4 more")


def test_the_norm_is_that_of_all_gradients_together(make_phase):
    phase = make_phase()
    norms = []

    class Compare(Callback):
        def after_train_batch(self, state, logger):
            squares = [parameter.grad.double().square().sum() for parameter in state.model.parameters()]
            norms.append((phase.record.grad_norm, float(torch.stack(squares).sum().sqrt())))

    phase.trainer([StopOnNonFinite(phase.record, phase.loader), Compare()], 2_000).fit()
    assert len(norms) == 4
    for measured, expected in norms:
        assert measured == pytest.approx(expected, rel=1e-5)
