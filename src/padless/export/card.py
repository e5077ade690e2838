"""The model card: what the run knows about itself, in the form the Hugging Face hub reads."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import padless
from padless.checkpoint.named import checkpoint_by_name
from padless.config.schema import Config, ModelConfig
from padless.export.known_models import hub_source
from padless.export.run_facts import RunFacts
from padless.model.tensor_shapes import tensor_shapes
from padless.schedule.decay import lr_share_at
from padless.units import approximate_tokens, format_tokens

_PACKAGES = ("torch", "mosaicml", "mosaicml-streaming", "transformers", "tokenizers")


@dataclass(frozen=True)
class ModelCard:
    """What a model card says; :func:`card_from_run` fills it from a run."""

    name: str
    model: ModelConfig
    phase_name: str  # phase the weights come from
    phase_rows: tuple[tuple[str, ...], ...]  # cells of the recipe table, one row a phase
    streams: tuple[str, ...]  # one line a data stream
    clock_tokens: int
    max_position_tokens: int
    hardware: str
    train_hours: float | None
    eval_loss: float | None  # nats a masked token
    eval_mask_rate: float
    start: str  # where the first weights came from
    merged_from: tuple[str, ...] = ()  # checkpoints that the weights are a mean of, with their shares
    lr_share: float | None = None  # learning rate at the end over its phase's peak; None if not known
    lr_peak: float | None = None  # of that phase; None if not known
    eval_streams: tuple[str, ...] = ()  # columns of the evaluation table after the loss
    eval_rows: tuple[tuple[str, ...], ...] = ()  # phase, tokens, loss, loss of each stream
    base_model: str | None = None  # owner/name on the hub that the first weights came from
    licence: str | None = None  # as the hub writes it


def card_from_run(
    config: Config,
    phase_name: str,
    clock_tokens: int,
    train_seconds: float | None,
    eval_loss: float | None,
    merged_from: Sequence[str] = (),
    facts: RunFacts | None = None,
    licence: str | None = None,
) -> ModelCard:
    """Return the card of weights that ``config`` trained up to ``clock_tokens``, in phase ``phase_name``."""
    facts = facts or RunFacts()
    rows = []
    for name in config.phase_order[: config.phase_order.index(phase_name) + 1]:
        phase = config.phases[name]
        lr = f"{phase.lr.peak:g} {phase.lr.shape.replace('_', '-')}"
        thetas = f"{phase.rope.global_theta:g} / {phase.rope.local_theta:g}"
        batch = approximate_tokens(phase.batch.blocks * config.data.block_tokens)
        mix = ", ".join(f"{stream} {share:g}" for stream, share in phase.streams.items())
        mask = f"{phase.masking.rate:.0%}" + (f" to {phase.masking.end_rate:.0%}" if phase.masking.end_rate else "")
        rows.append((name, format_tokens(phase.tokens), str(phase.max_seq_len), batch, lr, mask, thetas, mix))
    used = {stream for name in config.phase_order for stream in config.phases[name].streams}
    start = config.start.source or (f"tiled from {config.init.source}" if config.init.kind == "tiled" else "random")
    return ModelCard(
        name=config.run.name,
        model=config.model,
        phase_name=phase_name,
        phase_rows=tuple(rows),
        streams=tuple(sorted(used)),
        clock_tokens=clock_tokens,
        max_position_tokens=max_position_tokens(config, phase_name),
        hardware="; then ".join(facts.hardware) or _hardware(config.hardware.device),
        train_hours=None if train_seconds is None else train_seconds / 3600,
        eval_loss=eval_loss,
        eval_mask_rate=config.eval.mask_rate,
        start=start,
        merged_from=tuple(merged_from),
        lr_share=lr_share_at(config, phase_name, clock_tokens),
        lr_peak=config.phases[phase_name].lr.peak,
        eval_streams=facts.eval_streams,
        eval_rows=facts.eval_rows,
        base_model=_base_model(config.start.source or config.init.source),
        licence=licence,
    )


def _base_model(source: str | None) -> str | None:
    """Return the hub's name of a source that is not a path here."""
    if source is None or Path(source).exists() or checkpoint_by_name(source) is not None:
        return None
    hub = hub_source(source)
    return None if hub is None else hub.repo


