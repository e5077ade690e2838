"""A recipe made so small that a CPU trains it in a second, by overrides alone: its phases, order and shapes stay."""

from padless.config.schema import PhaseConfig
from padless.recipes.read import Recipe

BLOCK = 256
STEP = 2 * BLOCK  # tokens of a full batch
CAPS = (64, 256)  # the lengths the prepared corpus has


def shrink(recipe: Recipe, folder, prepared, source: str | None) -> list[str]:
    """Return the overrides that train ``recipe`` with a tiny model: two steps in the first phase, one in each other.

    Args:
        recipe: any.
        folder: where runs go.
        prepared: the bundled corpus in blocks of 256, at lengths 64 and 256.
        source: weights for a recipe that starts from others, of model=tiny.
    """
    config = recipe.config
    overrides = [
        f"recipe={recipe.name}", "model=tiny", "hardware=cpu", f"run.folder={folder}", "run.log_every_steps=1",
        f"data.block_tokens={BLOCK}", "data.num_canonical_nodes=1", "data.num_workers=0", "data.prepare_bundled=false",
        f"eval.max_seq_len={_cap(config.eval.max_seq_len)}", "eval.max_blocks=2", "loggers.tensorboard=false",
        "export.enabled=false",
    ]  # fmt: skip
    corpora = ("general", "code", "science")
    for index, name in enumerate(config.data.streams):
        overrides.append(f"data.streams.{name}.local={prepared / corpora[index % 3]}")
    for index, name in enumerate(config.phase_order):
        overrides += _shrink_phase(config.phases[name], f"phases.{name}", 2 * STEP if index == 0 else STEP)
    for name, branch in config.branches.items():
        overrides += _shrink_phase(branch, f"branches.{name}", STEP)
    if config.init.kind == "tiled":  # twice as wide and deep as what it grows from
        overrides += [f"init.source={source}", "model.hidden_size=128", "model.num_heads=4", "model.num_layers=4"]
    return [*overrides, *(f"{key}={source}" for key in recipe.needs)]


def _shrink_phase(phase: PhaseConfig, path: str, tokens: int) -> list[str]:
    batch = "blocks: 2, quantum_blocks: 1"
    if phase.batch.warmup is not None:  # a step of one block, then the full batch
        batch += f", warmup: {{from_blocks: 1, tokens: {BLOCK}, levels: 1, equal: {phase.batch.warmup.equal}}}"
        tokens = BLOCK + STEP
    return [
        f"{path}.tokens={tokens}", f"{path}.max_seq_len={_cap(phase.max_seq_len)}", f"{path}.batch={{{batch}}}",
        f"{path}.lr.warmup_tokens={min(phase.lr.warmup_tokens, BLOCK)}", f"{path}.save_every_tokens={10 * STEP}",
        f"{path}.eval_every_tokens={10 * STEP}",
        f"{path}.keep_every_tokens={'null' if phase.keep_every_tokens is None else 10 * STEP}",
    ]  # fmt: skip


def _cap(max_seq_len: int) -> int:
    return CAPS[0] if max_seq_len <= 1024 else CAPS[1]
