"""``python data_prep/extend_tokenizer.py input=docs/ source=<weights> output=extended/``: new terms, new rows.

documents + tokenizer -> terms                       terms
tokenizer.json + terms -> one that knows them        vocabulary; every other text is tokenised as before, checked
weights + terms -> rows at the mean of the pieces    new_rows; biases as low as texts without the terms ask for
what the source says beside tokenizer.json           tokenizer_settings; kept
all of it -> a Hugging Face folder                   a source like any other: continue_on.py source=extended/
"""

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from torch import Tensor

from padless.config.schema import ModelConfig, RopeConfig
from padless.data.bundled import corpus_file
from padless.data.documents import Meter, list_input, read_documents
from padless.data.text_column import find_text_key
from padless.data.tokenise import load_tokenizer, tokenizer_facts
from padless.domain.new_rows import extended_shape, shift_for, with_new_rows
from padless.domain.plain_texts import log_sums, masked_batches, mean_loss, pieces_without
from padless.domain.source_facts import SourceFacts, read_source
from padless.domain.terms import Term, best_terms, count_words, listed_terms
from padless.domain.tokenizer_settings import keep_settings, read_settings
from padless.domain.vocabulary import check_extensible, extend_vocabulary
from padless.errors import ConfigError, DataError
from padless.export.card import ModelCard
from padless.export.source import load_source, resolve_source
from padless.export.writer import export_hf, new_folder, refuse_own_source, refuse_taken
from padless.model.masked_lm import MaskedLM
from padless.model.tensor_shapes import DECODER, EMBEDDING
from padless.train.source_schedule import schedule_of

MOST_PIECES = 256  # of each kind of text that the loss is compared on
MOST_LOGIT_DIFFERENCE = 1e-3
_SHOWN = 12


@dataclass(frozen=True)
class Extension:
    """What an extended source is, measured.

    Attributes:
        terms: new words, best first.
        vocab_size: entries of the new model, a multiple of 64.
        loss_before: nats a masked token of the source, on texts without the terms.
        loss_after: the same of the extended source.
        shift: what all new biases were lowered by, in nats.
        tokens_before: tokens of the documents with the source's tokenizer.
        tokens_after: the same with the extended one.
    """

    terms: tuple[Term, ...]
    vocab_size: int
    loss_before: float
    loss_after: float
    shift: float
    tokens_before: int
    tokens_after: int


def extend_tokenizer(
    input: str,
    source: str,
    output: str,
    *,
    terms: str = "500",
    text_key: str | None = None,
    tokenizer: str | None = None,
    most_added: float = 1e-4,
    console: Console | None = None,
) -> Extension:
    """Give a source tokens for the words of a domain, and write it as a Hugging Face folder to continue from.

    Args:
        input: documents of the domain: a file, a folder, a glob, or an hf:// address.
        source: a checkpoint, a Hugging Face folder, or a name of one.
        output: folder to write: weights, config and tokenizer.
        terms: how many words, which are then found in the documents; or a text file with one word a line.
        text_key: column or key of the text; left out, it is found and named.
        tokenizer: tokenizer.json of the source, where it is not with it.
        most_added: nats a masked token that the loss on texts without the terms may grow by.
        console: where lines go; left out, standard output.

    Raises:
        PadlessError: documents, terms, tokenizer or source cannot be used.
    """
    console = console or Console()
    if not 0 < most_added < math.inf:
        raise ConfigError(f"most_added={most_added:g} is not above 0", "1e-4 nats is next to nothing")
    words = _wanted_words(terms)
    refuse_taken(Path(output))
    resolved = resolve_source(source)
    refuse_own_source(Path(output), resolved.path)
    facts = read_source(resolved, Path(tokenizer) if tokenizer else None)
    tree = json.loads(facts.tokenizer.read_bytes())
    old_tokenizer = load_tokenizer(facts.tokenizer)
    check_extensible(tree, old_tokenizer)
    settings = read_settings(facts.tokenizer)
    loaded, _ = load_source(resolved)
    if text_key is None:
        text_key, line = find_text_key(input)
        console.print(line, highlight=False, soft_wrap=True)
    chosen = _choose(words, input, text_key, old_tokenizer, console)
    extended, ids = extend_vocabulary(tree, chosen)
    new_tokenizer = _loaded(extended)
    shape = extended_shape(loaded.model_config, ids)
    old = _Weights(loaded.model_config, loaded.rope, loaded.state_dict)
    pieces = [
        *pieces_without(_texts(input, text_key), new_tokenizer, ids, MOST_PIECES),
        *pieces_without(_texts(str(corpus_file("general")), "text"), new_tokenizer, ids, MOST_PIECES),
    ]
    special = tokenizer_facts(facts.tokenizer)
    batches = list(masked_batches(pieces, special.special_ids, special.all_special_ids, loaded.model_config.vocab_size))
    unshifted = _Weights(shape, loaded.rope, with_new_rows(loaded.state_dict, shape, chosen, ids, 0.0))
    shift = shift_for(*log_sums(unshifted.model(), batches, ids), most_added)
    weights = with_new_rows(loaded.state_dict, shape, chosen, ids, shift)
    loss_before = mean_loss(old.model(), batches)
    loss_after = mean_loss(_Weights(shape, loaded.rope, weights).model(), batches)
    folder = Path(output)
    schedule = schedule_of(resolved)
    card = _card(folder.name, shape, facts, loaded.tokens_seen, loss_after, source, schedule.lr_share)
    with new_folder(folder) as partial:
        _write(weights, shape, loaded.rope, extended, partial, card)
        keep_settings(settings, facts.tokenizer, extended, partial)
    before, after = _count(input, text_key, old_tokenizer), _count(input, text_key, new_tokenizer)
    extension = Extension(tuple(chosen), shape.vocab_size, loss_before, loss_after, shift, before, after)
    _show(extension, loaded.model_config.vocab_size, folder, console)
    return extension


