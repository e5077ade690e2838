"""One phase on Composer: model with the phase's theta, state from disk, loader at the clock's position, fit."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, DataSpec, Time, Timestamp, TimeUnit
from composer.loggers import LoggerDestination
from rich.console import Console
from torch.optim import Optimizer

from padless.config.schema import Config
from padless.data.loader import StepLoader
from padless.data.preflight import PreparedData
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from padless.optim.build import build_optimizer, load_optimizer_state
from padless.schedule.phases import PhasePlan
from padless.train.bad_step import BadStepReporter
from padless.train.callbacks.batch_warmup import BatchWarmup
from padless.train.callbacks.checkpointing import SaveCheckpoint
from padless.train.callbacks.guard import GuardSteps
from padless.train.callbacks.metrics import LogMetrics, MetricsFile
from padless.train.callbacks.profile import ProfileSteps
from padless.train.callbacks.progress import ShowProgress
from padless.train.callbacks.record import StepRecord
from padless.train.callbacks.resumed import AnnounceResume
from padless.train.callbacks.schedule import ApplySchedule
from padless.train.callbacks.tiled_init import TiledInit
from padless.train.callbacks.validate import Validate
from padless.train.composer_model import ComposerMaskedLM, count_segments, count_tokens, split_step
from padless.train.forgetting import continues
from padless.train.growth import GrowthSource, watch_twins
from padless.train.handover import StartState, position_blocks, skipped_in
from padless.train.hardware import Compute
from padless.train.loss_scale import LossScale
from padless.train.out_of_memory import out_of_memory_on
from padless.train.phase_loader import open_loader
from padless.train.throughput import DataWaitWatch, Speedometer
from padless.train.trainer import StepTrainer
from padless.train.validation import Validation
from padless.train.world import World


@dataclass(frozen=True)
class PhaseEnd:
    """Where fitting ended: the checkpoint written there, and the signal that ended it early."""

    checkpoint: Path
    stop: str | None


@dataclass(frozen=True)
class RunContext:
    """What all phases of a run share."""

    config: Config
    plans: tuple[PhasePlan, ...]
    end_tokens: int  # clock at which the run ends: the last phase's end, or run.stop_after_tokens
    folder: Path
    world: World
    compute: Compute
    data: PreparedData
    validation: Validation
    metrics: MetricsFile
    loggers: list[LoggerDestination]
    wish_to_stop: Callable[[], str | None]  # the signal this rank got, if any
    saved: Callable[[str, int, int, Path], None]  # is told phase, clock, step and file of each checkpoint
    checkpoint_meta: dict[str, Any]
    config_hash: str
    growth: GrowthSource | None  # what the model is tiled from; None on a resume
    profiler: ProfileSteps | None  # records some steps on request; on the first rank
    console: Console
    say: Callable[[str], None]


def build_model(context: RunContext, plan: PhasePlan) -> MaskedLM:
    """Return the model with the phase's RoPE thetas; its weights are not set yet."""
    config = context.config
    return MaskedLM(config.model, plan.phase.rope, context.compute.backend, config.loss.z_loss)


def _loader(context: RunContext, plan: PhasePlan, start: StartState) -> StepLoader:
    return open_loader(
        context.config,
        context.data,
        plan,
        context.world,
        position_blocks=position_blocks(context.plans, plan, start.clock_tokens, start.skipped),
        left_out=skipped_in(context.plans, plan, start.skipped),
        wish_to_stop=context.wish_to_stop,
        say=context.say,
    )


def _record(context: RunContext, plan: PhasePlan, start: StartState) -> StepRecord:
    losses = list(start.recent_losses) if start.phase == plan.name else []
    scale = (start.loss_scale or LossScale()) if context.compute.scales_loss else None
    return StepRecord(plan, eval_loss=start.eval_loss, recent_losses=losses, loss_scale=scale)


def _speedometer(context: RunContext) -> Speedometer:
    config = context.config
    reads_remote = any(stream.remote is not None for stream in config.data.streams.values())
    watch = DataWaitWatch(config.data.num_workers, reads_remote) if context.world.is_leader else None
    return Speedometer(config.model, config.data.block_tokens, context.compute.peak_flops, watch, context.say)


