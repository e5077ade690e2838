"""One step through Composer with very unequal masked counts; saves the averaged gradients. Run by test_gradients.py.

python gradient_worker.py OUT MICROBATCH_BLOCKS        with the launcher's RANK and WORLD_SIZE, or alone
"""

import sys
from dataclasses import replace

from padless.train.world import adopt_torchrun_environment, start_world

adopt_torchrun_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from composer.core import Callback, DataSpec  # noqa: E402

from padless.config.compose import compose  # noqa: E402
from padless.config.schema import HardwareConfig, ModelConfig, OptimizerConfig, RopeConfig  # noqa: E402
from padless.data.collate import Block, MaskedBlock, collate  # noqa: E402
from padless.data.loader import StepInfo  # noqa: E402
from padless.data.masking import MaskingRule, mask_tokens  # noqa: E402
from padless.model.init import initialise  # noqa: E402
from padless.model.masked_lm import MaskedLM  # noqa: E402
from padless.optim.build import build_optimizer  # noqa: E402
from padless.schedule.phases import plan_phases  # noqa: E402
from padless.train.callbacks.record import StepRecord  # noqa: E402
from padless.train.composer_model import (  # noqa: E402
    ComposerMaskedLM,
    count_segments,
    count_tokens,
    split_step,
)
from padless.train.hardware import Compute  # noqa: E402
from padless.train.trainer import StepTrainer  # noqa: E402

MODEL = ModelConfig(3, 32, 2, 48, 128, 2, 8, 1e-5, 0.0, 0.0, 0.0, 0.02, 2.0)
RATES = (0.02, 0.9, 0.3, 0.05, 0.6, 0.0, 0.15, 0.8)  # one block without any masked token
BLOCK_TOKENS = 64


def masked_block(number: int) -> MaskedBlock:
    generator = np.random.default_rng(number)
    tokens = generator.integers(5, 128, 50).astype(np.uint16)
    block = Block("a", number, tokens, np.array([1, 19, 30], np.int32))
    rule = MaskingRule.build(128, 4, [0, 1, 2, 3, 4], 0.8, 0.1)
    return MaskedBlock(block, *mask_tokens(tokens, RATES[number], rule, generator))


class KeepGradients(Callback):
    def __init__(self):
        self.gradients = {}

    def after_train_batch(self, state, logger):
        module = getattr(state.model, "module", state.model)
        self.gradients = {name: p.grad.clone() for name, p in module.named_parameters()}


class OneStep:
    def __init__(self, batches, cut):
        self.batches, self.last_step = batches, StepInfo(own_blocks=cut)

    def __iter__(self):
        yield self.batches


def main() -> None:
    out, microbatch_blocks = sys.argv[1], int(sys.argv[2])
    world = start_world(HardwareConfig("cpu", None, 1, "fp32", "sdpa", False, 1, True, 60.0, "off"))
    mine = [masked_block(number) for number in range(world.rank, len(RATES), world.size)]
    cut = [mine[place : place + microbatch_blocks] for place in range(0, len(mine), microbatch_blocks)]
    blocks = [[masked.block for masked in microbatch] for microbatch in cut]
    loader = OneStep([collate(microbatch, BLOCK_TOKENS, 32, 3) for microbatch in cut], blocks)
    plan = plan_phases(compose(["recipe=smoke"]))[0]
    record = StepRecord(replace(plan, phase=replace(plan.phase, streams={"a": 1.0})))
    model = MaskedLM(MODEL, RopeConfig(10_000.0, 10_000.0))
    initialise(model, 17)
    keeper = KeepGradients()
    trainer = StepTrainer(
        record,
        loader,
        world,
        model=ComposerMaskedLM(model, Compute(torch.device("cpu"), None, "sdpa")),
        train_dataloader=DataSpec(
            loader,
            split_batch=split_step,
            get_num_tokens_in_batch=count_tokens,
            get_num_samples_in_batch=count_segments,
        ),
        optimizers=build_optimizer(model, OptimizerConfig("stable_adamw", 0.9, 0.98, 1e-6), 1e-3, 0.0, is_gpu=False),
        callbacks=[keeper],
        max_duration="1ba",
        device=world.device,
        precision="fp32",
        device_train_microbatch_size=1,
        accumulate_train_batch_on_tokens=True,
        spin_dataloaders=False,
        progress_bar=False,
    )
    trainer.fit()
    if world.is_leader:
        torch.save({"gradients": keeper.gradients, "loss": record.loss}, out)


if __name__ == "__main__":
    main()
