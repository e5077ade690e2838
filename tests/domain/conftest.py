"""A small encoder with a real tokenizer of general text, and medical documents that it cuts into pieces."""

import csv
from dataclasses import replace
from itertools import islice

import pytest
import torch

from padless.config.schema import RopeConfig
from padless.data.bundled import corpus_file
from padless.data.documents import Meter, list_input, read_documents
from padless.data.tokenizer_training import build_tokenizer
from padless.export.card import ModelCard
from padless.export.writer import export_hf
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from small_shape import small_shape

MODEL = small_shape(num_layers=2, hidden_size=64, intermediate_size=96, vocab_size=1024, global_every_layers=2)
ROPE = RopeConfig(160_000.0, 10_000.0)


def bundled_texts(stream, count):
    (file,) = list_input(corpus_file(stream))
    return [document.text for document in islice(read_documents(file, "text", Meter()), count)]


@pytest.fixture(scope="session")
def medical():
    """The first chapters of a manual of surgery."""
    return bundled_texts("science", 40)


@pytest.fixture(scope="session")
def notes(tmp_path_factory, medical):
    """The same as a CSV file whose text column is called ``note``."""
    path = tmp_path_factory.mktemp("notes") / "notes.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["number", "note"], *([str(n), text] for n, text in enumerate(medical))])
    return path


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    built = build_tokenizer(bundled_texts("general", 10), MODEL.vocab_size)
    (folder / "tokenizer.json").write_text(built.to_str(), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def weights():
    """Random weights whose embeddings and decoder bias are as uneven as trained ones."""
    model = MaskedLM(MODEL, ROPE)
    initialise(model, 17)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.decoder.bias.copy_(torch.randn(MODEL.vocab_size, generator=generator))
    return model.state_dict()


@pytest.fixture(scope="session")
def source(tmp_path_factory, tokenizer_folder, weights):
    """A Hugging Face folder as padless exports it."""
    out = tmp_path_factory.mktemp("source") / "hf"
    card = ModelCard("small", MODEL, "context", (), (), 5_000, 256, "none", None, None, 0.15, "random")
    card = replace(card, lr_share=1.0, lr_peak=7e-4)
    export_hf(weights, MODEL, ROPE, tokenizer_folder, out, card, 1e-3)
    return out
