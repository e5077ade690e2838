"""Every cross-field rule: a setting that passes, one that does not, and the remedy it is refused with."""

from functools import cache

import pytest
from omegaconf import OmegaConf

from padless.config.check import check, ranks_to_check
from padless.config.compose import YAML_FOLDER, compose
from padless.config.load import load_config, to_plain
from padless.errors import ConfigError

RECIPES = sorted(path.stem for path in (YAML_FOLDER / "recipe").glob("*.yaml"))
MODELS = sorted(path.stem for path in (YAML_FOLDER / "model").glob("*.yaml"))
NEEDS = {key: ["start.source=weights"] for key in ("domain_continued", "domain_short", "domain_stable_then_anneal")}
BASE = "recipe=modernbert_base"


def is_plain(override):
    """Whether an override only sets a value (no group, no removal); the others need Hydra, which is slow."""
    return override.startswith("phase_order=") or ("." in override.split("=")[0] and override[0] != "~")


@cache
def composed(*overrides):
    return OmegaConf.create(to_plain(compose(overrides)))


def checked(*overrides, ranks=None):
    needs_hydra = [text for text in overrides if not is_plain(text) or text.split("=")[0].endswith(".source")]
    values = OmegaConf.from_dotlist([text.lstrip("+") for text in overrides if text not in needs_hydra])
    config = load_config(OmegaConf.merge(composed(*needs_hydra), values))
    return check(config, ranks or ranks_to_check(config, {}))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_and_checks_without_warnings(recipe):
    assert checked(f"recipe={recipe}", *NEEDS.get(recipe, [])) == []


@pytest.mark.parametrize("model", MODELS)
def test_every_model_checks(model):
    assert checked(BASE, f"model={model}") == []


@pytest.mark.parametrize("hardware", sorted(path.stem for path in (YAML_FOLDER / "hardware").glob("*.yaml")))
def test_every_hardware_cuts_the_published_base_batch(hardware):
    assert checked(BASE, f"hardware={hardware}") == []


def test_published_large_recipe_runs_on_eight_ranks_one_block_at_a_time():
    assert checked("recipe=modernbert_large", "hardware=8xh100", "hardware.microbatch_blocks=1") == []
    with pytest.raises(ConfigError) as caught:
        checked("recipe=modernbert_large", "hardware=8xh100")
    assert caught.value.remedy == "hardware.microbatch_blocks that divide all phases: 1"


def test_a_source_keeps_a_vocabulary_that_is_no_multiple_of_64():
    assert checked("recipe=domain_continued", "start.source=weights", "model.vocab_size=50281") == []
    with pytest.raises(ConfigError, match="not a multiple of 64"):
        checked(BASE, "model.vocab_size=50281")