@dataclass(frozen=True)
class _Weights:
    """Weights of one shape."""

    shape: ModelConfig
    rope: RopeConfig
    state_dict: dict[str, Tensor]

    def model(self) -> MaskedLM:
        """Return the model that has them, for evaluation."""
        model = MaskedLM(self.shape, self.rope)
        model.load_state_dict({DECODER: self.state_dict[EMBEDDING], **self.state_dict})
        return model.eval()


def _texts(source: str, text_key: str) -> Iterator[str]:
    for file in list_input(source):
        yield from (document.text for document in read_documents(file, text_key, Meter()))


def _wanted_words(terms: str) -> int | list[str]:
    """Return how many words are to be found, or those of a list."""
    if terms.lstrip("-").replace("_", "").isdigit():
        if int(terms) < 1:
            raise ConfigError(f"terms={terms} adds nothing", "give a number from 1 on, or a file with a word a line")
        return int(terms)
    path = Path(terms)
    if not path.is_file():
        raise DataError(f"terms={terms} is neither a number nor a file", "give e.g. terms=500, or terms=words.txt")
    try:
        words = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error.reason} at byte {error.start}", "save it as UTF-8") from None
    if not any(word.strip() for word in words):
        raise DataError(f"{path} has no word", "write one word a line, or give a number: terms=500")
    return words


def _choose(words: int | list[str], source: str, text_key: str, tokenizer: Tokenizer, console: Console) -> list[Term]:
    counts = count_words(_texts(source, text_key), tokenizer)
    if isinstance(words, int):
        return best_terms(counts, tokenizer, words)
    chosen, already = listed_terms(words, counts, tokenizer)
    if already:
        shown = ", ".join(already[:_SHOWN])
        console.print(f"{len(already)} of the terms are one token already: {shown}", highlight=False, soft_wrap=True)
    if not chosen:
        raise DataError("the list names no word that is not one token already", "keep the tokenizer as it is")
    return chosen


def _loaded(tree: dict) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(tree))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _count(source: str, text_key: str, tokenizer: Tokenizer) -> int:
    texts, tokens = _texts(source, text_key), 0
    while batch := list(islice(texts, 256)):
        tokens += sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
    return tokens


def _card(
    name: str,
    shape: ModelConfig,
    facts: SourceFacts,
    tokens_seen: int | None,
    loss: float,
    source: str,
    lr_share: float | None,
) -> ModelCard:
    return ModelCard(
        name=name,
        model=shape,
        phase_name="vocabulary extended",
        phase_rows=(),
        streams=(),
        clock_tokens=tokens_seen or 0,
        max_position_tokens=facts.max_seq_len,
        hardware="none: nothing was trained",
        train_hours=None,
        eval_loss=loss,
        eval_mask_rate=0.15,
        start=f"{source}, with new terms at the mean of their pieces",
        lr_share=lr_share,
        lr_peak=facts.lr_peak,
    )


def _write(
    weights: dict[str, Tensor], shape: ModelConfig, rope: RopeConfig, tree: dict, folder: Path, card: ModelCard
) -> None:
    """Write weights, config, card and tokenizer; this one goes to a folder first, where the export takes it from."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "tokenizer.json"
        path.write_text(json.dumps(tree, ensure_ascii=False, indent=2), encoding="utf-8")
        export_hf(weights, shape, rope, Path(made), folder, card, MOST_LOGIT_DIFFERENCE)


def _show(extension: Extension, old_vocab_size: int, folder: Path, console: Console) -> None:
    table = Table("term", "occurrences", "pieces before", title=f"{len(extension.terms)} terms, the best of them")
    for term in extension.terms[:_SHOWN]:
        table.add_row(term.token[1:], f"{term.count:,}", str(len(term.pieces)))
    console.print(table)
    saved = 1 - extension.tokens_after / max(1, extension.tokens_before)
    change = extension.loss_after - extension.loss_before
    for line in (
        f"vocabulary {old_vocab_size:,} -> {extension.vocab_size:,} entries; the documents are {saved:.1%} shorter "
        f"({extension.tokens_before:,} -> {extension.tokens_after:,} tokens)",
        f"loss on texts without the terms: {extension.loss_before:.5f} -> {extension.loss_after:.5f} nats a masked "
        f"token ({change:+.5f}; new biases {extension.shift:+.2f} beside the mean of their pieces)",
        f"wrote {folder}: continue with data_prep/continue_on.py source={folder}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
