"""The step: Composer's own sums bit for bit, one read of the device, losses by stream, fp16 with a loss scale."""

import copy
import math
import platform
from dataclasses import replace

import cpuinfo
import pytest
import torch
from composer import Trainer
from composer.core import Callback, DataSpec
from composer.utils import collect_env
from rich.console import Console
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from padless.checkpoint import load_checkpoint
from padless.errors import TrainingError
from padless.train.callbacks.batch_warmup import BatchWarmup
from padless.train.callbacks.metrics import read_metrics
from padless.train.callbacks.progress import ShowProgress
from padless.train.callbacks.schedule import ApplySchedule
from padless.train.composer_model import ComposerMaskedLM, count_segments, count_tokens, split_step
from padless.train.handover import state_from_run
from padless.train.hardware import Compute
from padless.train.loss_scale import LossScale

pytestmark = pytest.mark.composer


class Losses(Callback):
    """Notes the loss that Composer worked out, or the record has."""

    def __init__(self, record=None):
        self.seen, self._record = [], record

    def batch_end(self, state, logger):
        self.seen.append(self._record.loss if self._record else float(state.total_loss_dict["loss/train/total"]))


def composers_own(phase, callbacks, end_tokens):
    """Composer's Trainer itself, with our batches, weighted by masked tokens."""
    spec = DataSpec(
        phase.loader,
        split_batch=split_step,
        get_num_tokens_in_batch=count_tokens,
        get_num_samples_in_batch=count_segments,
    )
    return Trainer(
        model=phase.composer_model,
        train_dataloader=spec,
        optimizers=phase.optimizer,
        callbacks=[BatchWarmup(phase.record, phase.loader, 1), ApplySchedule(phase.record, 17, 0), *callbacks],
        max_duration=f"{end_tokens}tok",
        device=phase.world.device,
        precision="fp32",
        device_train_microbatch_size=1,
        accumulate_train_batch_on_tokens=True,
        spin_dataloaders=False,
        progress_bar=False,
    )


def test_losses_and_weights_are_those_of_composers_own_step_bit_for_bit(make_phase):
    ours, theirs = make_phase(), make_phase()
    our_losses, their_losses = Losses(ours.record), Losses()
    trainer = ours.trainer([our_losses], 6_000)
    trainer.fit()
    own = composers_own(theirs, [their_losses], 6_000)
    own.fit()
    assert len(our_losses.seen) > 6
    assert our_losses.seen == their_losses.seen
    assert trainer.state.timestamp.token == own.state.timestamp.token
    assert trainer.state.timestamp.sample == own.state.timestamp.sample
    for name, weight in ours.model.state_dict().items():
        assert torch.equal(weight, theirs.model.state_dict()[name]), name


READS = {"item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__", "__array__", "is_nonzero"}


class CountReads(TorchFunctionMode):
    """Counts what makes the host wait for a device, were the model on one: reads of floating-point tensors."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in READS and args and isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class CountSizes(TorchDispatchMode):
    """Counts operators whose result's size a host has to wait for, also in the backward pass, and reads within them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.nonzero.default, torch.ops.aten._local_scalar_dense.default):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class Watch(Callback):
    """Counts in each step, but for the model's forward pass and the optimizer's work: those have tests of their own."""

    def __init__(self, phase):
        self.steps, self._reads, self._sizes, self._pauses = [], CountReads(), CountSizes(), 1
        phase.model.model.register_forward_pre_hook(lambda *_: self._pause())
        phase.composer_model.register_forward_hook(lambda *_: self._go_on())
        phase.optimizer.register_step_pre_hook(lambda *_: self._pause())
        phase.optimizer.register_step_post_hook(lambda *_: self._go_on())

    def _go_on(self):
        self._pauses -= 1
        if self._pauses == 0:
            self._reads.__enter__()
            self._sizes.__enter__()

    def _pause(self):
        self._pauses += 1
        if self._pauses == 1:
            self._sizes.__exit__(None, None, None)
            self._reads.__exit__(None, None, None)

    def batch_start(self, state, logger):
        self._go_on()

    def batch_end(self, state, logger):
        self._pause()
        self.steps.append(self._reads.found + self._sizes.found)
        self._reads.found, self._sizes.found = [], []


def test_a_step_reads_the_device_once(make_phase, tmp_path):
    phase = make_phase()
    watch = Watch(phase)
    show = ShowProgress(phase.record, phase.loader, 4_000, Console(quiet=True))
    watched = phase.trainer([phase.guard(tmp_path), phase.log(tmp_path), show, watch], 4_000)
    watched.fit()
    assert len(watch.steps) > 4
    assert watch.steps == [["tolist"]] * len(watch.steps)


def test_the_counting_sees_reads_in_composers_own_step(make_phase):
    phase = make_phase()
    watch = Watch(phase)
    composers_own(phase, [watch], 1_000).fit()
    assert all(len(step) > 1 for step in watch.steps)