RAMP = "phases.pretrain.batch.warmup"
WRONG = [
    # one override that passes, the one that is refused, what the error says, what the remedy says
    (
        "phase_order=[anneal,pretrain,context]",
        "phase_order=[pretrain,context]",
        "does not name each",
        "or add ~phases.anneal",
    ),
    (
        "",
        "phase_order=[pretrain,contxt,anneal]",
        "does not name each",
        "write phase_order=[pretrain,context,anneal] in",
    ),
    ("", "phase_order=[]", "phase_order is empty", "at least one phase"),
    ("run.name=a-1", "run.name=a/b", "cannot name a folder", "letters"),
    ("run.seed=0", "run.seed=-1", "run.seed=-1", "32 bits"),
    ("run.log_every_steps=1", "run.log_every_steps=0", "run.log_every_steps=0", "at least 1"),
    ("run.stop_after_tokens=5B", "run.stop_after_tokens=0", "stop_after_tokens=0 is less", "at least 1"),
    ("run.stop_after_tokens=2T", "run.stop_after_tokens=3T", "has no effect: the phases end", "null"),
    ("model.vocab_size=50432", "model.vocab_size=50300", "not a multiple of 64", "vocab_size=50304"),
    ("", "model.vocab_size=2147483648", "does not fit token ids", "less than 2**31"),
    ("model.num_heads=6", "model.num_heads=7", "even head width", "num_heads that fit: 1, 2, 3, 4"),
    ("model.global_every_layers=1", "model.global_every_layers=0", "global_every_layers=0", "at least 1"),
    ("model.local_window_tokens=64", "model.local_window_tokens=63", "not an even number", "128 for 64"),
    ("model.mlp_dropout=0.1", "model.mlp_dropout=1.0", "not in [0, 1)", "0.1"),
    ("model.norm_eps=1e-6", "model.norm_eps=0", "model.norm_eps=0 is not above 0", "positive"),
    ("data.block_tokens=16384", "data.block_tokens=4", "block_tokens=4 is less than 8", "at least 8"),
    ("data.num_workers=0", "data.num_workers=-1", "num_workers=-1", "at least 0"),
    ("data.num_canonical_nodes=48", "data.num_canonical_nodes=64", "does not divide", "use one of 1, 2, 3"),
    ("", "+data.streams.more.local=x", "used by no phase", "~data.streams.more"),
    ("data.streams.main.local=x", "data.streams.main.local=''", "local is empty", "folder of packed blocks"),
    ("optimizer.beta2=0.99", "optimizer.beta2=1.0", "optimizer.beta2=1.0", "0.90 and 0.98"),
    ("optimizer.eps=1e-8", "optimizer.eps=0", "optimizer.eps=0", "positive"),
    ("loss.z_loss=1e-4", "loss.z_loss=-1e-4", "loss.z_loss=-0.0001 is negative", "1e-4"),
    ("phases.anneal.tokens=1B", "phases.anneal.tokens=1M", "less than one batch of 4_718_592", "smaller batches"),
    ("phases.anneal.tokens=1B", "phases.anneal.tokens=0", "tokens=0 is not above 0", "whole tokens"),
    ("phases.anneal.save_every_tokens=2.36B", "phases.anneal.save_every_tokens=0", "is not above 0", "8.5B"),
    ("phases.anneal.eval_every_tokens=90B", "phases.anneal.eval_every_tokens=0", "is not above 0", "8.5B"),
    (
        "+phases.context.streams.main=1.0",
        "phases.context.streams={web: 1}",
        "not in data.streams",
        "main, long, anneal",
    ),
    ("phases.context.streams.long=2", "phases.context.streams.long=0", "long=0 is not above 0", "~phases.context"),
    ("phases.context.max_seq_len=4096", "phases.context.max_seq_len=8193", "8..data.block_tokens", "at most 8192"),
    ("phases.context.max_seq_len=8", "phases.context.max_seq_len=7", "max_seq_len=7", "at most 8192"),
    ("phases.context.rope.local_theta=1e5", "phases.context.rope.local_theta=0", "local_theta=0", "160_000"),
    ("phases.context.weight_decay=0", "phases.context.weight_decay=-1", "is negative", "1e-5"),
    ("phases.context.shuffle_seed=1", "phases.context.shuffle_seed=-1", "shuffle_seed=-1", "32 bits"),
    ("phases.context.lr.peak=1e-4", "phases.context.lr.peak=0", "peak=0 is not above 0", "8e-4"),
    (
        "phases.context.lr.warmup_tokens=250B",
        "phases.context.lr.warmup_tokens=251B",
        "longer than the",
        "shorten them to 250_000_000_000",
    ),
    ("", "phases.context.lr.shape=warmup_stable_decay", "decays at its end", "set decay_tokens"),
    ("", "phases.anneal.lr.decay_tokens=1B", "no effect with shape=one_minus_sqrt", "null"),
    ("phases.anneal.lr.floor=0", "phases.anneal.lr.floor=1.5", "floor=1.5 is not in [0, 1]", "fraction of the peak"),
    ("phases.context.lr.floor=1", "phases.context.lr.floor=0.1", "no effect with shape=constant", "floor=1.0"),
    (f"{RAMP}.tokens=1.7T", f"{RAMP}.tokens=1.719T", "the ramp never ends", f"set {RAMP}.tokens=1_718_994_862_080"),
    (f"{RAMP}.tokens=1B", f"{RAMP}.tokens=0", "warmup.tokens=0 is not above 0", "warmup=null"),
    (f"{RAMP}.from_blocks=96", f"{RAMP}.from_blocks=576", "from_blocks=576 is not in 1..575", "warmup=null"),
    (f"{RAMP}.levels=1", f"{RAMP}.levels=0", "levels=0", "warmup=null"),
    (
        f"{RAMP}.levels=5",
        f"{RAMP}.levels=4",
        "not a multiple of quantum_blocks=96",
        "levels that fit the quantum: 1, 5",
    ),
    (
        "phases.context.batch.blocks=480",
        "phases.context.batch.blocks=500",
        "500 is not a multiple",
        "batch.round=nearest",
    ),
    (
        "phases.context.batch.quantum_blocks=32",
        "phases.context.batch.quantum_blocks=0",
        "less than 1",
        "positive number",
    ),
    ("phases.context.masking.rate=0.99", "phases.context.masking.rate=1.0", "rate=1 is not between 0 and 1", "0.3"),
    ("", "phases.context.masking.end_rate=0.1", "no effect with shape=constant", "null"),
    ("", "phases.context.masking.shape=linear", "end_rate is missing", "shape=constant"),
    ("", "phases.context.masking.shape=cosine", "end_rate is missing for shape=cosine", "shape=constant"),
    ("", "phases.context.masking.step_at_tokens=1B", "no effect with shape=constant", "null"),
    (
        "phases.context.masking.mask_share=0.9",
        "phases.context.masking.mask_share=0.95",
        "not shares of 1",
        "0.8 and 0.1",
    ),
    ("hardware.microbatch_blocks=96", "hardware.microbatch_blocks=10", "= 1 x 10 = 10", "1, 2, 3, 4, 6, 8, 12, 16"),
    ("hardware.microbatch_blocks=1", "hardware.microbatch_blocks=0", "microbatch_blocks=0", "at least 1"),
    ("hardware.world_size=8", "hardware.world_size=7", "= 7 x 1 = 7", "numbers of ranks that divide all phases: 1, 2"),
    ("hardware.num_threads=2", "hardware.num_threads=0", "num_threads=0", "at least 1"),
    ("hardware.world_size=1", "hardware.world_size=-1", "world_size=-1", "at least 1"),
    ("", "init.source=x", "no effect with init.kind=random", "init=tiled"),
    ("", "init.scale=published", "init.scale=published has no effect without init=tiled", "remove it"),
    (
        "phases.context.lr={shape: cosine, floor: 0.1}",
        "phases.context.lr.shape=cosine",
        "decays to floor=1.0",
        "floor=0",
    ),
    (
        "phases.context.allow_short_documents=true",
        "phases.pretrain.allow_short_documents=true",
        "no effect at max_seq_len=1024",
        "remove it",
    ),
    ("", "init.allow_theta_change=true", "no effect with init.kind=random", "remove it"),
    ("start.source=x", "start.keep=[weights,optimizer]", "no effect without start.source", "set start.source"),
    ("start.source=x", "start.keep=[clock]", "start.keep=[clock] is not something", "[weights,optimizer,clock]"),
    ("run.keep_newest_checkpoints=1", "run.keep_newest_checkpoints=0", "would delete the checkpoint", "1 or more"),
    (
        "phases.context.keep_every_tokens=37.8B",
        "phases.context.keep_every_tokens=40B",
        "keep_every_tokens=40_000_000_000 is not a multiple of save_every_tokens=18_900_000_000",
        "37_800_000_000",
    ),
    ("", "run.keep_newest_checkpoints=null", "has no effect with run.keep_newest_checkpoints=null", "remove it"),
    ("data.verify=all", "data.cache_limit_bytes=0", "cache_limit_bytes=0 is not above 0", "null"),
    ("", "data.cache_limit_bytes=1000000000", "'main', which has no remote: they are the only copy", "a remote"),
    ("hardware.rank_timeout_s=10", "hardware.rank_timeout_s=9.5", "rank_timeout_s=9.5 is less than 10", "180"),
    ("guard.window_steps=8", "guard.window_steps=7", "window_steps=7 is less than 8", "64"),
    ("guard.max_in_a_row=1", "guard.max_in_a_row=0", "max_in_a_row=0 is less than 1", "1 or more"),
    ("guard.spike_deviations=1", "guard.spike_deviations=0", "spike_deviations=0 is not above 0", "10"),
    ("guard.spike_min_nats=0.1", "guard.spike_min_nats=-1", "spike_min_nats=-1 is not above 0", "0.5"),
    (
        "run.accept_changes=[run.seed,phases.context.shuffle_seed,data.streams.main]",
        "run.accept_changes=[model.hidden_size]",
        "names model.hidden_size, and a run cannot go on with another value",
        "start.source=<checkpoint>",
    ),
    (
        "run.accept_changes=[model.mlp_dropout]",
        "run.accept_changes=[phases.context.tokens]",
        "cannot go on",
        "branch off",
    ),
    ("", "run.accept_changes=[run.sead]", "run.sead, which is no setting", "did you mean run.seed?"),
    ("", "run.accept_changes=[phases.contxt.lr.peak]", "which is no setting", "did you mean phases.context?"),
    ("", "run.accept_changes=[seed]", "names seed, which is no setting", "a name as the refusal gives it"),
    (
        "run.accept_changes=[phases.context.streams.gone]",
        "run.accept_changes=[phases.gone.lr]",
        "is no setting",
        "name",
    ),
    ("eval.max_seq_len=8192", "eval.max_seq_len=8200", "eval.max_seq_len=8200", "fits a block"),
    ("eval.streams=[main,long]", "eval.streams=[web]", "'web', which is not in data.streams", "main, long, anneal"),
    ("", "eval.streams=[main,main]", "names a stream twice", "name each once"),
    ("eval.mask_rate=0.3", "eval.mask_rate=0", "eval.mask_rate=0.0", "0.15"),
    ("eval.max_blocks=null", "eval.max_blocks=0", "eval.max_blocks=0", "at least 1"),
    (
        "loggers.wandb_project=p",
        "loggers.wandb_mode=offline",
        "no effect without loggers.wandb_project",
        "wandb_project=",
    ),
    ("export.max_logit_difference=1e-3", "export.max_logit_difference=0", "max_logit_difference=0", "positive"),
]