def max_position_tokens(config: Config, phase_name: str) -> int:
    """Return the longest segment trained on up to and including ``phase_name``."""
    names = config.phase_order[: config.phase_order.index(phase_name) + 1]
    return max(config.phases[name].max_seq_len for name in names)


def _hardware(device: str) -> str:
    if device != "cpu" and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)} on the exporting machine"
    return f"CPU ({platform.machine()}) on the exporting machine"


def render_card(card: ModelCard) -> str:
    """Return the README.md of an exported folder."""
    model = card.model
    parameters = sum(torch.Size(shape).numel() for shape in tensor_shapes(model).values())
    loss = "not measured" if card.eval_loss is None else f"{card.eval_loss:.4f} nats a masked token"
    hours = "not recorded" if card.train_hours is None else f"{card.train_hours:.2f}"
    rows = "\n".join("| " + " | ".join(row) + " |" for row in card.phase_rows)
    streams = "\n".join(f"- `{stream}`" for stream in card.streams)
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
{_front_matter(card)}mask_token: "[MASK]"
tags:
- modernbert
- masked-lm
- padless
---

# {card.name}

A ModernBERT-style encoder with {parameters:_} parameters: {model.num_layers} layers x {model.hidden_size},
{model.num_heads} heads, GeGLU {model.intermediate_size}, vocabulary {model.vocab_size}, segments of up to
{card.max_position_tokens} tokens. Pretrained by masked language modelling with
padless for {approximate_tokens(card.clock_tokens)} tokens; these weights are from phase `{card.phase_name}`.

## Use

```python
from transformers import pipeline

fill = pipeline("fill-mask", model="<this folder>")
print(fill("The library opens at nine in the [MASK]."))
```

As the start of an embedding model (mean pooling) or a late-interaction model, to be trained before it is of use:

```python
from sentence_transformers import SentenceTransformer
from pylate import models

embedder = SentenceTransformer("<this folder>")
colbert = models.ColBERT("<this folder>")
```

With FlashAttention: `AutoModel.from_pretrained(..., attn_implementation="flash_attention_2", dtype="bfloat16")`.

## Training

| phase | tokens | longest segment | batch tokens | learning rate | masked | RoPE theta global / local | data mix |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

- tokens consumed (clock): {card.clock_tokens:_}
- initial weights: {card.start}{_merged_line(card)}
- hardware: {card.hardware}
- hours of training: {hours}
- validation loss at {card.eval_mask_rate:.0%} masked: {loss}
{_evaluation(card)}
## Data

Streams of packed blocks, without padding; the mix of each phase is in the table.

{streams}

## Limits

The model repeats what its data says, errors and prejudices included. It was not tuned for a task: fine-tune it before
use. Quality outside the language and domain of the data above, and on segments longer than {card.max_position_tokens}
tokens, was not measured.

## Licence

{_licence(card)}

## Versions

{_versions()}
"""


def _front_matter(card: ModelCard) -> str:
    licence = f"license: {card.licence}\n" if card.licence else ""
    return licence + (f"base_model: {card.base_model}\n" if card.base_model else "")


def _evaluation(card: ModelCard) -> str:
    """Return the table of validation losses, nothing where none were measured."""
    if not card.eval_rows:
        return ""
    headings = ("phase", "tokens", "loss", *card.eval_streams)
    rows = [headings, ("---",) * len(headings), *card.eval_rows]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"""
## Evaluation

Validation loss in nats a masked token, {card.eval_mask_rate:.0%} masked, at the last validation of each phase:

{table}
"""


def _licence(card: ModelCard) -> str:
    return card.licence or "Not stated by the run: set one that the data's licences allow before publishing."


def _merged_line(card: ModelCard) -> str:
    return f"\n- these weights are a mean: {', '.join(card.merged_from)}" if card.merged_from else ""


def _versions() -> str:
    lines = [f"padless {padless.__version__}", f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(lines)
