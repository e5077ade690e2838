"""``python data_prep/continue_on.py input=my.csv source=<weights>``: from documents to a Hugging Face folder.

    source -> shape, thetas, lengths, tokenizer     source_facts
    documents -> blocks, with that tokenizer        prepare; the longest segments that source and documents have
    recipe -> tokens and batches for their size     sizing
    train.py with all of it as settings             prints the command, then becomes it; the same again goes on

Everything it decides is a setting of ``train.py`` that the command line shows, so nothing needs an edited YAML file.
"""

import functools
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from padless.config.check import check
from padless.config.compose import compose
from padless.data.arguments import run_script
from padless.data.manifest import Manifest
from padless.data.prepare import prepare
from padless.data.text_column import find_text_key
from padless.domain.sizing import size_run
from padless.domain.source_facts import SourceFacts, read_source
from padless.errors import ConfigError
from padless.export.source import resolve_source

TRAIN = Path(__file__).parents[3] / "train.py"
_GROUPS = ("hardware", "guard", "optimizer", "loggers", "export")
_SHORT_CAP, _LONG_FROM = 1024, 2048  # tokens: documents beyond the second make longer segments worth while
_LEAST_LONG_SHARE = 0.01  # of the domain's tokens, as a run asks of its phases, too
_DOMAIN, _GENERAL = "domain", "general"


def continue_on_script(argv: Sequence[str]) -> int:
    """Run :func:`continue_on` on ``key=value`` words; words that are settings of ``train.py`` go there."""
    settings = tuple(word for word in argv if _is_setting(word))

    @functools.wraps(continue_on)
    def with_settings(**values: object) -> None:
        continue_on(**values, settings=settings)  # pyright: ignore[reportArgumentType] - converted by their types

    return run_script(with_settings, [word for word in argv if not _is_setting(word)])


def _is_setting(word: str) -> bool:
    key = word.partition("=")[0]
    return "." in key or key.startswith(("+", "~")) or key in _GROUPS