@pytest.mark.parametrize(("passes", "fails", "cause", "remedy"), WRONG, ids=[row[1] for row in WRONG])
def test_each_wrong_setting_is_refused_with_its_remedy(passes, fails, cause, remedy):
    checked(BASE, *([passes] if passes else []))
    with pytest.raises(ConfigError) as caught:
        checked(BASE, fails)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


COMBINED = [
    (["init=tiled", "init.source=x", "start.source=y"], "both give the first weights", "continue one of this shape"),
    (["init=tiled", "init.source=null"], "init=tiled has no source", "init.source="),
    (["hardware=cpu", "hardware.attention_backend=varlen"], "needs a GPU", "auto, which takes blocked"),
    (["hardware=cpu", "hardware.attention_backend=flash"], "needs a GPU", "auto, which takes blocked"),
    (["hardware=cpu", "hardware.allow_slow_attention=true"], "has no effect", "remove it"),
    (["hardware=1xgpu", "hardware.attention_backend=sdpa"], "slower", "allow_slow_attention=true"),
    (["hardware=1xgpu", "hardware.attention_backend=blocked"], "is for a CPU", "attention_backend=auto"),
    (["hardware=cpu", "hardware.precision=fp16"], "fp16 needs a GPU", "fp32, or bf16"),
    (["run.profile_steps=0"], "run.profile_steps=0 is less than 1", "at least 1"),
    (["run.profile_steps=5", "run.profile_from_step=-1"], "profile_from_step=-1 is less than 0", "at least 0"),
    (["run.profile_steps=101"], "makes a trace that no viewer opens", "at most 100"),
    (["run.profile_from_step=3"], "has no effect without run.profile_steps", "run.profile_steps=5"),
    (
        ["phases.context.masking={shape: step, end_rate: 0.1, step_at_tokens: 250B}"],
        "not inside the phase",
        "say when the rate changes",
    ),
    (
        ["phases.context.masking={shape: cosine, end_rate: 0.3}"],
        "end_rate=0.3 is rate itself, so shape=cosine changes nothing",
        "shape=constant",
    ),
    (
        ["phases.context.masking={shape: cosine, end_rate: 0.1, step_at_tokens: 1B}"],
        "step_at_tokens=1_000_000_000 has no effect with shape=cosine",
        "null",
    ),
    (
        ["phases.context.masking={mask_share: 0.0, random_share: 0.0}"],
        "leave every token that is to be predicted in sight",
        "mask_share=1.0",
    ),
    (["phases.context.masking={mask_share: 0.9, random_share: 0.2}"], "not shares of 1", "the rest stays"),
    (["phases.context.masking={mask_share: 1.2, random_share: -0.2}"], "not shares of 1", "the rest stays"),
    (
        ["phases.context.lr={shape: warmup_stable_decay, warmup_tokens: 200B, decay_tokens: 51B}"],
        "longer than the phase",
        "shorten",
    ),
]


