"""What a phase starts from, and what of it carries over.

    from                          weights  moments  clock    learning rate, decay, theta, length  data position
    the same phase's checkpoint   yes      yes      yes      from the recipe                      from the clock
    the previous phase's          yes      yes      yes      the new phase's                      0; goes on if it reads
                                                                                                  the same data
    start.source                  yes      as kept  0        the recipe's; re-warmed without      0
                                                             moments
    start.source, clock kept      yes      yes      yes      the new recipe's                     goes on
    init.source (tiled)           tiled    if asked 0        the recipe's; re-warmed without      0
                                                             moments
    nothing                       random   no       0        the recipe's                         0

Everything goes through a file on disk, so the same path serves a phase that follows another in one process, a phase
started on another cluster, a resume, and continued pretraining. What is not listed is a function of the clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from padless.checkpoint import Checkpoint
from padless.config.schema import Config, ModelConfig
from padless.errors import CheckpointError, ModelError
from padless.export.importer import LoadedSource
from padless.export.source import load_source, resolve_source
from padless.model.tensor_shapes import DECODER, EMBEDDING
from padless.schedule.phases import PhasePlan, phase_at
from padless.schedule.skipped import SkippedRange, merged, position_in_data, positions_of_step
from padless.schedule.step import settings_at
from padless.train.loss_scale import LossScale

SHAPE = (
    *("num_layers", "hidden_size", "num_heads", "intermediate_size", "vocab_size"),
    *("global_every_layers", "local_window_tokens", "norm_eps"),
)
_REWARMUP_SHARE = 0.01
_REWARMUP_MAX_TOKENS = 3_000_000_000


@dataclass(frozen=True)
class StartState:
    """State a phase begins with. ``model`` is None for fresh (random or tiled) weights."""

    model: dict[str, Tensor] | None
    optimizer: dict[str, Any] | None
    clock_tokens: int
    step: int
    train_seconds: float
    origin: str
    phase: str | None = None  # the phase the weights were saved in
    skipped: tuple[SkippedRange, ...] = ()  # blocks of the data that this state never saw
    recent_losses: tuple[float, ...] = ()  # of that phase's last good steps, which spikes are measured against
    eval_loss: float | None = None  # the last validation loss
    loss_scale: LossScale | None = None  # of fp16

    def release(self) -> None:
        """Give the memory of weights and moments back, once they are loaded."""
        for tensors in (self.model, self.optimizer):
            if tensors is not None:
                tensors.clear()


def state_from_run(saved: Checkpoint, origin: str) -> StartState:
    """Return the state in a checkpoint of this run (or of the one it branches off), read from ``origin``."""
    return StartState(
        saved.model,
        saved.optimizer,
        saved.clock_tokens,
        saved.step,
        float(saved.meta["train_seconds"]),
        origin,
        saved.meta["phase"],
        tuple(SkippedRange(*each) for each in saved.meta.get("skipped", ())),
        tuple(saved.meta.get("recent_losses", ())),
        saved.meta.get("eval_loss"),
        LossScale(*saved.meta["loss_scale"]) if saved.meta.get("loss_scale") else None,
    )


def state_from_source(source: str, keep: Sequence[str], model: ModelConfig) -> tuple[StartState, LoadedSource]:
    """Return the state of a new run that continues from ``start.source``, and what the source is.

    Raises:
        ModelError: the source has another shape than ``model``.
        CheckpointError: moments are to be kept and the source has none.
    """
    resolved = resolve_source(source)
    loaded, moments = load_source(resolved)
    own = {name: getattr(loaded.model_config, name) for name in SHAPE}
    different = {name: value for name, value in own.items() if value != getattr(model, name)}
    if different:
        listed = "; ".join(
            f"{name}: {value} (source), {getattr(model, name)} (config)" for name, value in different.items()
        )
        raise ModelError(
            f"start.source={source} has another shape: {listed}",
            f"give the source's: {' '.join(f'model.{name}={value}' for name, value in different.items())}; or take "
            "init=tiled to grow a small model into a larger one",
        )
    if "optimizer" in keep and moments is None:
        raise CheckpointError(
            f"start.keep=[{','.join(keep)}], but {source} {loaded.moments_problem or 'holds weights only'}",
            "set start.keep=[weights] (the learning rate is then re-warmed)",
        )
    kept = moments if "optimizer" in keep else None
    weights = {
        DECODER: loaded.state_dict[EMBEDDING],
        **loaded.state_dict,
    }  # a Hugging Face folder stores tied ones once
    return StartState(weights, kept, 0, 0, 0.0, resolved.origin), loaded


def with_rewarmup(config: Config) -> tuple[Config, str | None]:
    """Return the config in which weights without moments get a short learning-rate warmup, and the line that says so.

    The warmup is min(1 % of the first phase, 3B tokens) and applies only where the recipe gives none.
    """
    name = config.phase_order[0]
    phase = config.phases[name]
    without_moments = {
        "start.source": config.start.source is not None and "optimizer" not in config.start.keep,
        "init.source": config.init.source is not None and not config.init.tile_moments,
    }
    origin = next((setting for setting, lacks in without_moments.items() if lacks), None)
    if origin is None or phase.lr.warmup_tokens > 0:
        return config, None
    warmup_tokens = min(int(phase.tokens * _REWARMUP_SHARE), _REWARMUP_MAX_TOKENS)
    warmed = replace(phase, lr=replace(phase.lr, warmup_tokens=warmup_tokens))
    line = f"learning rate re-warmed over {warmup_tokens:_} tokens, since {origin} comes without optimizer moments"
    return replace(config, phases={**config.phases, name: warmed}), line


def check_tokenizer(loaded: LoadedSource, source: str, tokenizer_sha256: str) -> None:
    """Refuse weights that learned other token ids than the shards hold. A source without a tokenizer is taken as it is.

    Raises:
        ModelError: the tokenizers differ.
    """
    if loaded.tokenizer_sha256 not in (None, tokenizer_sha256):
        raise ModelError(
            f"{source} was trained with another tokenizer ({loaded.tokenizer_sha256[:12]}) than the shards "
            f"({tokenizer_sha256[:12]})",
            "prepare the documents with the source's own tokenizer.json",
        )


def check_theta(loaded: LoadedSource, first_phase: PhasePlan, allow_theta_change: bool) -> None:
    """Refuse to tile from weights that learned another RoPE theta than the first phase will use.

    Raises:
        ModelError: thetas differ and ``init.allow_theta_change`` is off.
    """
    wanted = first_phase.phase.rope
    if allow_theta_change or loaded.rope == wanted:
        return
    raise ModelError(
        f"init.source was trained with RoPE thetas {loaded.rope.global_theta:g}/{loaded.rope.local_theta:g} "
        f"(global/local), phase {first_phase.name!r} uses {wanted.global_theta:g}/{wanted.local_theta:g}",
        "tile from a checkpoint of a phase with these thetas, or set init.allow_theta_change=true",
    )


def data_begins(plans: Sequence[PhasePlan], plan: PhasePlan) -> PhasePlan:
    """Return the phase in which the order of this phase's data began.

    A phase that reads the same data in the same order as the one before goes on where that one ended.
    """
    first = plan
    for earlier in reversed(plans[: plan.index]):
        if _data_key(earlier) != _data_key(plan):
            break
        first = earlier
    return first


def consumed_blocks(plans: Sequence[PhasePlan], plan: PhasePlan, clock_tokens: int) -> int:
    """Return the blocks of the phase's data trained on at a clock, since its order began."""
    return (clock_tokens - data_begins(plans, plan).start_tokens) // plan.block_tokens


