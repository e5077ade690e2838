"""``padless bench inference``: the encoder's forward pass against transformers, padded, fixed and variable lengths.

The four cases are those of the efficiency table of the ModernBERT paper (Warner et al. 2024, table 2), on one core. Our
batches are packed blocks, so a batch of fixed 8,192 tokens is one document on either side.
"""

from padless.bench.result import BenchResult, Ratio, publish
from padless.bench.shapes import PADDED
from padless.bench.sides import ENCODE, Run
from padless.bench.step import facts_of, faster_ratios, notes_of, parse, rate_figures, run_all, speaker, together

DEFAULTS = {
    "cases": "fixed-512,variable-512,fixed-8192,variable-8192",
    "shapes": "6x384",
    "against": PADDED,
    "batches": "20",
    "warmup": "2",
    "seeds": "0,1",
    "tokens": "16384",
    "rows": "32",
    "precision": "bf16",
    "backend": "blocked",
    "compile": "false",
    "allocator": "default",
    "folder": "runs/bench/inference",
}


def bench(arguments: list[str], as_json: bool) -> None:
    """Measure and publish.

    Raises:
        ConfigError: a setting is wrong.
        TrainingError: a process failed.
    """
    plan = parse(arguments, DEFAULTS, ENCODE, (PADDED,))
    publish(summarise(run_all(plan, speaker(as_json))), plan.folder, as_json)


def summarise(runs: list[Run]) -> BenchResult:
    """Return figures, ratios and what a reader has to know."""
    result = BenchResult("inference", facts=facts_of(runs))
    places = together(runs)
    for (shape, case), seeds in places.items():
        result.figures += rate_figures(f"{shape} {case}", seeds)
        result.ratios += faster_ratios(shape, case, seeds, {})
        shares = tuple(share for run in seeds for share in run.shares())
        result.ratios.append(Ratio(f"{shape} {case}: share of the core's matrix ceiling", shares))
    result.notes = notes_of(places)
    return result
