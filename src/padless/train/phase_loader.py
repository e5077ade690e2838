"""The loader of one phase, from the config and a position: what the trainer and the bare loop beside it iterate."""

from collections.abc import Callable, Sequence

from padless.config.schema import Config
from padless.data.loader import BatchRules, StepLoader, leave_out
from padless.data.masking import MaskingRule
from padless.data.mds import BlockReader
from padless.data.preflight import PreparedData
from padless.schedule.phases import PhasePlan
from padless.schedule.skipped import SkippedRange
from padless.train.world import World


def open_loader(
    config: Config,
    data: PreparedData,
    plan: PhasePlan,
    world: World,
    *,
    position_blocks: int = 0,
    left_out: Sequence[SkippedRange] = (),
    wish_to_stop: Callable[[], str | None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> StepLoader:
    """Return the steps of a phase from a position on.

    Args:
        config: the checked config.
        data: the open streams.
        plan: the phase.
        world: the ranks.
        position_blocks: blocks of the phase's data before the first step, all ranks together.
        left_out: what a rewind took out of the phase's data.
        wish_to_stop: the name of a signal that this rank got, or None.
        say: prints one line.
    """
    phase = plan.phase
    reader = BlockReader(
        data.train_sources(phase),
        quantum_blocks=phase.batch.quantum_blocks,
        microbatch_blocks=config.hardware.microbatch_blocks,
        num_canonical_nodes=config.data.num_canonical_nodes,
        shuffle_seed=phase.shuffle_seed if config.data.shuffle else None,
        num_workers=config.data.num_workers,
        cache_limit_bytes=config.data.cache_limit_bytes,
    )
    if reader.num_blocks < phase.batch.blocks:
        say(
            f"phase {plan.name!r} has {reader.num_blocks} blocks, less than one batch of {phase.batch.blocks}: "
            f"passes of {reader.pass_blocks} blocks repeat within a batch"
        )
    masking = MaskingRule.build(
        config.model.vocab_size, data.mask_id, data.special_ids, phase.masking.mask_share, phase.masking.random_share
    )
    rules = BatchRules(
        config.data.block_tokens,
        phase.max_seq_len,
        data.pad_id,
        masking,
        config.run.seed,
        plan.index,
        pads_masked_rows=world.is_gpu,
    )
    cut_blocks = world.size * config.hardware.microbatch_blocks
    microbatches = leave_out(reader.microbatches(position_blocks), position_blocks, cut_blocks, left_out)
    return StepLoader(microbatches, rules, world.rank, world.exchange, wish_to_stop)
