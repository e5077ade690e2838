"""``padless bench memory``: the most memory a train step has resident, by implementation, batch and vocabulary.

Each figure is a process of its own with the default allocator, after a step that warms up. What a logit costs shows in
how the peak grows with batch and vocabulary together:

    bytes a token and vocabulary entry = (growth with tokens at the largest vocabulary - at the smallest) / difference

Logits of the masked positions alone, kept once in bf16, are 0.6 of it at a mask rate of 0.3; a chunked loss has none.
"""

from pathlib import Path

from padless.bench.command import at_least_one, one_of, settings_of, whole_number
from padless.bench.lengths import CASES
from padless.bench.result import BenchResult, Figure, Ratio, publish
from padless.bench.shapes import DENSE, PADLESS, SPARSE, shape_of
from padless.bench.sides import STEP, Say, Setting
from padless.bench.step import speaker
from padless.bench.turns import Worker
from padless.errors import ConfigError

DEFAULTS = {
    "shape": "6x384",
    "case": "web",
    "against": SPARSE,
    "tokens": "4096,8192,16384",
    "vocabularies": "8192,50368",
    "batches": "4",
    "seeds": "0,1",
    "allocator": "default",
    "folder": "runs/bench/memory",
}
_BYTES_A_LOGIT = 0.1

Peaks = dict[tuple[str, int, int], tuple[float, ...]]
"""Bytes by implementation, batch tokens and vocabulary, one a seed."""


def bench(arguments: list[str], as_json: bool) -> None:
    """Measure and publish.

    Raises:
        ConfigError: a setting is wrong.
        TrainingError: a process failed.
    """
    told = settings_of(arguments, DEFAULTS)
    tokens = [at_least_one("tokens", each) for each in told["tokens"].split(",")]
    vocabularies = [at_least_one("vocabularies", each) for each in told["vocabularies"].split(",")]
    for key, values in (("tokens", tokens), ("vocabularies", vocabularies)):
        if len(values) < 2 or sorted(set(values)) != values:
            raise ConfigError(f"{key}={told[key]} is not two or more ascending numbers", f"write {key}={DEFAULTS[key]}")
    seeds = [whole_number("seeds", each) for each in told["seeds"].split(",")]
    against = [one_of("against", each, (SPARSE, DENSE)) for each in told["against"].split(",")]
    case, batches = one_of("case", told["case"], tuple(CASES)), at_least_one("batches", told["batches"])
    shape_of(told["shape"])
    folder, say = Path(told["folder"]), speaker(as_json)
    peaks: Peaks = {}
    for who in (PADLESS, *against):
        for vocab_size in vocabularies:
            for batch_tokens in tokens:
                shape = f"{told['shape']}@{vocab_size}"
                peaks[who, batch_tokens, vocab_size] = tuple(
                    measure_peak(
                        Setting(STEP, shape, case, seed, (), batches, 1, batch_tokens, allocator=told["allocator"]),
                        who,
                        folder,
                        say,
                    )
                    for seed in seeds
                )
    facts = {"shape": told["shape"], "case": case, "batches": batches, "seeds": told["seeds"]}
    publish(summarise(peaks, {**facts, "allocator": told["allocator"], "precision": "bf16"}), folder, as_json)


def measure_peak(setting: Setting, who: str, folder: Path, say: Say) -> float:
    """Return the most bytes resident over the measured batches of one setting.

    Raises:
        ConfigError: the allocator is unknown.
        TrainingError: the process failed.
    """
    name = f"{who}-{setting.shape}-{setting.tokens}-{setting.seed}"
    with Worker(name, setting.job_of(who), folder / "logs", setting.allocator) as worker:
        for number in range(setting.warmup):
            worker.do(number)
        worker.clear_peak()
        peak = max(worker.do(number)["peak_bytes"] for number in range(setting.warmup, setting.total_batches))
    say(f"{who} {setting.shape} {setting.tokens} tokens a batch, seed {setting.seed}: {peak / 1e9:.2f} GB")
    return peak


def bytes_a_logit(peaks: Peaks, who: str) -> tuple[float, ...]:
    """Return how many bytes the peak grows for a further token times a further vocabulary entry, one a seed."""
    tokens = sorted({each for _, each, _ in peaks})
    vocabularies = sorted({each for _, _, each in peaks})

    def growth(vocab_size: int) -> list[float]:
        ends = zip(peaks[who, tokens[-1], vocab_size], peaks[who, tokens[0], vocab_size], strict=True)
        return [(last - first) / (tokens[-1] - tokens[0]) for last, first in ends]

    by_seed = zip(growth(vocabularies[-1]), growth(vocabularies[0]), strict=True)
    return tuple((large - small) / (vocabularies[-1] - vocabularies[0]) for large, small in by_seed)


def summarise(peaks: Peaks, facts: dict[str, object]) -> BenchResult:
    """Return figures, and what a logit costs each implementation."""
    result = BenchResult("memory", facts=facts)
    places: list[str] = []
    for (who, tokens, vocab_size), values in peaks.items():
        place = f"{tokens:,} tokens, vocabulary {vocab_size:,}"
        places.append(place)
        result.figures.append(Figure(place, who, "GB, peak resident memory", tuple(each / 1e9 for each in values)))
    result.figures.sort(key=lambda figure: places.index(figure.case))
    for who in dict.fromkeys(who for who, _, _ in peaks):
        target = _BYTES_A_LOGIT if who == PADLESS else None
        result.ratios.append(
            Ratio(f"{who}: bytes a token and vocabulary entry", bytes_a_logit(peaks, who), target, True)
        )
    return result
