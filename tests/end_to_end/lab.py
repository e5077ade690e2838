"""The smoke recipe as an anneal lab: two short phases, and three branches of a few steps from where they end."""

from pathlib import Path

from runs import overrides

MIXTURES = {
    "even": "{general: 0.5, code: 0.25, science: 0.25}",
    "code": "{general: 0.2, code: 0.6, science: 0.2}",
    "science": "{general: 0.2, code: 0.2, science: 0.6}",
}
_BRANCH = {
    "tokens": "12K",
    "max_seq_len": 256,
    "rope": "{global_theta: 160_000, local_theta: 10_000}",
    "batch": "{blocks: 4, quantum_blocks: 2}",
    "lr.peak": "4e-3",
    "masking.rate": 0.15,
    "save_every_tokens": "6K",
    "eval_every_tokens": "6K",
}
_TRUNK = {
    "phase_order": "[short,context]",
    "phases.short.tokens": "8K",
    "phases.short.lr.warmup_tokens": "4K",
    "phases.short.save_every_tokens": "8K",
    "phases.context.tokens": "6K",
    "run.name": "lab",
    "loggers.tensorboard": "false",
    "eval.max_blocks": 6,
}


def lab_overrides(folder: Path, **more: object) -> list[str]:
    """Overrides of the lab in ``folder``, on the shared prepared data; ``more`` by setting."""
    words = [f"+phase@branches.{name}=anneal" for name in MIXTURES]
    settings = dict(_TRUNK)
    for number, (name, mixture) in enumerate(MIXTURES.items()):
        settings |= {f"branches.{name}.{key}": value for key, value in _BRANCH.items()}
        settings |= {f"branches.{name}.streams": mixture, f"branches.{name}.shuffle_seed": 18 + number}
    return [*overrides(folder, **{**settings, **more}), "~phases.anneal", *words]
