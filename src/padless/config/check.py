"""All rules that connect settings. They run before anything is built, and need no GPU, no torch and no data.

Each rule raises :class:`~padless.errors.ConfigError` with the setting, its value and what to write. Whether a machine
has a GPU is never looked at: with ``hardware.device=auto`` the backend rules that depend on it run at start.
"""

import math
from collections.abc import Mapping

from padless.config.batch_sizes import size_deviations
from padless.config.branches import with_branches
from padless.config.check_beginning import check_beginning
from padless.config.check_branches import check_branches
from padless.config.check_keeping import check_keeping
from padless.config.check_phase import check_phase
from padless.config.schema import PROFILE_FROM_STEP, Config, DataConfig, HardwareConfig, ModelConfig, RunConfig
from padless.errors import ConfigError
from padless.units import format_tokens

_SLOW_BACKENDS = ("sdpa", "reference")
_SLOW_LIMIT_TOKENS = 10**9
_MAX_SEED = 2**32 - 1
_MOST_PROFILED = 100


def ranks_to_check(config: Config, environment: Mapping[str, str]) -> int:
    """Return the ranks to check a config for: ``hardware.world_size``, else the launcher's WORLD_SIZE, else 1."""
    return config.hardware.world_size or int(environment.get("WORLD_SIZE", "1"))


def check(config: Config, world_size: int) -> list[str]:
    """Check every rule for ``world_size`` ranks and return warnings, one line each.

    Raises:
        ConfigError: a setting is impossible, contradicts another, or would have no effect.
    """
    warnings = _check_run_alone(config, world_size)
    warnings += check_branches(config, lambda branch: _check_run_alone(branch, world_size), warnings)
    _check_unused_streams(config)
    return warnings


def _check_run_alone(config: Config, world_size: int) -> list[str]:
    """Check one run, a trunk or a branch of it."""
    _check_order(config)
    _check_run(config)
    _check_model(config.model, config.start.source)
    _check_data(config)
    _check_optimizer(config)
    for name in config.phase_order:
        check_phase(name, config)
    _check_phase_lengths(config)
    _check_cut(config, world_size)
    _check_hardware(config.hardware, sum(phase.tokens for phase in config.phases.values()))
    check_beginning(config)
    check_keeping(config)
    check_eval(config)
    _check_outputs(config)
    return _warnings(config)


def _check_order(config: Config) -> None:
    names, order = list(config.phases), list(config.phase_order)
    if not order:
        raise ConfigError("phase_order is empty", "name at least one phase, e.g. phase_order=[pretrain]")
    if sorted(names) != sorted(order):
        left_out = [name for name in names if name not in order]
        without = f", or add {' '.join(f'~phases.{name}' for name in left_out)} to do without"
        raise ConfigError(
            f"phase_order={order} does not name each phase of phases={names} once",
            f"write phase_order=[{','.join(names)}] in the order you want"
            + (without if len(order) + len(left_out) == len(names) else ""),
        )


def _check_run(config: Config) -> None:
    run = config.run
    if not run.name or any(character in run.name for character in "/\\") or run.name in (".", ".."):
        raise ConfigError(f"run.name={run.name!r} cannot name a folder", "use letters, digits, - and _")
    if not 0 <= run.seed <= _MAX_SEED:
        raise ConfigError(f"run.seed={run.seed} is not in 0..{_MAX_SEED}", "choose a seed that fits 32 bits")
    _at_least(run.log_every_steps, 1, "run.log_every_steps")
    if run.stop_after_tokens is not None:
        _at_least(run.stop_after_tokens, 1, "run.stop_after_tokens")
    _check_profile(run)


def _check_profile(run: RunConfig) -> None:
    if run.profile_steps is None:
        if run.profile_from_step != PROFILE_FROM_STEP:
            raise ConfigError(
                f"run.profile_from_step={run.profile_from_step} has no effect without run.profile_steps",
                "set run.profile_steps=5, or remove it",
            )
        return
    _at_least(run.profile_steps, 1, "run.profile_steps")
    _at_least(run.profile_from_step, 0, "run.profile_from_step")
    if run.profile_steps > _MOST_PROFILED:
        raise ConfigError(
            f"run.profile_steps={run.profile_steps} makes a trace that no viewer opens",
            f"use at most {_MOST_PROFILED}; 5 show a step as well",
        )


