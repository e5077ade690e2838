"""The whole configuration as frozen dataclasses; each component receives its own part and nothing else.

Units are in the names. Token counts are exact integers here (:mod:`padless.config.load` parses ``"1.7T"``); batches are
global and counted in blocks; the clock of a run is nominal tokens = blocks consumed x ``block_tokens``. Nothing
outside ``hardware`` depends on the number of ranks. The YAML tree has the same shape as :class:`Config`.
"""

from dataclasses import dataclass
from typing import Literal

LrShape = Literal["constant", "linear", "cosine", "one_minus_sqrt", "warmup_stable_decay"]
MaskShape = Literal["constant", "linear", "cosine", "step"]
BadStepPolicy = Literal["stop", "skip", "rewind"]
SpikePolicy = Literal["report", "stop", "skip", "rewind"]
Kept = Literal["weights", "optimizer", "clock"]
Backend = Literal["auto", "reference", "blocked", "sdpa", "varlen", "flash"]
PROFILE_FROM_STEP = 10  # what run.profile_from_step is unless somebody asks: the steps before it warm up


@dataclass(frozen=True)
class RunConfig:
    """What the run is called and where it lives: ``<folder>/<name>/``."""

    name: str
    folder: str
    seed: int
    stop_after_tokens: (
        int | None
    )  # end early at this clock (with a checkpoint), for a first look; None trains to the end
    log_every_steps: int
    keep_newest_checkpoints: (
        int | None
    )  # besides phase ends and ``keep_every_tokens``, which are never deleted; None keeps all
    accept_changes: tuple[str, ...]  # settings whose change a resume accepts on purpose, by the names its error gives
    profile_steps: int | None  # steps that are recorded by torch's profiler, once; None records none
    profile_from_step: int  # steps of this start of the process before the first that is recorded
    branch: str | None  # train this one of ``branches`` and nothing else, from phases that are done; None trains all


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the encoder (ModernBERT table 4; Ettin sizes). RoPE theta is a phase setting and is not here."""

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int  # GeGLU width; Wi puts out twice this
    vocab_size: int  # a multiple of 64, unless start.source says otherwise
    global_every_layers: int  # layer i attends globally if i % this == 0
    local_window_tokens: int  # 128 means 64 to each side
    norm_eps: float
    attention_out_dropout: float
    mlp_dropout: float
    embedding_dropout: float
    init_std: float
    init_cutoff_factor: float


@dataclass(frozen=True)
class RopeConfig:
    """RoPE base of global and local layers for one phase (Su et al. 2021)."""

    global_theta: float
    local_theta: float


@dataclass(frozen=True)
class StreamConfig:
    """One prepared folder of packed blocks (output of ``data_prep/prepare.py``), local or on a remote."""

    local: str  # folder with manifest.json, or the cache folder when ``remote`` is set
    remote: str | None


@dataclass(frozen=True)
class DataConfig:
    """Where the blocks are. A phase mixes streams by name."""

    streams: dict[str, StreamConfig]
    tokenizer: str | None  # tokenizer.json expected by the user; None takes the streams' own (they must agree)
    block_tokens: int
    num_workers: int
    shuffle: bool
    num_canonical_nodes: int  # fixed in the recipe, divides every batch quantum, never the number of nodes
    verify: Literal["off", "first_read", "all"]  # compare shards with the manifest's hashes: never, when a shard is
    # first read, or all of them before the first step
    cache_limit_bytes: int | None  # of streams with a remote; the least recently used shards are deleted above it
    prepare_bundled: bool  # prepare the bundled sample corpus into these streams if they are missing


@dataclass(frozen=True)
class BatchWarmupConfig:
    """Batch-size warmup: ``levels`` sizes from ``from_blocks`` up to the phase's batch, within ``tokens``."""

    from_blocks: int
    tokens: int
    levels: int  # number of distinct sizes below the full batch; the last warmup level is followed by the full batch
    equal: Literal["steps", "tokens"]


@dataclass(frozen=True)
class BatchConfig:
    """Global batch in blocks. Every batch size is a multiple of ``quantum_blocks``."""

    blocks: int
    quantum_blocks: int
    round: Literal["exact", "nearest"]
    warmup: BatchWarmupConfig | None


@dataclass(frozen=True)
class LrConfig:
    """Learning rate over one phase as a function of tokens since the phase began."""

    shape: LrShape
    peak: float
    warmup_tokens: int
    decay_tokens: int | None  # only for warmup_stable_decay
    floor: float  # final learning rate as a fraction of peak; ineffective (must be None-like 1.0) for constant


@dataclass(frozen=True)
class MaskingConfig:
    """Share of tokens masked, over one phase; 80/10/10 unless said otherwise."""

    rate: float
    shape: MaskShape
    end_rate: float | None  # for linear and cosine (reached at the phase end) and step (from ``step_at_tokens`` on)
    step_at_tokens: int | None  # tokens since the phase began, only for step
    mask_share: float
    random_share: float


