"""A tiny training phase in memory: real loader, real callbacks, real Trainer, random blocks."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from padless.config.compose import compose
from padless.data.collate import Block
from padless.data.loader import BatchRules, StepLoader
from padless.data.masking import MaskingRule
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from padless.optim.build import build_optimizer
from padless.schedule.phases import plan_phases
from padless.train.bad_step import BadStepReporter
from padless.train.callbacks.batch_warmup import BatchWarmup
from padless.train.callbacks.checkpointing import SaveCheckpoint
from padless.train.callbacks.guard import GuardSteps
from padless.train.callbacks.metrics import LogMetrics, MetricsFile
from padless.train.callbacks.record import StepRecord
from padless.train.callbacks.schedule import ApplySchedule
from padless.train.composer_model import ComposerMaskedLM, count_segments, count_tokens, split_step
from padless.train.hardware import Compute
from padless.train.throughput import Speedometer
from padless.train.trainer import StepTrainer
from padless.train.world import World


def _blocks():
    number = 0
    while True:
        tokens = np.random.default_rng(number).integers(5, 256, 250).astype(np.uint16)
        yield [Block("code", number, tokens, np.array([50, 200], np.int32))]
        number += 1


CPU = Compute(torch.device("cpu"), None, "sdpa")


@dataclass
class TinyPhase:
    """What a phase is made of, before its Trainer."""

    plan: object
    model: MaskedLM
    composer_model: ComposerMaskedLM
    config: object
    loader: StepLoader
    record: StepRecord
    world: World
    optimizer: torch.optim.Optimizer

    def trainer(self, callbacks, end_tokens):
        """Return the Trainer with the step's settings applied before ``callbacks``."""
        from composer.core import DataSpec

        return StepTrainer(
            self.record,
            self.loader,
            self.world,
            model=self.composer_model,
            train_dataloader=DataSpec(
                self.loader,
                split_batch=split_step,
                get_num_tokens_in_batch=count_tokens,
                get_num_samples_in_batch=count_segments,
            ),
            optimizers=self.optimizer,
            callbacks=[BatchWarmup(self.record, self.loader, 1), ApplySchedule(self.record, 17, 0), *callbacks],
            max_duration=f"{end_tokens}tok",
            device=self.world.device,
            precision="fp32",
            device_train_microbatch_size=1,
            accumulate_train_batch_on_tokens=True,
            spin_dataloaders=False,
            progress_bar=False,
        )

    def guard(self, folder, say=lambda line: None):
        """Return the guard of this phase, which writes reports into ``folder``."""
        reporter = BadStepReporter(self.model, self.loader, CPU, self.world, folder, say)
        return GuardSteps(self.record, self.config.guard, reporter)

    def log(self, folder, every_steps=1):
        """Return the callback that writes ``folder/metrics.jsonl``."""
        speed = Speedometer(self.model.config, 256, None, None, lambda line: None)
        return LogMetrics(self.record, self.loader, MetricsFile(folder / "metrics.jsonl", True), every_steps, speed)

    def saver(self, folder, end_tokens, keep_newest=None, say=lambda line: None):
        """Return the callback that saves into ``folder``."""
        return SaveCheckpoint(
            self.record,
            self.loader,
            self.model,
            run_folder=folder,
            meta={"config": {}},
            config_hash="hash",
            world=self.world,
            end_tokens=end_tokens,
            trained_s=100.0,
            keep_newest=keep_newest,
            saved=lambda phase, clock, step, path: None,
            say=say,
        )


@pytest.fixture
def make_phase():
    """Return a function that makes a :class:`TinyPhase` of the smoke recipe's first phase with changes."""
    from composer.devices import DeviceCPU

    def make(*overrides, **changes):
        config = compose(["recipe=smoke", *overrides])
        plan = plan_phases(config)[0]
        plan = replace(plan, phase=replace(plan.phase, **changes))
        shape = replace(config.model, vocab_size=256, hidden_size=32, num_heads=2, intermediate_size=48)
        model = MaskedLM(shape, plan.phase.rope)
        initialise(model, 17)
        rules = BatchRules(256, 256, 3, MaskingRule.build(256, 4, [0, 1, 2, 3, 4], 0.8, 0.1), 17, 0)
        optimizer = build_optimizer(model, config.optimizer, plan.phase.lr.peak, plan.phase.weight_decay, is_gpu=False)
        world = World(0, 1, DeviceCPU(), None)
        composer_model = ComposerMaskedLM(model, CPU)
        return TinyPhase(
            plan, model, composer_model, config, StepLoader(_blocks(), rules), StepRecord(plan), world, optimizer
        )

    return make