def _check_model(model: ModelConfig, source: str | None) -> None:
    for key in ("num_layers", "hidden_size", "num_heads", "intermediate_size", "vocab_size", "global_every_layers"):
        _at_least(getattr(model, key), 1, f"model.{key}")
    if model.vocab_size % 64 and source is None:  # a source's vocabulary is what it is
        up = -(-model.vocab_size // 64) * 64
        raise ConfigError(f"model.vocab_size={model.vocab_size} is not a multiple of 64", f"pad it: vocab_size={up}")
    if model.vocab_size > 2**31 - 1:
        raise ConfigError(f"model.vocab_size={model.vocab_size} does not fit token ids", "use less than 2**31")
    if model.hidden_size % (2 * model.num_heads):
        fitting = [heads for heads in range(1, model.hidden_size // 2 + 1) if model.hidden_size % (2 * heads) == 0]
        raise ConfigError(
            f"model.hidden_size={model.hidden_size} does not give num_heads={model.num_heads} an even head width",
            f"num_heads that fit: {', '.join(map(str, fitting))}",
        )
    if model.local_window_tokens < 2 or model.local_window_tokens % 2:
        raise ConfigError(
            f"model.local_window_tokens={model.local_window_tokens} is not an even number from 2 on",
            "write both sides together, e.g. 128 for 64 to each side",
        )
    for key in ("attention_out_dropout", "mlp_dropout", "embedding_dropout"):
        if not 0 <= getattr(model, key) < 1:
            raise ConfigError(f"model.{key}={getattr(model, key)} is not in [0, 1)", "use e.g. 0.1 or 0.0")
    for key in ("norm_eps", "init_std", "init_cutoff_factor"):
        _positive(getattr(model, key), f"model.{key}")


def _check_data(config: Config) -> None:
    data = config.data
    _at_least(data.block_tokens, 8, "data.block_tokens")
    _at_least(data.num_canonical_nodes, 1, "data.num_canonical_nodes")
    _at_least(data.num_workers, 0, "data.num_workers")
    if not data.streams:
        raise ConfigError("data.streams is empty", "add one: +data.streams.main.local=<folder of packed blocks>")
    _check_folders(data)


def _check_unused_streams(config: Config) -> None:
    data = config.data
    phases = with_branches(config).phases.values()
    used = {name for phase in phases for name in phase.streams} | set(config.eval.streams)
    unused = [name for name in data.streams if name not in used]
    if unused:
        raise ConfigError(
            f"data.streams.{unused[0]} is used by no phase and not by eval",
            f"add it to phases.<name>.streams, or remove it: ~data.streams.{unused[0]}",
        )


def _check_folders(data: DataConfig) -> None:
    for name, stream in data.streams.items():
        if not stream.local:
            raise ConfigError(f"data.streams.{name}.local is empty", "give the folder of packed blocks")


def _check_optimizer(config: Config) -> None:
    for key in ("beta1", "beta2"):
        value = getattr(config.optimizer, key)
        if not 0 <= value < 1:
            raise ConfigError(f"optimizer.{key}={value} is not in [0, 1)", "the published values are 0.90 and 0.98")
    _positive(config.optimizer.eps, "optimizer.eps")
    if config.loss.z_loss < 0:
        raise ConfigError(
            f"loss.z_loss={config.loss.z_loss:g} is negative, which drives the normaliser away from 1",
            "use 0, which is off, or the published 1e-4",
        )


def _check_phase_lengths(config: Config) -> None:
    """Every phase gets at least one step, however far the one before it went over its end."""
    largest = 0
    for name in config.phase_order:
        phase = config.phases[name]
        largest = max(largest, phase.batch.blocks * config.data.block_tokens)
        if phase.tokens < largest:
            raise ConfigError(
                f"phases.{name}.tokens={phase.tokens:_} is less than one batch of {largest:_} tokens",
                "give the phase more tokens, or use smaller batches (batch.blocks)",
            )
    total = sum(phase.tokens for phase in config.phases.values())
    stop = config.run.stop_after_tokens
    if stop is not None and stop >= total:
        raise ConfigError(
            f"run.stop_after_tokens={stop:_} has no effect: the phases end at {total:_}",
            "set run.stop_after_tokens=null or a smaller value",
        )


def _check_cut(config: Config, world_size: int) -> None:
    """Ranks x microbatch divides every quantum, so it divides every batch."""
    microbatch = config.hardware.microbatch_blocks
    _at_least(microbatch, 1, "hardware.microbatch_blocks")
    if config.hardware.world_size is not None:
        _at_least(config.hardware.world_size, 1, "hardware.world_size")
    quantums = {name: config.phases[name].batch.quantum_blocks for name in config.phase_order}
    for name, quantum in quantums.items():
        if quantum % (world_size * microbatch) == 0:
            continue
        common = math.gcd(*quantums.values())
        if common % world_size == 0:
            fitting = f"hardware.microbatch_blocks that divide all phases: {_divisors(common // world_size)}"
        else:
            fitting = f"numbers of ranks that divide all phases: {_divisors(common)}; or other quantum_blocks"
        raise ConfigError(
            f"phases.{name}.batch.quantum_blocks={quantum} is not a multiple of ranks x hardware.microbatch_blocks "
            f"= {world_size} x {microbatch} = {world_size * microbatch}",
            fitting,
        )


def _check_hardware(hardware: HardwareConfig, total_tokens: int) -> None:
    backend = hardware.attention_backend
    if hardware.device == "cpu" and backend in ("varlen", "flash"):
        raise ConfigError(
            f"hardware.attention_backend={backend} needs a GPU, but hardware.device=cpu",
            "use hardware.attention_backend=auto, which takes blocked on a CPU",
        )
    if hardware.device == "gpu" and backend == "blocked":
        raise ConfigError(
            "hardware.attention_backend=blocked is for a CPU, but hardware.device=gpu",
            "use hardware.attention_backend=auto, which takes the fastest that the GPU can run",
        )
    if hardware.device == "cpu" and hardware.precision == "fp16":
        raise ConfigError(
            "hardware.precision=fp16 needs a GPU, but hardware.device=cpu",
            "use hardware.precision=fp32, or bf16, which needs no loss scaling",
        )
    is_slow = hardware.device == "gpu" and backend in _SLOW_BACKENDS and total_tokens > _SLOW_LIMIT_TOKENS
    if is_slow and not hardware.allow_slow_attention:
        raise ConfigError(
            f"hardware.attention_backend={backend} on a GPU for {format_tokens(total_tokens)} tokens is several times "
            "slower than it needs to be",
            "use hardware.attention_backend=auto, or set hardware.allow_slow_attention=true",
        )
    if hardware.allow_slow_attention and (hardware.device == "cpu" or backend in ("varlen", "flash")):
        raise ConfigError(
            f"hardware.allow_slow_attention=true has no effect with device={hardware.device}, backend={backend}",
            "remove it",
        )
    if hardware.num_threads is not None:
        _at_least(hardware.num_threads, 1, "hardware.num_threads")
    if hardware.rank_timeout_s < 10:
        raise ConfigError(
            f"hardware.rank_timeout_s={hardware.rank_timeout_s:g} is less than 10 seconds", "180 is a good value"
        )


def check_eval(config: Config) -> None:
    """Check what validation reads.

    Raises:
        ConfigError: a stream is unknown or named twice, or a number is impossible.
    """
    settings = config.eval
    for name in settings.streams:
        if name not in config.data.streams:
            raise ConfigError(
                f"eval.streams names {name!r}, which is not in data.streams",
                f"use some of: {', '.join(config.data.streams)}",
            )
    if len(set(settings.streams)) != len(settings.streams):
        raise ConfigError(f"eval.streams={list(settings.streams)} names a stream twice", "name each once")
    if not 8 <= settings.max_seq_len <= config.data.block_tokens:
        raise ConfigError(
            f"eval.max_seq_len={settings.max_seq_len} is not in 8..data.block_tokens={config.data.block_tokens}",
            "use a length that fits a block",
        )
    if not 0 < settings.mask_rate < 1:
        raise ConfigError(f"eval.mask_rate={settings.mask_rate} is not between 0 and 1", "0.15 is the published rate")
    if settings.max_blocks is not None:
        _at_least(settings.max_blocks, 1, "eval.max_blocks")


def _check_outputs(config: Config) -> None:
    if config.loggers.wandb_project is None and config.loggers.wandb_mode != "online":
        raise ConfigError(
            f"loggers.wandb_mode={config.loggers.wandb_mode} has no effect without loggers.wandb_project",
            "set loggers.wandb_project=<name>, or remove it",
        )
    _positive(config.export.max_logit_difference, "export.max_logit_difference")


def _warnings(config: Config) -> list[str]:
    lines = []
    for name in config.phase_order:
        phase = config.phases[name]
        for wanted, used in size_deviations(phase.batch):
            lines.append(f"phases.{name}: a batch of {wanted} blocks becomes {used} (batch.round=nearest)")
        if abs(sum(phase.streams.values()) - 1) > 1e-6:
            shares = ", ".join(f"{key}={value:g}" for key, value in phase.streams.items())
            lines.append(f"phases.{name}.streams ({shares}) do not sum to 1 and are used as proportions")
    if not config.eval.streams:
        lines.append("eval.streams is empty: the run has no validation loss")
    return lines


def _divisors(number: int) -> str:
    return ", ".join(str(value) for value in range(1, number + 1) if number % value == 0)


def _at_least(value: int, least: int, key: str) -> None:
    if value < least:
        raise ConfigError(f"{key}={value} is less than {least}", f"use at least {least}")


def _positive(value: float, key: str) -> None:
    if value <= 0:
        raise ConfigError(f"{key}={value:g} is not above 0", "use a positive number")
