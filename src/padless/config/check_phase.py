"""The rules of one phase: streams, lengths, thetas, learning rate, batch and its warmup, masking, intervals."""

from padless.config.batch_sizes import batch_sizes, ramp_tokens
from padless.config.schema import BatchConfig, Config, LrConfig, MaskingConfig, PhaseConfig
from padless.errors import ConfigError

LONG_PHASE_TOKENS = 2048  # a phase with longer segments than this has to have longer documents
_MAX_SHUFFLE_SEED = 2**32 - 1
_SHAPE_REMEDY = "set it to null, or choose another shape"


def check_phase(name: str, config: Config) -> None:
    """Check every rule of the phase called ``name``.

    Raises:
        ConfigError: a setting is impossible, contradicts another, or would have no effect.
    """
    phase, path = config.phases[name], f"phases.{name}"
    _check_numbers(phase, path)
    _check_streams(phase, path, list(config.data.streams))
    if not 8 <= phase.max_seq_len <= config.data.block_tokens:
        raise ConfigError(
            f"{path}.max_seq_len={phase.max_seq_len} is not in 8..data.block_tokens={config.data.block_tokens}",
            f"use at most {config.data.block_tokens}, or prepare larger blocks and set data.block_tokens",
        )
    _check_short_documents(phase, path)
    _check_lr(phase.lr, phase.tokens, f"{path}.lr")
    _check_batch(phase.batch, phase.tokens, config.data.block_tokens, f"{path}.batch")
    nodes, quantum = config.data.num_canonical_nodes, phase.batch.quantum_blocks
    if quantum % nodes:
        fitting = [value for value in range(1, quantum + 1) if quantum % value == 0]
        raise ConfigError(
            f"data.num_canonical_nodes={nodes} does not divide {path}.batch.quantum_blocks={quantum}",
            f"use one of {', '.join(map(str, fitting))} (it is part of the recipe, not the number of machines)",
        )
    _check_masking(phase.masking, phase.tokens, f"{path}.masking")


def _check_numbers(phase: PhaseConfig, path: str) -> None:
    for key in ("tokens", "save_every_tokens", "eval_every_tokens"):
        if getattr(phase, key) <= 0:
            raise ConfigError(f"{path}.{key}={getattr(phase, key)} is not above 0", "give whole tokens, e.g. 8.5B")
    for key in ("global_theta", "local_theta"):
        if getattr(phase.rope, key) <= 0:
            value = getattr(phase.rope, key)
            raise ConfigError(f"{path}.rope.{key}={value:g} is not above 0", "use e.g. 10_000 or 160_000")
    if phase.weight_decay < 0:
        raise ConfigError(f"{path}.weight_decay={phase.weight_decay:g} is negative", "use 0 or more, e.g. 1e-5")
    if not 0 <= phase.shuffle_seed <= _MAX_SHUFFLE_SEED:
        raise ConfigError(
            f"{path}.shuffle_seed={phase.shuffle_seed} is not in 0..{_MAX_SHUFFLE_SEED}", "choose one that fits 32 bits"
        )


def _check_streams(phase: PhaseConfig, path: str, known: list[str]) -> None:
    if not phase.streams:
        raise ConfigError(f"{path}.streams is empty", f"name at least one of: {', '.join(known)}")
    for name, proportion in phase.streams.items():
        if name not in known:
            raise ConfigError(
                f"{path}.streams names {name!r}, which is not in data.streams",
                f"use some of {', '.join(known)}, or add it: +data.streams.{name}.local=<folder>",
            )
        if proportion <= 0:
            raise ConfigError(
                f"{path}.streams.{name}={proportion:g} is not above 0",
                f"give it a share, or remove it: ~{path}.streams.{name}",
            )


def _check_short_documents(phase: PhaseConfig, path: str) -> None:
    if phase.allow_short_documents and phase.max_seq_len <= LONG_PHASE_TOKENS:
        raise ConfigError(
            f"{path}.allow_short_documents=true has no effect at max_seq_len={phase.max_seq_len}",
            f"remove it: only phases over {LONG_PHASE_TOKENS:_} tokens need long documents",
        )


def _check_lr(lr: LrConfig, tokens: int, path: str) -> None:
    if lr.peak <= 0:
        raise ConfigError(f"{path}.peak={lr.peak:g} is not above 0", "use e.g. 8e-4")
    if lr.shape == "warmup_stable_decay":
        if lr.decay_tokens is None or lr.decay_tokens <= 0:
            raise ConfigError(
                f"{path}.decay_tokens={lr.decay_tokens}, but shape=warmup_stable_decay decays at its end",
                "set decay_tokens, or shape=constant",
            )
    elif lr.decay_tokens is not None:
        raise ConfigError(f"{path}.decay_tokens={lr.decay_tokens:_} has no effect with shape={lr.shape}", _SHAPE_REMEDY)
    moving_tokens = lr.warmup_tokens + (lr.decay_tokens or 0)
    if moving_tokens > tokens:
        raise ConfigError(
            f"{path}: warmup_tokens={lr.warmup_tokens:_} + decay_tokens={lr.decay_tokens or 0:_} are longer than the "
            f"phase, {tokens:_} tokens",
            f"shorten them to {tokens:_} together, or give the phase {moving_tokens:_} tokens",
        )
    if not 0 <= lr.floor <= 1:
        raise ConfigError(f"{path}.floor={lr.floor:g} is not in [0, 1]", "give the last rate as a fraction of the peak")
    if lr.shape != "constant" and lr.floor == 1:
        raise ConfigError(
            f"{path}.shape={lr.shape} decays to floor=1.0 of the peak, which is not at all",
            "set floor below 1, e.g. floor=0.001, or shape=constant",
        )
    if lr.shape == "constant" and lr.floor != 1:
        raise ConfigError(f"{path}.floor={lr.floor:g} has no effect with shape=constant", "set floor=1.0")