def of_two_streams(microbatches):
    for blocks in microbatches:
        yield [replace(block, stream="code" if block.index % 3 else "general") for block in blocks]


def test_losses_by_stream_add_up_to_the_loss_and_are_logged(make_phase, tmp_path):
    phase = make_phase(streams={"general": 0.5, "code": 0.5})
    phase.loader._microbatches = of_two_streams(phase.loader._microbatches)
    seen = []

    class Keep(Callback):
        def after_train_batch(self, state, logger):
            streams = [blocks[0].stream for blocks in phase.loader.last_step.own_blocks]
            counts = dict.fromkeys(streams, 0)
            for name, batch in zip(streams, state.batch, strict=True):
                counts[name] += batch.num_masked
            seen.append((dict(phase.record.stream_losses), counts, phase.record.loss))

    phase.trainer([Keep(), phase.log(tmp_path)], 4_000).fit()
    assert any(len(losses) == 2 for losses, _, _ in seen)
    for losses, counts, loss in seen:
        assert set(losses) == set(counts)
        mean = sum(losses[name] * counts[name] for name in counts) / sum(counts.values())
        assert mean == pytest.approx(loss, rel=1e-5)
    assert [line["loss_by_stream"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [row[0] for row in seen]


def fp16_phase(make_phase, scale, *overrides):
    phase = make_phase(*overrides)
    phase.composer_model = ComposerMaskedLM(phase.model, Compute(torch.device("cpu"), torch.float16, "sdpa"))
    phase.record.loss_scale = scale
    return phase


class Scales(Callback):
    """Notes scale, norm and a weight's sum after each step."""

    def __init__(self, phase):
        self._phase, self.seen = phase, []

    def batch_end(self, state, logger):
        record = self._phase.record
        self.seen.append((record.loss_scale.factor, record.grad_norm, copy.deepcopy(self._phase.model.state_dict())))


def test_gradients_that_overflow_cost_their_step_and_halve_the_scale(make_phase, tmp_path):
    phase = fp16_phase(make_phase, LossScale(2.0**28))
    scales = Scales(phase)
    phase.trainer([phase.guard(tmp_path), phase.log(tmp_path), scales], 10_000).fit()
    factors = [factor for factor, _, _ in scales.seen]
    overflowed = [not math.isfinite(norm) for _, norm, _ in scales.seen]
    assert overflowed[:2] == [True, True]
    assert not overflowed[-1]
    count = sum(overflowed)
    assert factors[-1] == 2.0 ** (28 - count)
    for number in range(1, len(overflowed)):
        before, after = scales.seen[number - 1][2], scales.seen[number][2]
        same = all(torch.equal(before[name], after[name]) for name in before)
        assert same == overflowed[number], number
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["loss_scale"] for line in lines] == factors
    assert not any("bad_step" in line for line in lines)
    assert not (tmp_path / "reports").exists()
    assert len(phase.record.recent_losses) == len(lines) - count


def test_the_norm_is_that_of_gradients_without_the_scale(make_phase, tmp_path):
    norms = []
    for factor in (1.0, 2.0**10):
        phase = fp16_phase(make_phase, LossScale(factor))
        scales = Scales(phase)
        phase.trainer([phase.guard(tmp_path), scales], 600).fit()
        norms.append(scales.seen[0][1])
    assert norms[1] == pytest.approx(norms[0], rel=2e-2)  # fp16 has 11 bits; small gradients are lost at a scale of 1


def test_gradients_that_are_infinite_at_a_scale_of_one_are_a_bad_step(make_phase, tmp_path):
    phase = fp16_phase(make_phase, LossScale(1.0))

    class Break(Callback):
        def batch_start(self, state, logger):
            phase.model.head.dense.weight.register_hook(lambda grad: grad * float("inf"))

    with pytest.raises(TrainingError, match=r"gradient norm is (nan|inf) at step 0 of phase 'short'"):
        phase.trainer([Break(), phase.guard(tmp_path)], 2_000).fit()


def test_the_scale_is_in_the_checkpoint_and_comes_back(make_phase, tmp_path):
    phase = fp16_phase(make_phase, LossScale(2.0**12, 7), "phases.short.save_every_tokens=1_000")
    saver = phase.saver(tmp_path, 2_000)
    phase.trainer([phase.guard(tmp_path), saver], 2_000).fit()
    saved = load_checkpoint(saver.last_path)
    saved.meta["train_seconds"] = 1.0
    assert state_from_run(saved, "a.pt").loss_scale == phase.record.loss_scale == LossScale(2.0**12, 11)


def test_building_a_trainer_does_not_measure_the_cpu(make_phase, monkeypatch):
    """Composer asks py-cpuinfo for a name that nobody reads; it starts a process for that and takes a second."""
    asked = []
    monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda: asked.append(1) or {})
    make_phase().trainer([], 512)
    assert asked == []
    assert collect_env.get_composer_env_dict()["cpu_model"] == platform.machine()
