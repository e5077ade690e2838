"""The loop that a trainer is measured against: same config, model, batches and optimizer, and nothing around a step.

``python -m padless.train.bare_loop OUT key=value ...`` trains the recipe's phases and writes the seconds of each step
to the JSON file OUT. It logs, watches, validates and saves nothing.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from padless.config.check import check
from padless.config.compose import compose
from padless.config.schema import Config
from padless.data.batch import PackedBatch
from padless.data.durable import write_durably
from padless.data.loader import StepLoader
from padless.data.preflight import PreparedData, open_data
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from padless.optim.build import build_optimizer, set_schedule
from padless.schedule.phases import PhasePlan, plan_phases
from padless.schedule.step import settings_at
from padless.train.hardware import Compute, choose_compute
from padless.train.phase_loader import open_loader
from padless.train.world import World, start_world


def train_bare(config: Config) -> list[dict[str, Any]]:
    """Train all phases of a config and return phase, microbatches and seconds of each step."""
    check(config, 1)
    world = start_world(config.hardware)
    compute, _ = choose_compute(config, world)
    data = open_data(config, world, lambda line: None)  # noqa: ARG005
    return [step for plan in plan_phases(config) for step in _train_phase(config, plan, data, world, compute)]


def _train_phase(
    config: Config, plan: PhasePlan, data: PreparedData, world: World, compute: Compute
) -> Iterator[dict[str, Any]]:
    model = MaskedLM(config.model, plan.phase.rope, compute.backend, config.loss.z_loss).to(compute.device)
    initialise(model, config.run.seed)
    peak = plan.phase.lr.peak
    optimizer = build_optimizer(model, config.optimizer, peak, plan.phase.weight_decay, world.is_gpu)
    loader = open_loader(config, data, plan, world)
    steps, began_s, began_cpu_s = iter(loader), time.perf_counter(), time.process_time()
    for number in range(plan.steps_in_phase):
        batches, lr = _next_step(loader, steps, plan, number, config.hardware.microbatch_blocks)
        set_schedule(optimizer, lr, peak, plan.phase.weight_decay)
        optimizer.zero_grad(set_to_none=True)
        masked = sum(batch.num_masked for batch in batches)
        for batch in batches:
            with compute.autocast():
                loss = model(batch.to(compute.device))
            (loss * (batch.num_masked / masked)).backward()
        float(torch.nn.utils.get_total_norm([each.grad for each in model.parameters() if each.grad is not None]))
        optimizer.step()
        now_s, now_cpu_s = time.perf_counter(), time.process_time()
        yield {
            "phase": plan.name,
            "microbatches": len(batches),
            "seconds": now_s - began_s,
            "cpu_seconds": now_cpu_s - began_cpu_s,
        }
        began_s, began_cpu_s = now_s, now_cpu_s
    loader.close()


def _next_step(
    loader: StepLoader, steps: Iterator[list[PackedBatch]], plan: PhasePlan, number: int, microbatch_blocks: int
) -> tuple[list[PackedBatch], float]:
    """Return the microbatches and the learning rate of a step, as the trainer has them."""
    settings = settings_at(plan, plan.clock_at_step(number))
    loader.begin_step(plan.first_step + number, settings.batch_blocks // microbatch_blocks, settings.mask_rate)
    return next(steps), settings.lr


def main() -> None:
    """Train and write the seconds."""
    out, arguments = Path(sys.argv[1]), sys.argv[2:]
    write_durably(out, json.dumps(train_bare(compose(arguments))).encode())


if __name__ == "__main__":
    main()
