"""What happens around the phases: validation data before them; export, picture and summary after them."""

from pathlib import Path
from typing import Any

from padless.config.schema import Config
from padless.data.masking import MaskingRule
from padless.data.preflight import PreparedData
from padless.errors import PadlessError
from padless.export.command import export_from
from padless.export.fill_mask import fill_masks
from padless.run_files import FORGETTING_PICTURE, LOSS_PICTURE, METRICS, TOKENIZER
from padless.train.callbacks.metrics import read_metrics
from padless.train.forgetting import before_and_after, continues, plot_forgetting, table_of
from padless.train.handover import StartState
from padless.train.hardware import Compute
from padless.train.phase import RunContext
from padless.train.report import plot_run
from padless.train.validation import Validation, ValidationRules, unigram_cross_entropy
from padless.train.world import World

_UNIGRAM_BLOCKS = 20_000
_NUM_FILLED = 5


def make_validation(config: Config, data: PreparedData, world: World, compute: Compute) -> Validation:
    """Return the run's validation: fixed blocks, fixed masks, one cap on segments in every phase."""
    masking = MaskingRule.build(config.model.vocab_size, data.mask_id, data.special_ids, 0.8, 0.1)
    rules = ValidationRules(
        block_tokens=config.data.block_tokens,
        max_seq_len=config.eval.max_seq_len,
        pad_id=data.pad_id,
        masking=masking,
        mask_rate=config.eval.mask_rate,
        seed=config.run.seed,
        max_blocks=config.eval.max_blocks,
    )
    return Validation(data.validation_splits(config.eval), rules, world, compute)


def finish_run(context: RunContext, end: StartState) -> None:
    """Export the last state, draw the picture, show filled masks and where everything is. Rank 0 works, others wait."""
    if context.world.is_leader:
        _finish(context, end)
    context.world.barrier()


def _finish(context: RunContext, end: StartState) -> None:
    unigram = _unigram(context)
    picture = context.folder / LOSS_PICTURE
    is_continued = continues(context.config.start)
    plot_run(
        context.folder / METRICS,
        context.plans,
        context.config.data.block_tokens,
        unigram,
        picture,
        draws_streams=is_continued,
    )
    lines = read_metrics(context.folder / METRICS)
    evals = [line["eval_loss"] for line in lines if "eval_loss" in line]
    if is_continued:
        _show_forgetting(context, lines, end.clock_tokens)
    if evals and unigram is not None:
        share = evals[-1] / unigram
        context.say(f"validation loss {evals[-1]:.4f} nats = {share:.3f} of the unigram cross-entropy {unigram:.4f}")
    finished = end.clock_tokens >= context.plans[-1].end_tokens
    if finished and context.config.export.enabled and end.model is not None:
        _export(context, end, evals[-1] if evals else None)
    elif not finished:
        context.say(
            f"stopped at {end.clock_tokens:_} tokens (run.stop_after_tokens); the same command goes on without it"
        )
    context.say(f"run folder: {context.folder} (checkpoints/, metrics.jsonl, loss.png, config.yaml, lineage.jsonl)")


def _show_forgetting(context: RunContext, lines: list[dict[str, Any]], end_tokens: int) -> None:
    """Print what the source's losses became, stream by stream, and draw them."""
    rows = before_and_after(lines)
    if not rows:
        return
    context.console.print(table_of(rows, end_tokens))
    picture = context.folder / FORGETTING_PICTURE
    plot_forgetting({context.config.run.name: lines}, picture)
    context.say(f"validation by stream against tokens: {picture}")


def _unigram(context: RunContext) -> float | None:
    masked = context.validation.masked_blocks()
    train = context.data.sample_training_blocks(context.plans[0].phase, _UNIGRAM_BLOCKS)
    if not masked or not train:
        return None
    return unigram_cross_entropy(train, masked, context.config.model.vocab_size)


def _export(context: RunContext, end: StartState, eval_loss: float | None) -> None:
    out = context.folder / "hf"
    parity = export_from(
        state_dict=end.model or {},
        config=context.config,
        phase_name=context.plans[-1].name,
        tokenizer_folder=context.folder / TOKENIZER,
        out=out,
        clock_tokens=end.clock_tokens,
        train_seconds=end.train_seconds,
        eval_loss=eval_loss,
        run_folder=context.folder,
    )
    context.say(
        f"exported {out}: max |logit difference| {parity.max_abs_difference:.1e}, "
        f"top-1 agreement {parity.top1_agreement:.1%} against transformers"
    )
    _show_filled_masks(context, out)


def _show_filled_masks(context: RunContext, out: Path) -> None:
    try:
        passages = context.data.sample_passages(context.config.eval, _NUM_FILLED)
        rows = fill_masks(out, [text for text, _ in passages], top_k=3)
    except PadlessError as error:
        context.say(f"no filled masks shown: {error}")
        return
    for row, (_, word) in zip(rows, passages, strict=True):
        context.say(f"  {row.as_line()}  (was: {word})")
