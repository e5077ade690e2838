"""Do other libraries compute from an exported folder what padless computes? Run in two environments:

    python tests/consumers/consumers.py record <folder> <answers.safetensors>      where padless is
    python tests/consumers/consumers.py compare <folder> <answers.safetensors>     where transformers, sentence-
                                                       transformers or pylate of some version is; padless need not be

``record`` writes ragged inputs and what padless's own encoder gives for them, unpadded. ``compare`` gives the same
tokens to every library that is installed, padded as its users would, and prints the largest differences. Its exit code
is 1 if any is over the limit, or none of the libraries is there.
"""

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

LIMIT = 1e-4
_REPEATED = (
    ("It was a [MASK] night, and nobody knew what the morning would bring.", 4),
    ("def add(first, second): return first + second # the sum of two numbers", 12),
)
TEXTS = (  # without spaces at their ends, which sentence-transformers strips
    "a",
    "The library opens at nine in the morning and closes late.",
    *("\n".join([text] * count) for text, count in _REPEATED),
)


def record(folder, answers):
    """Write tokens, hidden states, logits and mean-pooled embeddings of each text, by padless alone."""
    import itertools

    from tokenizers import Tokenizer

    from padless.data.batch import PackedBatch
    from padless.export.importer import load_hf_folder
    from padless.model.masked_lm import MaskedLM
    from padless.model.tensor_shapes import DECODER, EMBEDDING

    loaded = load_hf_folder(folder)
    weights = {DECODER: loaded.state_dict[EMBEDDING], **loaded.state_dict}
    network = MaskedLM(loaded.model_config, loaded.rope, backend="sdpa").eval()
    network.load_state_dict(weights)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    longest = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    tokenizer.enable_truncation(longest)
    ids = [torch.tensor(tokenizer.encode(text).ids) for text in TEXTS]
    lengths = [len(each) for each in ids]
    nothing = torch.empty(0, dtype=torch.int64)
    borders = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    packed = PackedBatch(torch.cat(ids), borders, nothing, nothing, tuple(lengths), max(lengths), sum(lengths), 0)
    with torch.no_grad():
        hidden = network.model(packed)
        logits = network.logits(packed)
    found = {}
    for number, states in enumerate(hidden.split(lengths)):
        found[f"ids.{number}"] = ids[number]
        found[f"hidden.{number}"] = states.contiguous()
        found[f"embedding.{number}"] = states.mean(0)
    for number, each in enumerate(logits.split(lengths)):
        found[f"logits.{number}"] = each.contiguous()
    thetas = {"global": loaded.rope.global_theta, "local": loaded.rope.local_theta}
    save_file(found, answers, metadata={"thetas": json.dumps(thetas)})
    print(f"recorded {len(ids)} texts of {lengths} tokens, thetas {thetas}")


def padded(ids, pad):
    """Return a padded batch and its mask."""
    batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad)
    return batch, torch.arange(batch.shape[1])[None] < torch.tensor([len(each) for each in ids])[:, None]


def compare_transformers(folder, answers, numbers, thetas):
    """Return differences of hidden states and logits, and of the tokens that its tokenizer makes."""
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [answers[f"ids.{number}"] for number in numbers]
    made = [torch.tensor(tokenizer(text, truncation=True).input_ids) for text in TEXTS]
    assert all(torch.equal(own, theirs) for own, theirs in zip(ids, made, strict=True)), "other tokens"
    batch, present = padded(ids, tokenizer.pad_token_id)
    encoder, network = (kind.from_pretrained(folder).float().eval() for kind in (AutoModel, AutoModelForMaskedLM))
    for name in ("cls", "sep", "pad", "mask"):
        assert getattr(network.config, f"{name}_token_id") == getattr(tokenizer, f"{name}_token_id"), name
    assert thetas_of(network.config) == thetas, thetas_of(network.config)
    with torch.no_grad():
        hidden = encoder(input_ids=batch, attention_mask=present.long()).last_hidden_state
        logits = network(input_ids=batch, attention_mask=present.long()).logits
    lengths = [len(each) for each in ids]
    return {
        "hidden states": largest(answers, "hidden", [hidden[row, :length] for row, length in enumerate(lengths)]),
        "logits": largest(answers, "logits", [logits[row, :length] for row, length in enumerate(lengths)]),
    }


def thetas_of(config):
    """Return the RoPE bases of a config in either dialect."""
    nested = getattr(config, "rope_parameters", None)
    if isinstance(nested, dict) and "full_attention" in nested:
        return {
            "global": nested["full_attention"]["rope_theta"],
            "local": nested["sliding_attention"]["rope_theta"],
        }
    return {"global": config.global_rope_theta, "local": config.local_rope_theta}


def compare_sentence_transformers(folder, answers, numbers, thetas):
    """Return the difference of mean-pooled embeddings, the library's default for a plain encoder."""
    from sentence_transformers import SentenceTransformer

    embedder = SentenceTransformer(str(folder), device="cpu")
    found = embedder.encode(list(TEXTS), convert_to_tensor=True)
    return {"mean-pooled embeddings": largest(answers, "embedding", list(found))}


def compare_pylate(folder, answers, numbers, thetas):
    """Return the difference of hidden states before the projection that pylate adds and trains."""
    from pylate import models

    colbert = models.ColBERT(str(folder), device="cpu")
    ids = [answers[f"ids.{number}"] for number in numbers]
    batch, present = padded(ids, colbert.tokenizer.pad_token_id)
    assert thetas_of(colbert[0].auto_model.config) == thetas
    with torch.no_grad():
        found = colbert[0]({"input_ids": batch, "attention_mask": present.long()})["token_embeddings"]
    embeddings = colbert.encode(list(TEXTS), is_query=False)
    assert all(torch.isfinite(torch.as_tensor(each)).all() for each in embeddings), "embeddings are not finite"
    own = [found[row, : len(each)] for row, each in enumerate(ids)]
    return {"hidden states before the projection": largest(answers, "hidden", own)}


def largest(answers, kind, found):
    """Return the largest difference over all texts."""
    own = [answers[f"{kind}.{number}"] for number in range(len(found))]
    return max((one - other.cpu().float()).abs().max().item() for one, other in zip(own, found, strict=True))


LIBRARIES = {
    "transformers": compare_transformers,
    "sentence_transformers": compare_sentence_transformers,
    "pylate": compare_pylate,
}


def compare(folder, answers_file):
    """Print the differences of every library that is here; return whether all are within the limit."""
    answers = load_file(answers_file)
    with safe_open(answers_file, framework="pt") as opened:
        thetas = json.loads(opened.metadata()["thetas"])
    numbers = range(len(TEXTS))
    is_equal, seen = True, 0
    for name, library in LIBRARIES.items():
        try:
            version = importlib.import_module(name).__version__
        except ImportError as error:
            print(f"{name}: not here ({error})")
            continue
        except AttributeError:
            version = importlib.metadata.version(name.replace("_", "-"))
        for what, difference in library(folder, answers, numbers, thetas).items():
            seen += 1
            is_equal &= difference < LIMIT
            print(f"{name} {version}: {what} differ by {difference:.1e} at most")
    return is_equal and seen > 0


def main(arguments):
    """Record or compare."""
    action, folder, answers = arguments
    if action == "record":
        record(Path(folder), Path(answers))
        return 0
    return 0 if compare(Path(folder), Path(answers)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