def _callbacks(
    context: RunContext, record: StepRecord, masked_lm: MaskedLM, loader: StepLoader, start: StartState
) -> list[Callback]:
    config, world, plan = context.config, context.world, record.plan
    end_tokens = min(plan.end_tokens, context.end_tokens)
    cut_blocks = world.size * config.hardware.microbatch_blocks
    reporter = BadStepReporter(masked_lm, loader, context.compute, world, context.folder, context.say)
    callbacks: list[Callback] = [
        BatchWarmup(record, loader, cut_blocks),
        ApplySchedule(record, config.run.seed, world.rank),
        GuardSteps(record, config.guard, reporter),
        LogMetrics(record, loader, context.metrics, config.run.log_every_steps, _speedometer(context)),
    ]
    if context.profiler is not None:
        callbacks.append(context.profiler)
    if world.is_leader:
        callbacks.append(ShowProgress(record, loader, context.end_tokens, context.console))
    twins = watch_twins(config, context.folder, masked_lm, context.growth, context.say) if world.is_leader else None
    callbacks.append(
        Validate(
            record,
            masked_lm,
            context.validation,
            context.metrics,
            end_tokens,
            context.say,
            twins,
            names_streams=continues(config.start),
        )
    )
    callbacks.append(
        SaveCheckpoint(
            record,
            loader,
            masked_lm,
            run_folder=context.folder,
            meta={**context.checkpoint_meta, "skipped": [dataclasses.astuple(each) for each in start.skipped]},
            config_hash=context.config_hash,
            world=world,
            end_tokens=end_tokens,
            trained_s=start.train_seconds,
            keep_newest=config.run.keep_newest_checkpoints,
            saved=context.saved,
            say=context.say,
        )
    )
    if context.growth is not None and start.model is None:
        callbacks.append(
            TiledInit(
                masked_lm,
                context.growth,
                config.init,
                config.run.seed,
                record,
                context.validation,
                context.compute,
                context.folder if world.is_leader else None,
                context.say,
            )
        )
    return callbacks


def fit_phase(context: RunContext, plan: PhasePlan, start: StartState, announce: AnnounceResume | None) -> PhaseEnd:
    """Train one phase from ``start`` to its end, the run's, or a stop signal, and return the checkpoint written there.

    Raises:
        Rewind: the guard asks for it, on all ranks.
        TrainingError: the guard stops the run, on all ranks; or a microbatch does not fit the GPU.
    """
    config = context.config
    model = build_model(context, plan)
    if start.model is None:
        initialise(model, config.run.seed)  # the same on every rank
    else:
        model.load_state_dict(start.model)
    if context.compute.compiles:
        from padless.model.compiled import compile_layers  # loads torch's compiler

        compile_layers(model)
    loader, record = _loader(context, plan, start), _record(context, plan, start)
    callbacks = _callbacks(context, record, model, loader, start)
    if announce is not None:
        callbacks.append(announce)
    optimizer = build_optimizer(
        model, config.optimizer, plan.phase.lr.peak, plan.phase.weight_decay, context.world.is_gpu
    )
    trainer = _build_trainer(context, record, loader, model, optimizer, callbacks)
    if start.optimizer is not None:
        load_optimizer_state(model, optimizer, start.optimizer, start.origin)
    start.release()
    trainer.state.timestamp = Timestamp(batch=start.step, token=start.clock_tokens)
    try:
        with context.world.naming_lost_ranks():
            trainer.fit()
    except torch.OutOfMemoryError as error:
        cut = math.gcd(*(phase.batch.quantum_blocks for phase in config.phases.values())) // context.world.size
        device, blocks = context.compute.device, config.hardware.microbatch_blocks
        raise out_of_memory_on(device, error, model, blocks, cut) from error
    finally:
        _stop_progress(callbacks)
        loader.close()
    if context.compute.compiles:
        from padless.model.compiled import compile_line

        context.say(compile_line())
    saver = next(callback for callback in callbacks if isinstance(callback, SaveCheckpoint))
    if saver.last_path is None:
        raise RuntimeError(f"phase {plan.name} ended without a checkpoint")
    return PhaseEnd(saver.last_path, loader.last_step.stop)


def _build_trainer(
    context: RunContext,
    record: StepRecord,
    loader: StepLoader,
    model: MaskedLM,
    optimizer: Optimizer,
    callbacks: list[Callback],
) -> StepTrainer:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No `?optimizer|.*schedulers.*|.*eval.*", category=UserWarning)
        return StepTrainer(
            record,
            loader,
            context.world,
            model=ComposerMaskedLM(model, context.compute),
            train_dataloader=DataSpec(
                loader,
                split_batch=split_step,
                get_num_tokens_in_batch=count_tokens,
                get_num_samples_in_batch=count_segments,
            ),
            optimizers=optimizer,
            callbacks=callbacks,
            loggers=context.loggers,
            max_duration=Time(min(record.plan.end_tokens, context.end_tokens), TimeUnit.TOKEN),
            device=context.world.device,
            precision="fp32",
            device_train_microbatch_size=1,
            accumulate_train_batch_on_tokens=True,
            spin_dataloaders=False,
            progress_bar=False,
            run_name=context.config.run.name,
            seed=context.config.run.seed,
            dist_timeout=600.0,
        )


def _stop_progress(callbacks: list[Callback]) -> None:
    for callback in callbacks:
        if isinstance(callback, ShowProgress):
            callback.stop()
