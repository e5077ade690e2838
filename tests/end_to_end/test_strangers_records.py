"""Checkpoints and run folders of plain values that are not what they should be: two lines of error, no traceback."""

import json

import pytest
import torch
from faults import NEWEST, content_of, seal, small, small_run
from here import copy_of, refusal, run_here

from padless.cli import exit_code_of

pytestmark = [pytest.mark.slow, pytest.mark.composer]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The folder of a good run."""
    return small_run(tmp_path_factory)


def checkpoint_of(run_folder):
    return run_folder / "checkpoints" / "short" / f"{NEWEST}.pt"


def fact(name, value):
    return lambda content: content["meta"].update({name: value})


def without(name):
    return lambda content: content["meta"].pop(name)


def other_shape(content):
    content["model"] = {name: tensor[:1].clone() for name, tensor in content["model"].items()}
    content["optimizer"] = None


def whole_numbers(content):
    for state in content["optimizer"]["moments"].values():
        state.update({name: value.to(torch.int32) for name, value in state.items() if value is not None and value.ndim})


FACTS = {
    "no config": without("config"),
    "no data": without("data"),
    "no tokenizer": without("tokenizer_sha256"),
    "no time": without("train_seconds"),
    "config is a list": fact("config", [1]),
    "config is empty": fact("config", {}),
    "data is a list": fact("data", [1]),
    "tokenizer is a number": fact("tokenizer_sha256", 3),
    "left out is text": fact("skipped", "x"),
    "time is text": fact("train_seconds", "x"),
    "unknown phase": fact("phase", "nope"),
    "a tensor too many": lambda content: content["model"].update(surplus=torch.zeros(2)),
    "another shape": other_shape,
    "not a number": lambda content: next(iter(content["model"].values())).fill_(float("nan")),
    "no counters": lambda content: content["optimizer"]["group_steps"].clear(),
    "moments of whole numbers": whole_numbers,
}
UNUSED = {  # where a fact is not needed, the run may also go on
    "no data": ("start",),
    "data is a list": ("start",),
    "no tokenizer": ("resume",),
    "tokenizer is a number": ("resume",),
    "no time": ("start",),
    "time is text": ("start",),
    "left out is text": ("start",),
    "unknown phase": ("branch", "resume"),
    "no counters": ("start",),
    "moments of whole numbers": ("start",),
}


@pytest.mark.parametrize("place", ["start", "branch", "resume"])
@pytest.mark.parametrize("what", FACTS)
def test_23_a_checkpoint_whose_facts_or_weights_are_not_what_they_should_be(tmp_path, good, what, place):
    """Harmless as tensors and plain values; a stranger, or another version, wrote them. Two lines, no traceback."""
    copy_of(good, tmp_path / "smoke")
    evil = checkpoint_of(tmp_path / "smoke")
    content = content_of(evil)
    FACTS[what](content)
    torch.save(content, evil)
    seal(evil)
    if place == "resume":
        arguments = small(tmp_path, **{"run.stop_after_tokens": 13_000})
    else:
        keep = {"start": "[weights]", "branch": "[weights,optimizer,clock]"}[place]
        evil = copy_of(evil, tmp_path / "source.pt")
        source = {"start": "source", "start.source": evil, "start.keep": keep}
        arguments = small(tmp_path / "new", **source, **{"run.stop_after_tokens": 13_000 if place == "branch" else 500})
    if place in UNUSED.get(what, ()):
        assert exit_code_of(lambda: run_here(arguments)) in (0, 2)
    else:
        assert str(evil) in refusal(arguments)


def line(**facts):
    return json.dumps(facts).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", b"\xff\xfe\x80"),
        ("metrics.jsonl", b"[" * 200_000 + b"\n"),
        ("lineage.jsonl", b"\xff\xfe\x80\n"),
        ("lineage.jsonl", b"[" * 200_000 + b"\n"),
        ("lineage.jsonl", line(event="start", world_size="many")),
        ("status.json", b"[" * 200_000),
        ("skipped.json", b"\xff\xfe\x80"),
        ("skipped.json", b"[" * 200_000),
        ("skipped.json", b'[["short", 0, 1000000000000000000000000]]'),
        ("skipped.json", b'[["short", -4, -7]]'),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:8].hex(),
)
def test_24_text_in_a_run_folder_that_is_not_what_it_should_be(tmp_path, good, name, content, monkeypatch):
    """The record of the past may be damaged and the run still goes on; what is left out of the data may not."""
    copy_of(good, tmp_path / "smoke")
    (tmp_path / "smoke" / name).write_bytes(content)
    arguments = small(tmp_path, **{"run.stop_after_tokens": 13_000})
    if name == "skipped.json":
        assert f"{tmp_path / 'smoke' / name} is not a list of blocks left out" in refusal(arguments)
    else:
        assert "resumed phase short at 12.29K tokens" in run_here(arguments)