@pytest.mark.parametrize(("overrides", "cause", "remedy"), COMBINED, ids=[" ".join(row[0]) for row in COMBINED])
def test_each_wrong_combination_is_refused_with_its_remedy(overrides, cause, remedy):
    with pytest.raises(ConfigError) as caught:
        checked(BASE, *overrides)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "overrides",
    [
        ["init=tiled", "init.source=x", "init.allow_theta_change=true"],
        ["hardware=cpu", "hardware.attention_backend=sdpa"],
        ["hardware=1xgpu", "hardware.attention_backend=sdpa", "hardware.allow_slow_attention=true"],
        ["hardware=1xgpu", "hardware.attention_backend=varlen"],
        ["phases.context.masking={shape: step, end_rate: 0.1, step_at_tokens: 249B}"],
        ["phases.context.masking={shape: linear, end_rate: 0.1}"],
        ["phases.context.masking={shape: cosine, end_rate: 0.15}"],
        ["phases.context.masking={mask_share: 1.0, random_share: 0.0}"],
        ["phases.context.masking={mask_share: 0.8, random_share: 0.2}"],
        ["phases.context.masking={mask_share: 0.0, random_share: 1.0}"],
        ["loss.z_loss=1e-4"],
        ["optimizer=adamw"],
        ["phases.context.lr={shape: warmup_stable_decay, warmup_tokens: 199B, decay_tokens: 51B, floor: 0.1}"],
        ["start.source=x", "start.keep=[weights,optimizer]"],
        ["start.source=x", "start.keep=[weights,optimizer,clock]"],
        ["guard=skip"],
        ["guard=rewind"],
        ["hardware=1xgpu", "hardware.precision=fp16"],
        ["hardware=cpu", "hardware.compile=blocks"],
        ["run.profile_steps=5", "run.profile_from_step=0"],
        ["phases.pretrain.batch.warmup=null"],
    ],
    ids=" ".join,
)
def test_right_combinations_pass(overrides):
    assert checked(BASE, *overrides) == []