def skipped_in(plans: Sequence[PhasePlan], plan: PhasePlan, skipped: Sequence[SkippedRange]) -> list[SkippedRange]:
    """Return what is left out of the order of the phase's data."""
    name = data_begins(plans, plan).name
    return [each for each in skipped if each.phase == name]


def position_blocks(
    plans: Sequence[PhasePlan], plan: PhasePlan, clock_tokens: int, skipped: Sequence[SkippedRange]
) -> int:
    """Return the position in the phase's data at a clock: blocks trained on, and those left out before."""
    return position_in_data(consumed_blocks(plans, plan, clock_tokens), skipped_in(plans, plan, skipped))


def skip_step(
    plans: Sequence[PhasePlan], clock_tokens: int, skipped: Sequence[SkippedRange]
) -> tuple[SkippedRange, ...]:
    """Return ``skipped`` with the blocks of the step that begins at a clock added."""
    plan = phase_at(tuple(plans), clock_tokens)
    blocks = settings_at(plan, clock_tokens).batch_blocks
    consumed = consumed_blocks(plans, plan, clock_tokens)
    name = data_begins(plans, plan).name
    stretches = positions_of_step(consumed, blocks, skipped_in(plans, plan, skipped))
    return tuple(merged([*skipped, *(SkippedRange(name, first, count) for first, count in stretches)]))


def _data_key(plan: PhasePlan) -> tuple[object, ...]:
    phase = plan.phase
    streams = tuple(sorted(phase.streams.items()))
    return streams, phase.max_seq_len, phase.shuffle_seed, phase.batch.quantum_blocks
