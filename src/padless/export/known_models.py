"""Published checkpoints by short names, and where on the Hugging Face hub each one lies.

Only what was found in public is here, with its source beside it; nothing of it was downloaded while this was written.

    modernbert-base             the published model
    modernbert-base@stable      the end of the first phase, before the context was extended
    modernbert-base@extended    the end of the stable learning rate: what to continue from
    modernbert-base@decayed     the end of the anneal
    ettin-150m@step599525       any revision of the size's repository
"""

import re
from dataclasses import dataclass

from padless.config.load import nearest_key
from padless.errors import CheckpointError

_MODERNBERT = "answerdotai/ModernBERT-{size}"
_MODERNBERT_STEPS = "answerdotai/ModernBERT-{size}-training-checkpoints"
_ETTIN = "jhu-clsp/ettin-encoder-{size}"
_ETTIN_REVISION = re.compile(r"(step|ext|decay)\d{1,9}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w][\w./-]{0,127}", re.ASCII)
MAIN = "main"


@dataclass(frozen=True)
class HubSource:
    """Where on the hub a model lies: a folder of transformers, or one Composer checkpoint."""

    repo: str  # owner/name
    revision: str = MAIN
    file: str | None = None  # a Composer checkpoint in the repository
    newest_in: str | None = None  # a folder of the repository: the Composer checkpoint with the most batches in it
    max_seq_len: int | None = None  # longest segment it was trained on, where the files do not say
    tokenizer_repo: str | None = None  # whose tokenizer.json belongs to it, where its own repository has none

    def __str__(self) -> str:
        """Return ``owner/name@revision``, with the file in it."""
        inside = self.file or (f"{self.newest_in}/ (its newest)" if self.newest_in else "")
        return f"{self.repo}@{self.revision}{inside and f' {inside}'}"


def _modernbert(size: str, extended: str, decayed: str | None) -> dict[str, HubSource]:
    """Return the checkpoints of one size.

    The folders pretrain, context-extension and learning-rate-decay of the training-checkpoints repositories are in
    their file listings and in AnswerDotAI/ModernBERT#222.
    """
    repo, published = _MODERNBERT_STEPS.format(size=size), _MODERNBERT.format(size=size)
    anneal = "learning-rate-decay"
    return {
        f"modernbert-{size}": HubSource(published),
        f"modernbert-{size}@stable": HubSource(repo, newest_in="pretrain", max_seq_len=1024, tokenizer_repo=published),
        f"modernbert-{size}@extended": HubSource(
            repo, file=f"context-extension/{extended}", max_seq_len=8192, tokenizer_repo=published
        ),
        f"modernbert-{size}@decayed": HubSource(
            repo,
            file=f"{anneal}/{decayed}" if decayed else None,
            newest_in=None if decayed else anneal,
            max_seq_len=8192,
            tokenizer_repo=published,
        ),
    }


KNOWN: dict[str, HubSource] = {
    # The last of the stable phase: lindvalllab/BioClinical-ModernBERT, pretraining_resources/configs/phase1/
    # phase1_{base,large}.yaml. The last of base's anneal: AnswerDotAI/ModernBERT#252 (the published model is a mean).
    **_modernbert("base", extended="ep0-ba52988-rank0.pt", decayed="ep0-ba10598-rank0.pt"),
    **_modernbert("large", extended="ep0-ba49552-rank0.pt", decayed=None),
    # Model cards of jhu-clsp/ettin-encoder-*: revisions step<n>, ext<n> and decay<n>; main is the last decay.
    **{f"ettin-{size}": HubSource(_ETTIN.format(size=size)) for size in ("17m", "32m", "68m", "150m", "400m", "1b")},
    **{f"ettin-{size}@decayed": HubSource(_ETTIN.format(size=size)) for size in ("32m", "68m", "150m", "400m")},
    # Revisions that a public evaluation of these two sizes lists as the last of each phase.
    **{f"ettin-{size}@stable": HubSource(_ETTIN.format(size=size), "step599525") for size in ("150m", "400m")},
    **{f"ettin-{size}@extended": HubSource(_ETTIN.format(size=size), "ext50854") for size in ("150m", "400m")},
    # File listings of jhu-clsp/mmBERT-{base,small} and mmBERT-checkpoints; JHU-CLSP/mmBERT#6: ext is before the decay.
    "mmbert-base": HubSource("jhu-clsp/mmBERT-base"),
    "mmbert-small": HubSource("jhu-clsp/mmBERT-small"),
    "mmbert-small@extended": HubSource(
        "jhu-clsp/mmBERT-checkpoints",
        newest_in="mmbert-small/ext",
        max_seq_len=8192,
        tokenizer_repo="jhu-clsp/mmBERT-small",
    ),
}


def hub_source(text: str) -> HubSource | None:
    """Return where on the hub the model lies that ``text`` names; None if it does not look like a name of one.

    Args:
        text: a short name of :data:`KNOWN`, ``ettin-<size>@<revision>``, or ``owner/name`` with ``@revision`` or not.

    Raises:
        CheckpointError: it is a short name's beginning with a stage that is not known.
    """
    if text in KNOWN:
        return KNOWN[text]
    name, separator, revision = text.partition("@")
    if separator and not _REVISION.fullmatch(revision):
        return None
    if name in KNOWN and separator:
        if name.startswith("ettin-") and _ETTIN_REVISION.fullmatch(revision):
            return HubSource(KNOWN[name].repo, revision)
        stages = [known.partition("@")[2] for known in KNOWN if known.startswith(f"{name}@")]
        also = " or a revision such as step599525" if name.startswith("ettin-") else ""
        raise CheckpointError(
            f"{text}: no checkpoint {revision!r} of {name} is known",
            f"give {', '.join(f'{name}@{stage}' for stage in stages) or name}{also}, or {KNOWN[name].repo}@<revision>",
        )
    if not _HUB_ID.fullmatch(name) or name.endswith((".pt", ".bin", ".safetensors")):
        return None
    return HubSource(name, revision or MAIN)


def name_nearest(text: str) -> str:
    """Return the short name most like ``text``, empty where none is."""
    return nearest_key(text, list(KNOWN)) or ""