def _check_batch(batch: BatchConfig, tokens: int, block_tokens: int, path: str) -> None:
    for key in ("blocks", "quantum_blocks"):
        if getattr(batch, key) < 1:
            raise ConfigError(f"{path}.{key}={getattr(batch, key)} is less than 1", "use a positive number of blocks")
    warmup = batch.warmup
    if warmup is not None:
        if warmup.levels < 1:
            raise ConfigError(f"{path}.warmup.levels={warmup.levels} is less than 1", "use 1 or more, or warmup=null")
        if not 1 <= warmup.from_blocks < batch.blocks:
            raise ConfigError(
                f"{path}.warmup.from_blocks={warmup.from_blocks} is not in 1..{batch.blocks - 1}, below batch.blocks",
                "start the ramp below the full batch, or set warmup=null",
            )
    try:
        batch_sizes(batch)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.cause}", error.remedy) from None
    if warmup is not None:
        _check_ramp(batch, warmup.tokens, tokens, block_tokens, f"{path}.warmup")


def _check_ramp(batch: BatchConfig, wanted_tokens: int, tokens: int, block_tokens: int, path: str) -> None:
    """The ramp ends before its phase does, also once it is rounded to whole steps."""
    if wanted_tokens <= 0:
        raise ConfigError(f"{path}.tokens={wanted_tokens:_} is not above 0", "say how long the ramp is, or warmup=null")
    real_tokens = ramp_tokens(batch, block_tokens)
    if max(wanted_tokens, real_tokens) < tokens:
        return
    pass_tokens = sum(batch_sizes(batch)[:-1]) * block_tokens  # a step of each level
    is_by_steps = batch.warmup is not None and batch.warmup.equal == "steps"
    most = (tokens - 1) // pass_tokens * pass_tokens if is_by_steps else tokens - 1 - pass_tokens // 2
    shorter = f"set {path}.tokens={most:_}" if most >= pass_tokens else "use fewer or smaller levels"
    raise ConfigError(
        f"{path}.tokens={wanted_tokens:_}: the ramp never ends in a phase of {tokens:_} tokens; "
        f"in whole steps it takes {real_tokens:_}",
        f"{shorter}, give the phase more than {max(wanted_tokens, real_tokens):_} tokens, or set warmup=null",
    )


def _check_masking(masking: MaskingConfig, tokens: int, path: str) -> None:
    for key in ("rate", "end_rate"):
        value = getattr(masking, key)
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{path}.{key}={value:g} is not between 0 and 1", "use e.g. 0.3")
    if masking.shape == "constant" and masking.end_rate is not None:
        raise ConfigError(f"{path}.end_rate={masking.end_rate:g} has no effect with shape=constant", _SHAPE_REMEDY)
    if masking.shape != "constant" and masking.end_rate is None:
        raise ConfigError(f"{path}.end_rate is missing for shape={masking.shape}", "set end_rate, or shape=constant")
    if masking.end_rate == masking.rate:
        raise ConfigError(
            f"{path}: end_rate={masking.end_rate:g} is rate itself, so shape={masking.shape} changes nothing",
            "set another end_rate, e.g. half the rate, or shape=constant with end_rate=null",
        )
    if masking.shape != "step" and masking.step_at_tokens is not None:
        raise ConfigError(
            f"{path}.step_at_tokens={masking.step_at_tokens:_} has no effect with shape={masking.shape}", _SHAPE_REMEDY
        )
    if masking.shape == "step" and (masking.step_at_tokens is None or not 0 < masking.step_at_tokens < tokens):
        raise ConfigError(
            f"{path}.step_at_tokens={masking.step_at_tokens} is not inside the phase, 1..{tokens - 1:_} tokens",
            "say when the rate changes, or set shape=constant",
        )
    shares = (masking.mask_share, masking.random_share)
    if min(shares) < 0 or sum(shares) > 1:
        raise ConfigError(
            f"{path}: mask_share={shares[0]:g} and random_share={shares[1]:g} are not shares of 1",
            "use e.g. 0.8 and 0.1; the rest stays as it is",
        )
    if sum(shares) == 0:
        raise ConfigError(
            f"{path}: mask_share=0 and random_share=0 leave every token that is to be predicted in sight",
            "use 0.8 and 0.1, or mask_share=1.0",
        )