def continue_on(
    input: str,
    source: str,
    *,
    name: str = "domain",
    recipe: str = "domain_continued",
    general: str | None = None,
    replay: float = 0.1,
    tokenizer: str | None = None,
    text_key: str | None = None,
    general_text_key: str | None = None,
    max_seq_len: int | None = None,
    block_tokens: int = 8192,
    passes: float = 4.0,
    val_fraction: float = 0.02,
    keep: str = "weights",
    ranks: int = 1,
    runs: str = "runs",
    shards: str | None = None,
    train: bool = True,
    settings: Sequence[str] = (),
    console: Console | None = None,
) -> list[str]:
    """Prepare documents for a source, then train on them; return the training command.

    Args:
        input: CSV, parquet, JSON Lines or text: a file, a folder, a glob, or an hf:// address.
        source: what to continue: a checkpoint, a Hugging Face folder, or a name of one.
        name: of the run, which lives in runs/<name>.
        recipe: domain_continued (two phases) or domain_short (one).
        general: documents of general text, replayed and validated on; left out, nothing is replayed and forgetting is
            measured on the bundled text.
        replay: share of general text in every batch; 0 only validates on it.
        tokenizer: tokenizer.json of the source, where it is not with it.
        text_key: column or key of the text; left out, it is found and named.
        general_text_key: the same of the general text.
        max_seq_len: longest segment, in tokens; left out, the source's where the documents are long, else 1024.
        block_tokens: tokens of a block.
        passes: most times that the domain is seen.
        val_fraction: share of documents kept for validation.
        keep: weights, or weights,optimizer.
        ranks: GPUs or processes that torchrun starts.
        runs: folder of runs.
        shards: folder to prepare into; left out, prepared/<name>.
        train: false prepares and prints the command.
        settings: further settings of train.py, which win.
        console: where lines go; left out, standard output.

    Raises:
        PadlessError: documents, source or settings cannot be used.
    """
    console = console or Console()
    _check(passes, replay, ranks)
    resolved = resolve_source(source)
    facts = read_source(resolved, Path(tokenizer) if tokenizer else None)
    folder = Path(shards) if shards else Path("prepared") / name
    preparation = _Preparation(facts, block_tokens, val_fraction, console)
    domain, cap = preparation.of_domain(input, folder / _DOMAIN, text_key, max_seq_len)
    if general is not None:
        preparation.of_general(general, folder / _GENERAL, general_text_key, cap)
    share = 1.0 if general is None else 1.0 - replay
    base = compose([f"recipe={recipe}", "start.source=null", *(word for word in settings if _is_group(word))])
    workers = max(0, min(base.data.num_workers, (os.cpu_count() or 1) // ranks - 1))
    cut = ranks * base.hardware.microbatch_blocks
    phases = {phase: base.phases[phase] for phase in base.phase_order}
    domain_tokens = domain.split(cap, "train").num_real_tokens
    sizing = size_run(phases, domain_tokens, share, passes, block_tokens, cut)
    console.print(sizing.line, highlight=False, soft_wrap=True)
    overrides = [
        f"recipe={recipe}",
        f"run.name={name}",
        f"run.folder={runs}",
        f"start.source={quoted(source)}",
        f"start.keep=[{keep}]",
        *facts.overrides(),
        *_data_overrides(folder, block_tokens, cap, general is not None),
        f"data.num_workers={workers}",
        *sizing.overrides,
        *(word for phase in phases for word in _phase_overrides(phase, facts, cap, share)),
        *settings,
    ]
    for line in check(compose(overrides), ranks):
        console.print(f"note: {line}", highlight=False, soft_wrap=True)
    command = [*_launcher(ranks), str(TRAIN), *overrides]
    console.print(f"\n{shlex.join(command)}\n", highlight=False, markup=False, soft_wrap=True)
    if train:
        sys.stdout.flush()
        os.execv(command[0], command)  # its signals and its exit code are train.py's own
    return command


class _Preparation:
    """Documents to blocks that fit a source."""

    def __init__(self, facts: SourceFacts, block_tokens: int, val_fraction: float, console: Console) -> None:
        self._facts, self._block_tokens, self._val_fraction = facts, block_tokens, val_fraction
        self._console = console

    def of_domain(
        self, source: str, folder: Path, text_key: str | None, max_seq_len: int | None
    ) -> tuple[Manifest, int]:
        """Prepare the domain and return its manifest, and the longest segment that was decided on."""
        longest = min(self._facts.max_seq_len, self._block_tokens)
        if max_seq_len is not None and max_seq_len > longest:
            raise ConfigError(
                f"max_seq_len={max_seq_len} is more than the source was trained on ({self._facts.max_seq_len}) or a "
                f"block holds ({self._block_tokens})",
                f"use max_seq_len={longest} at most",
            )
        cap = max_seq_len or min(longest, _SHORT_CAP)
        key = self._text_key(source, text_key)
        manifest = self._prepare(source, folder, key, cap)
        if max_seq_len is None and longest > cap and _long_share(manifest) >= _LEAST_LONG_SHARE:
            cap = longest
            manifest = self._prepare(source, folder, key, cap)  # packs only; nothing is tokenised again
        return manifest, cap

    def of_general(self, source: str, folder: Path, text_key: str | None, cap: int) -> None:
        """Prepare general text at the same length."""
        self._prepare(source, folder, self._text_key(source, text_key), cap)

    def _text_key(self, source: str, text_key: str | None) -> str:
        if text_key is not None:
            return text_key
        key, line = find_text_key(source)
        self._console.print(line, highlight=False, soft_wrap=True)
        return key

    def _prepare(self, source: str, folder: Path, text_key: str, cap: int) -> Manifest:
        return prepare(
            source,
            folder,
            self._facts.tokenizer,
            max_seq_len=(cap,),
            block_tokens=self._block_tokens,
            val_fraction=self._val_fraction,
            text_key=text_key,
            console=self._console,
        )


def _long_share(manifest: Manifest) -> float:
    """Return about which share of the tokens lies in long documents: each counted with its histogram's lower bound."""
    counted = {int(bound): int(bound) / 2 * count for bound, count in manifest.length_histogram.items()}
    long = sum(tokens for bound, tokens in counted.items() if bound > _LONG_FROM)
    return long / max(1.0, sum(counted.values()))


def _check(passes: float, replay: float, ranks: int) -> None:
    if not 0 < passes < math.inf:
        raise ConfigError(f"passes={passes:g} is not above 0", "4 is what repeated text is good for [arXiv 2305.16264]")
    if not 0 <= replay < 1:
        raise ConfigError(
            f"replay={replay:g} is not in [0, 1)", "use e.g. 0.1; with 0, general text is validated on only"
        )
    if ranks < 1:
        raise ConfigError(f"ranks={ranks} is less than 1", "give the number of GPUs, or leave it out")


def _is_group(word: str) -> bool:
    return word.partition("=")[0] in _GROUPS or word.startswith("hardware.")


def _data_overrides(folder: Path, block_tokens: int, cap: int, has_general: bool) -> list[str]:
    return [
        f"data.streams.{_DOMAIN}.local={quoted(str(folder / _DOMAIN))}",
        f"data.streams.{_GENERAL}.local={quoted(str(folder / _GENERAL))}",
        f"data.prepare_bundled={str(not has_general).lower()}",
        f"data.block_tokens={block_tokens}",
        f"eval.max_seq_len={cap}",
    ]


def _phase_overrides(name: str, facts: SourceFacts, cap: int, share: float) -> list[str]:
    path = f"phases.{name}"
    streams = [f"{path}.streams.{_DOMAIN}={share:g}", f"{path}.streams.{_GENERAL}={1 - share:g}"]
    replay = streams if share < 1 else [f"~{path}.streams.{_GENERAL}", f"{path}.streams.{_DOMAIN}=1.0"]
    return [
        f"{path}.max_seq_len={cap}",
        *([f"{path}.allow_short_documents=true"] if cap > _LONG_FROM else []),
        f"{path}.rope.global_theta={facts.rope.global_theta:g}",
        f"{path}.rope.local_theta={facts.rope.local_theta:g}",
        *([f"{path}.lr.peak={facts.lr_peak:g}"] if facts.lr_peak is not None else []),
        *replay,
    ]


def _launcher(ranks: int) -> list[str]:
    if ranks == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]


def quoted(path: str) -> str:
    """Return a path as Hydra reads it back: quoted where it has more than plain characters."""
    is_plain = path.isascii() and all(character.isalnum() or character in "/._-@" for character in path)
    escaped = path.replace("'", "\\'")
    return path if is_plain else f"'{escaped}'"
