"""From phase to phase: nothing of a phase that is over stays in a GPU's memory."""

import gc
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from padless.train import run
from padless.train.bad_step import Rewind

pytestmark = pytest.mark.composer


class Trainer:
    """Something in a cycle, as Composer's Trainer is, with what a phase has on the device."""

    def __init__(self):
        self.itself = self


def fit_two_phases(monkeypatch, fit, is_gpu=True):
    """Run the loop over phases with ``fit`` in place of a phase; the clock is what it returns."""
    monkeypatch.setattr(run, "fit_phase", fit)
    monkeypatch.setattr(run, "phase_at", lambda plans, clock: SimpleNamespace(name="a", end_tokens=20))
    monkeypatch.setattr(run, "load_checkpoint", lambda path: path)
    monkeypatch.setattr(run, "state_from_run", lambda clock, origin: SimpleNamespace(clock_tokens=clock))
    monkeypatch.setattr(run, "find_beginning", lambda *args: SimpleNamespace(state=start, line=""))
    monkeypatch.setattr(run, "refuse_endless_rewinds", lambda *args: None)
    monkeypatch.setattr(run, "_rewind", lambda context, folder, rewind, state: state)
    start = SimpleNamespace(clock_tokens=0)
    config = SimpleNamespace(guard=SimpleNamespace(max_in_a_row=3))
    world = SimpleNamespace(is_gpu=is_gpu)
    context = SimpleNamespace(
        end_tokens=20, plans=(), world=world, config=config, data=None, say=lambda line: None, growth=None
    )
    folder = SimpleNamespace(metrics=SimpleNamespace(rewind=lambda clock: None), note=lambda *args: None)
    supervisor = SimpleNamespace(training=nullcontext)
    gc.disable()
    try:
        return run._fit_phases(context, folder, supervisor, SimpleNamespace(state=start, line=""), 0.0)
    finally:
        gc.enable()


@pytest.mark.parametrize("rewinds", [False, True])
def test_the_last_phase_is_gone_from_a_gpu_before_the_next_begins(monkeypatch, rewinds):
    alive = []

    def fit(context, plan, start, announce):
        assert [trainer() for trainer in alive] == [None] * len(alive)
        trainer = Trainer()
        alive.append(weakref.ref(trainer))
        if rewinds and len(alive) == 1:
            raise Rewind("spike", 0, 1, "report")
        return SimpleNamespace(checkpoint=start.clock_tokens + 10, stop=None)

    assert fit_two_phases(monkeypatch, fit).clock_tokens == 20
    assert len(alive) == 2 + rewinds


def test_nothing_but_cycles_holds_a_phase_that_is_over(make_phase):
    phase = make_phase()
    model, trainer = weakref.ref(phase.model), phase.trainer([], 1_000)
    trainer.fit()
    del phase, trainer
    gc.collect()
    assert model() is None