@dataclass(frozen=True)
class PhaseConfig:
    """One phase of a recipe. Durations are tokens within the phase."""

    tokens: int
    max_seq_len: int
    streams: dict[str, float]  # stream name -> proportion of the phase's blocks
    rope: RopeConfig
    lr: LrConfig
    weight_decay: float
    batch: BatchConfig
    masking: MaskingConfig
    shuffle_seed: int
    save_every_tokens: int
    keep_every_tokens: int | None  # checkpoints that retention never deletes; a multiple of save_every_tokens
    eval_every_tokens: int
    allow_short_documents: bool


@dataclass(frozen=True)
class OptimizerConfig:
    """StableAdamW (Wortsman et al. 2023) or AdamW (Loshchilov & Hutter 2019), weight decay decoupled from the rate."""

    kind: Literal["stable_adamw", "adamw"]
    beta1: float
    beta2: float
    eps: float


@dataclass(frozen=True)
class LossConfig:
    """What is added to the cross-entropy."""

    z_loss: float  # times the mean square of each row's log-normaliser (Chowdhery et al. 2022, section 5); 0 is off


@dataclass(frozen=True)
class HardwareConfig:
    """How a global batch is cut and computed. Must not change the loss beyond rounding."""

    device: Literal["auto", "cpu", "gpu"]
    world_size: int | None  # ranks the config is checked for; None takes the launcher's
    microbatch_blocks: int  # blocks a rank computes at once
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    attention_backend: Backend
    allow_slow_attention: bool  # permit sdpa on a GPU for more than 1B tokens
    num_threads: int | None  # CPU threads a rank; None leaves torch's choice
    deterministic: bool
    rank_timeout_s: float  # how long the other ranks wait for one that never joins or no longer answers
    compile: Literal["auto", "off", "blocks"]  # of the encoder's blocks; auto: on a GPU that has what it takes


@dataclass(frozen=True)
class GuardConfig:
    """What happens when a step's loss or gradients are not finite, or its loss jumps, before the optimizer steps."""

    on_non_finite: BadStepPolicy
    on_spike: SpikePolicy
    window_steps: int  # good steps of the phase that a spike is measured against
    spike_deviations: float  # a spike is this many scaled median absolute deviations above the window's median ...
    spike_min_nats: float  # ... and at least this much above it
    max_in_a_row: int  # bad steps (skip) or rewinds without a new checkpoint (rewind) until the run stops


@dataclass(frozen=True)
class InitConfig:
    """Initial weights at clock 0."""

    kind: Literal["random", "tiled"]
    source: str | None  # for tiled: file, folder, <run>@latest, known name or owner/name@revision
    scale: Literal["fan_in", "published"]
    mode: Literal["wrap", "centre", "edge"]  # how an axis is filled beyond the source's size
    layer_map: tuple[int, ...] | None  # source layer of each layer; None keeps local on local and global on global
    repeated_layers: Literal["copied", "silent"]  # silent ones add nothing at first, so depth keeps the function
    symmetry_noise_std: float  # noise on copies, as a share of a tensor's own deviation; 0 is off
    tile_moments: bool  # grow the optimizer's moments, too (a padless checkpoint has them)
    allow_theta_change: bool


@dataclass(frozen=True)
class StartConfig:
    """Continue from existing weights of the same shape: at clock 0 (continued pretraining) or at theirs (a branch)."""

    source: str | None  # file, folder, <run>@latest, known name or owner/name@revision
    keep: tuple[Kept, ...]  # [weights], [weights, optimizer], or with clock: a branch of a run, data going on


@dataclass(frozen=True)
class EvalConfig:
    """Validation at a fixed mask rate with fixed masks, the same in every phase."""

    streams: tuple[str, ...]
    max_seq_len: int
    mask_rate: float
    max_blocks: int | None


@dataclass(frozen=True)
class LoggersConfig:
    """Loggers beside metrics.jsonl and the progress bar."""

    tensorboard: bool
    wandb_project: str | None
    wandb_mode: Literal["online", "offline"]


@dataclass(frozen=True)
class ExportConfig:
    """Hugging Face folder at the end of the run."""

    enabled: bool
    max_logit_difference: float


@dataclass(frozen=True)
class Config:
    """The whole tree."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    phases: dict[str, PhaseConfig]
    phase_order: tuple[str, ...]
    branches: dict[str, PhaseConfig]  # phases that each start where the last of phase_order ended: the anneal lab
    optimizer: OptimizerConfig
    loss: LossConfig
    guard: GuardConfig
    hardware: HardwareConfig
    init: InitConfig
    start: StartConfig
    eval: EvalConfig
    loggers: LoggersConfig
    export: ExportConfig