def test_a_cache_limit_is_for_streams_that_all_have_a_remote():
    remotes = [f"data.streams.{name}.remote=s3://bucket/{name}" for name in ("main", "long", "anneal")]
    assert checked(BASE, "data.cache_limit_bytes=1000000000", *remotes) == []
    with pytest.raises(ConfigError, match="stream 'long', which has no remote"):
        checked(BASE, "data.cache_limit_bytes=1000000000", remotes[0], remotes[2])


def test_short_runs_may_use_sdpa_on_a_gpu():
    assert checked("recipe=demo", "hardware.device=gpu", "hardware.attention_backend=sdpa") == []


def test_no_data_streams_are_refused():
    with pytest.raises(ConfigError, match=r"data\.streams is empty"):
        checked(BASE, "~data.streams.main", "~data.streams.long", "~data.streams.anneal")


def test_a_phase_without_streams_is_refused():
    with pytest.raises(ConfigError, match=r"phases\.context\.streams is empty"):
        checked(BASE, "~phases.context.streams.long")


def test_rounding_and_odd_proportions_are_warned_of():
    lines = checked(BASE, "phases.context.batch={blocks: 500, round: nearest}", "+phases.context.streams.main=0.5")
    assert lines == [
        "phases.context: a batch of 500 blocks becomes 480 (batch.round=nearest)",
        "phases.context.streams (long=1, main=0.5) do not sum to 1 and are used as proportions",
    ]


def test_a_run_without_validation_is_warned_of():
    assert checked(BASE, "eval.streams=[]") == ["eval.streams is empty: the run has no validation loss"]


def test_ranks_come_from_the_config_then_the_launcher_then_one():
    assert ranks_to_check(compose([BASE, "hardware=8xh100"]), {"WORLD_SIZE": "4"}) == 8
    assert ranks_to_check(compose([BASE]), {"WORLD_SIZE": "4"}) == 4
    assert ranks_to_check(compose([BASE]), {}) == 1
    with pytest.raises(ConfigError, match="= 5 x 1 = 5"):
        checked(BASE, ranks=5)
