"""Training of a tokenizer: byte-level BPE with BERT's special tokens, as ModernBERT has it.

Ids 0 to 4 are [UNK] [CLS] [SEP] [PAD] [MASK]; the vocabulary is padded to a multiple of 64 with [unused0], [unused1]
..., so that the embedding has a shape that GPUs like. The same documents give the same file, byte for byte.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from padless.data.documents import InputFile, Meter, list_input, read_documents
from padless.data.durable import write_durably
from padless.data.progress import Progress
from padless.data.tokenise import SPECIALS
from padless.errors import ConfigError, DataError

VOCAB_MULTIPLE = 64
LEAST_VOCAB = 320  # 256 bytes, 5 special tokens, rounded up


def train_tokenizer(
    input: str | Path,
    output: str | Path,
    *,
    vocab_size: int = 50_368,
    text_key: str = "text",
    min_frequency: int = 2,
    console: Console | None = None,
) -> Path:
    """Train a tokenizer on documents and return the path of its tokenizer.json.

    Args:
        input: file, folder, glob, `datasets` folder from save_to_disk, or hf:// address of documents.
        output: tokenizer.json to write, replaced if it exists.
        vocab_size: entries of the vocabulary, special tokens included; rounded up to a multiple of 64.
        text_key: key or column of the text.
        min_frequency: pairs seen less often are not merged.
        console: where progress goes; left out, standard output.

    Raises:
        ConfigError: the vocabulary is too small for bytes and special tokens.
        DataError: the documents cannot be used.
    """
    console = console or Console()
    files = list_input(input)
    with Progress(console, "reading for the tokenizer", sum(file.num_bytes for file in files)) as progress:
        tokenizer = build_tokenizer(_texts(files, text_key, progress), vocab_size, min_frequency)
    path = Path(output)
    write_durably(path, tokenizer.to_str(pretty=True).encode("utf-8"))
    unused = sum(token.startswith("[unused") for token in tokenizer.get_vocab())
    console.print(
        f"{path}: {tokenizer.get_vocab_size()} entries, {unused} of them unused", highlight=False, soft_wrap=True
    )
    return path


def _texts(files: Iterable[InputFile], text_key: str, progress: Progress) -> Iterator[str]:
    meter = Meter()
    for file in files:
        for document in read_documents(file, text_key, meter):
            progress.show(meter.read_bytes)
            yield document.text


def build_tokenizer(texts: Iterable[str], vocab_size: int, min_frequency: int = 2) -> Tokenizer:
    """Return a tokenizer trained on ``texts``; see :func:`train_tokenizer`.

    Raises:
        ConfigError: the vocabulary is too small.
        DataError: there is no text.
    """
    if vocab_size < LEAST_VOCAB:
        raise ConfigError(
            f"vocab_size={vocab_size} is too small", f"use at least {LEAST_VOCAB}: 256 bytes and the specials"
        )
    rounded = -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(token, special=True, lstrip=token == SPECIALS["mask"]) for token in SPECIALS.values()]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    counted = _Counted(texts)
    tokenizer.train_from_iterator(counted, trainer)
    if counted.characters == 0:
        raise DataError("no text to train a tokenizer on", "check the input and text_key")
    missing = rounded - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(f"[unused{number}]", special=True) for number in range(missing)])
    ids = {token: tokenizer.token_to_id(token) for token in (SPECIALS["cls"], SPECIALS["sep"])}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ids.items())
    )
    return tokenizer


class _Counted:
    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self.characters = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.characters += len(text)
            yield text
