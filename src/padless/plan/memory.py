"""What a rank keeps in its device's memory, and the largest microbatch that leaves room for the rest.

Counted: weights, gradients and moments in fp32, weights once more in the compute precision (autocast keeps them until
the backward pass), DDP's buckets; what the forward pass of each layer saves for the backward pass; a chunk of logits. A
test compares a layer's bytes with what torch saves in the real one. Of the 73.3 GiB of an H100 that a run may fill by
assumption, 8 blocks of 8192 tokens of ModernBERT-large need 72.9 and 7 need 64.8; of ModernBERT-base 17 fit. The
published runs computed 7 and 12 at once, which agrees with that and does not confirm it: they may have been chosen to
divide the batch. No run's peak has been measured against it.
"""

from dataclasses import dataclass

from padless.config.branches import with_branches
from padless.config.schema import Config, ModelConfig
from padless.errors import ConfigError
from padless.model.count import count_parameters
from padless.plan.devices import GPUS
from padless.plan.hardware import Machine, machine_of

CHECKPOINT_BYTES_A_PARAMETER = 12  # weight and two moments in fp32
_FULL_BYTES, _LOW_BYTES = 4, 2
_LOGITS_AT_ONCE = 2**27  # of the chunked loss on a GPU, in the compute precision


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes on one device."""

    weights: int
    low_weights: int  # in the compute precision
    gradients: int
    moments: int
    buckets: int  # of gradients on their way to other ranks
    logits: int
    activations: int  # of one microbatch, all layers kept: what padless does
    activations_recomputed: int  # of one microbatch, were each layer computed again in the backward pass

    @property
    def fixed(self) -> int:
        """What does not depend on the microbatch."""
        return self.weights + self.low_weights + self.gradients + self.moments + self.buckets + self.logits

    @property
    def total(self) -> int:
        """All of it."""
        return self.fixed + self.activations

    @property
    def total_recomputed(self) -> int:
        """All of it, were layers computed again in the backward pass."""
        return self.fixed + self.activations_recomputed


def kept_bytes_a_token(model: ModelConfig, is_fp32: bool = False, is_compiled: bool = True) -> int:
    """Return what one layer keeps a token for its backward pass.

    In fp32: its input, and the sum after attention (D each). In the compute precision: both normed inputs, queries,
    keys, values and what attention gave (6 D), Wi's output, GELU's and GeGLU's (4 I; compiled layers compute one
    again: 3 I). A byte a value of dropout, and attention's log-sum a head in fp32.
    """
    width, inner = model.hidden_size, model.intermediate_size
    low = _FULL_BYTES if is_fp32 else _LOW_BYTES
    dropped = width * (model.attention_out_dropout > 0) + inner * (model.mlp_dropout > 0)
    kept_low = 6 * width + (3 if is_compiled else 4) * inner
    return _FULL_BYTES * (2 * width + model.num_heads) + low * kept_low + dropped


def memory_need(
    model: ModelConfig,
    microbatch_tokens: int,
    mask_rate: float,
    num_ranks: int,
    is_fp32: bool = False,
    is_compiled: bool = True,
) -> MemoryNeed:
    """Return what one rank needs.

    Args:
        model: shape.
        microbatch_tokens: tokens a rank computes at once.
        mask_rate: the largest of the run.
        num_ranks: all of them.
        is_fp32: computed in fp32 throughout.
        is_compiled: layers are compiled, as on a GPU unless asked otherwise.
    """
    parameters = count_parameters(model).total
    low = _FULL_BYTES if is_fp32 else _LOW_BYTES
    layer = kept_bytes_a_token(model, is_fp32, is_compiled)
    head = round(mask_rate * model.hidden_size * (4 * low + _FULL_BYTES))  # dense in and out, GELU's, norm in and out
    between = 2 * _FULL_BYTES * model.hidden_size  # the embeddings' output, and one gradient of the residual stream
    rows = mask_rate * microbatch_tokens
    return MemoryNeed(
        weights=_FULL_BYTES * parameters,
        low_weights=0 if is_fp32 else low * parameters,
        gradients=_FULL_BYTES * parameters,
        moments=2 * _FULL_BYTES * parameters,
        buckets=_FULL_BYTES * parameters if num_ranks > 1 else 0,
        logits=round(low * min(_LOGITS_AT_ONCE, rows * model.vocab_size)),
        activations=microbatch_tokens * (model.num_layers * layer + head + between),
        activations_recomputed=microbatch_tokens
        * (model.num_layers * _FULL_BYTES * model.hidden_size + layer + head + between),
    )


def largest_microbatch(config: Config, machine: Machine) -> int | None:
    """Return the blocks that fit a device at once, whether or not they divide a batch; None where memory is not known.

    Raises:
        ConfigError: not even one fits.
    """
    usable = machine.usable_bytes
    if usable is None:
        return None
    one = need_of(config, machine, 1)
    room = usable - one.fixed
    if room >= one.activations:
        return int(room // one.activations)
    fitting = [gpu for gpu in GPUS.values() if one.total <= (machine_of(gpu, 1).usable_bytes or 0)]
    nearest = min(fitting, key=lambda gpu: gpu.memory_mib, default=None)
    remedy = "take a smaller model="
    if nearest is not None:
        name = f"{machine.count}x{nearest.name}"
        remedy = f"gpus={name} ({gib_text(nearest.memory_bytes)}) is the smallest that has it; or {remedy}"
    raise ConfigError(
        f"one block of {config.data.block_tokens} tokens needs {gib_text(one.total)}, one {machine.device.name} "
        f"has {gib_text(usable)} for it",
        remedy,
    )


def gib_text(num_bytes: float) -> str:
    """Return bytes of a device's memory in the unit that its driver counts in: 85_520_809_984 -> "79.6 GiB"."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


def need_of(config: Config, machine: Machine, microbatch_blocks: int) -> MemoryNeed:
    """Return what one rank of a configuration needs with a microbatch of so many blocks."""
    phases = with_branches(config).phases.values()
    rates = [max(phase.masking.rate, phase.masking.end_rate or 0.0) for phase in phases]
    tokens = microbatch_blocks * config.data.block_tokens
    is_compiled = config.hardware.compile == "blocks" or (config.hardware.compile == "auto" and not machine.is_cpu)
    is_fp32 = config.hardware.precision == "fp32"
    return memory_need(config.model, tokens, max(rates), machine.count, is_fp32, is_compiled)
