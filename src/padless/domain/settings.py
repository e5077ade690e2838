"""What ``data_prep/continue_on.py`` is asked for, and what of it is wrong before anything is read.

A class holds what one part needs: the documents and how they become blocks, and around them the source and the run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from padless.config.compose import compose
from padless.config.schema import Config
from padless.errors import ConfigError

DOMAIN, GENERAL = "domain", "general"  # the two streams of a run
RECIPES = ("domain_continued", "domain_short")
GROUPS = ("hardware", "guard", "optimizer", "loggers", "export")
KEEPS = ("weights", "weights,optimizer")
LEAST_TOKENS = 8  # of a segment and of a block, as a run has it


@dataclass(frozen=True, kw_only=True)
class DocumentSettings:
    """Documents, and how they become blocks.

    Attributes:
        input: CSV, parquet, JSON Lines or text: a file, a folder, a glob, or an hf:// address.
        general: documents of general text, replayed and validated on; left out, nothing is replayed and forgetting is
            measured on the bundled text.
        text_key: column or key of the text; left out, it is found and named.
        general_text_key: the same of the general text.
        max_seq_len: longest segment, in tokens; left out, the source's where the documents are long, else 1024.
        block_tokens: tokens of a block.
        val_fraction: share of documents kept for validation; left out, 0.02, or more where the documents are few.
        shards: folder to prepare into; left out, prepared/<name>.
    """

    input: str
    general: str | None = None
    text_key: str | None = None
    general_text_key: str | None = None
    max_seq_len: int | None = None
    block_tokens: int = 8192
    val_fraction: float | None = None
    shards: str | None = None


@dataclass(frozen=True, kw_only=True)
class Continuation(DocumentSettings):
    """From documents and a source to a run.

    Attributes:
        source: what to continue: a checkpoint, a Hugging Face folder, or a name of one.
        name: of the run, which lives in runs/<name>.
        recipe: domain_continued (two phases) or domain_short (one).
        replay: share of general text in every batch; 0 only validates on it.
        tokenizer: tokenizer.json of the source, where it is not with it.
        passes: most times that the domain is seen.
        keep: weights, or weights,optimizer.
        ranks: GPUs or processes that torchrun starts.
        runs: folder of runs.
        train: false prepares and prints the command.
        settings: further settings of train.py, which win.
    """

    source: str
    name: str = "domain"
    recipe: str = RECIPES[0]
    replay: float = 0.1
    tokenizer: str | None = None
    passes: float = 4.0
    keep: str = "weights"
    ranks: int = 1
    runs: str = "runs"
    train: bool = True
    settings: Sequence[str] = ()

    @property
    def domain_share(self) -> float:
        """Share of every batch that is the domain's; the rest is replay."""
        return 1.0 if self.general is None else 1.0 - self.replay

    @property
    def group_settings(self) -> list[str]:
        """The settings that choose whole groups, such as hardware=cpu, or say more of the hardware."""
        return [word for word in self.settings if _key(word) in GROUPS or word.startswith("hardware.")]


def is_of_train(word: str) -> bool:
    """Return whether a word of a command line is a setting of ``train.py``."""
    key = _key(word)
    return "." in key or key.startswith(("+", "~")) or key in GROUPS


def judge(wanted: Continuation) -> Config:
    """Refuse what is wrong by itself, and return the recipe as it is, with the groups that were chosen.

    Raises:
        ConfigError: a setting is impossible or has no effect, or there is no such recipe, or it is of another kind.
    """
    _judge_documents(wanted)
    _judge_run(wanted)
    recipe = compose([f"recipe={wanted.recipe}", "start.source=null", *wanted.group_settings])
    if recipe.hardware.microbatch_blocks < 1:
        raise ConfigError(
            f"hardware.microbatch_blocks={recipe.hardware.microbatch_blocks} is less than 1", "use at least 1"
        )
    if recipe.hardware.world_size not in (None, wanted.ranks):
        raise ConfigError(
            f"ranks={wanted.ranks}, but the hardware has {recipe.hardware.world_size} (hardware.world_size)",
            f"give ranks={recipe.hardware.world_size}; with more machines, train=false prints the command to launch",
        )
    phases = recipe.phases.values()
    if set(recipe.data.streams) != {DOMAIN, GENERAL} or any(set(each.streams) != {DOMAIN, GENERAL} for each in phases):
        raise ConfigError(
            f"recipe={wanted.recipe} trains on {', '.join(recipe.data.streams)}; what is prepared here is one stream "
            "of a domain and one of general text",
            f"use recipe={' or recipe='.join(RECIPES)}; train.py starts other recipes",
        )
    return recipe


def _judge_documents(wanted: DocumentSettings) -> None:
    if not wanted.input:
        raise ConfigError("input is empty", "give a file, a folder or a glob: input=notes.csv")
    if wanted.general is None and wanted.general_text_key is not None:
        raise ConfigError(
            f"general_text_key={wanted.general_text_key} has no effect without general",
            "give general=..., or remove it",
        )
    if wanted.max_seq_len is not None and wanted.max_seq_len < LEAST_TOKENS:
        raise ConfigError(
            f"max_seq_len={wanted.max_seq_len} is less than {LEAST_TOKENS} tokens",
            "leave it out, or give e.g. max_seq_len=1024",
        )
    if wanted.block_tokens < LEAST_TOKENS:
        raise ConfigError(
            f"block_tokens={wanted.block_tokens} is less than {LEAST_TOKENS} tokens", "leave it out; 8192 is usual"
        )
    if wanted.max_seq_len is not None and wanted.max_seq_len > wanted.block_tokens:
        raise ConfigError(
            f"max_seq_len={wanted.max_seq_len} is over block_tokens={wanted.block_tokens}: a segment must fit a block",
            f"use max_seq_len={wanted.block_tokens}, or block_tokens={wanted.max_seq_len}",
        )
    if wanted.val_fraction is not None and not 0 < wanted.val_fraction < 1:
        raise ConfigError(
            f"val_fraction={wanted.val_fraction:g} is not between 0 and 1: both validation losses need documents",
            "leave it out, or give a share such as 0.05",
        )


def _judge_run(wanted: Continuation) -> None:
    if not wanted.name or "/" in wanted.name or "\\" in wanted.name or wanted.name in (".", ".."):
        raise ConfigError(f"name={wanted.name!r} cannot name a folder", "use letters, digits, - and _: name=notes")
    if not 0 < wanted.passes < math.inf:
        raise ConfigError(
            f"passes={wanted.passes:g} is not above 0", "4 is what repeated text is good for [arXiv 2305.16264]"
        )
    if not 0 <= wanted.replay < 1:
        raise ConfigError(
            f"replay={wanted.replay:g} is not in [0, 1)", "use e.g. 0.1; with 0, general text is validated on only"
        )
    if wanted.keep not in KEEPS:
        raise ConfigError(
            f"keep={wanted.keep} is not something a new run can go on with",
            f"use keep={' or keep='.join(KEEPS)}, the second where the source has moments",
        )
    if wanted.ranks < 1:
        raise ConfigError(f"ranks={wanted.ranks} is less than 1", "give the number of GPUs, or leave it out")


def _key(word: str) -> str:
    return word.partition("=")[0]
