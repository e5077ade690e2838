"""``padless bench prepare``: that it compares every document's tokens, and runs to its end."""

import json

import pytest

from padless.bench import prepare
from padless.bench.prepare import BARE, PADLESS, Job, bench, compare, measure_bare, measure_padless, run_prepare
from padless.bench.texts import trained_tokenizer
from padless.errors import TrainingError

TEXTS = ["A short text.", "Another one, with more words in it than the first.", "", "Unicode: \u0065\u0301 [SEP]"] * 3


@pytest.fixture
def job(tmp_path) -> Job:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return Job(str(source), str(trained_tokenizer(tmp_path, 512)), "text", (16,))


def settings(job: Job) -> dict[str, str]:
    return {"source": job.source, "tokenizer": job.tokenizer, "text_key": job.text_key}


def test_both_sides_have_the_same_tokens_and_each_document_is_compared(job, tmp_path):
    output = str(tmp_path / "prepared")
    ours = measure_padless(**settings(job), output=output, caps=[16])
    assert ours["tokens"] == measure_bare(**settings(job))["tokens"]
    assert compare(**settings(job), output=output) == {"documents": 9, "differing": 0, "first": -1}


def test_a_document_with_other_tokens_is_found(job, tmp_path):
    output = tmp_path / "prepared"
    measure_padless(**settings(job), output=str(output), caps=[16])
    path = output / "tokens" / "00000.tokens"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert compare(**settings(job), output=str(output)) == {"documents": 9, "differing": 1, "first": 8}


def test_a_bench_with_other_tokens_fails(job, tmp_path, monkeypatch):
    found = {"documents": 9, "differing": 2, "first": 4}
    measured = {"cpu_s": 1.0, "tokens": 9, "blocks": 1, "vocab_size": 512, "bytes": 100}
    monkeypatch.setattr(prepare, "measure_apart", lambda name, _, **__: found if "compare" in name else measured)
    with pytest.raises(TrainingError, match=r"2 of 9 documents have other tokens than tokenizers gives \(first: num"):
        run_prepare(tmp_path, job, 1, lambda _: None)


@pytest.mark.slow
def test_bench_writes_figures_of_both_sides(tmp_path, capsys):
    arguments = ["megabytes=1", "vocab_size=512", "max_seq_len=512", "repeats=1", f"folder={tmp_path}"]
    bench(arguments, as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads((tmp_path / "prepare.json").read_text())
    assert (tmp_path / "prepare.png").stat().st_size > 0
    assert {figure["who"] for figure in plain["figures"]} == {PADLESS, BARE}
    faster, differing = plain["ratios"]
    assert faster["target"] == 10.0
    assert differing["values"] == [0.0]
    assert plain["facts"]["documents"] > 10
