"""What a logit costs in memory is the growth with batch and vocabulary together."""

import pytest

from padless.bench.memory import bench, bytes_a_logit, measure_peak, summarise
from padless.bench.sides import STEP, Setting
from padless.errors import ConfigError


def peaks():
    """Peaks of 1 GB, 10 KB a token and 1 KB a vocabulary entry; the peer keeps 2 bytes for each token and entry."""
    found = {}
    for who, logit in (("padless", 0.0), ("sparse", 2.0)):
        for tokens in (4_096, 8_192):
            for vocab_size in (8_192, 16_384):
                base = 1e9 + 1e4 * tokens + 1e3 * vocab_size
                found[who, tokens, vocab_size] = (base + logit * tokens * vocab_size,) * 2
    return found


def test_only_growth_with_both_counts():
    assert bytes_a_logit(peaks(), "padless") == pytest.approx((0, 0), abs=1e-6)
    assert bytes_a_logit(peaks(), "sparse") == pytest.approx((2, 2))


def test_our_logits_may_cost_nothing_and_theirs_are_shown():
    result = summarise(peaks(), {"shape": "nano"})
    ours, theirs = result.ratios
    assert (ours.name, ours.holds) == ("padless: bytes a token and vocabulary entry", True)
    assert theirs.target is None
    assert [each.who for each in result.figures] == ["padless", "sparse"] * 4
    assert result.figures[0].case == "4,096 tokens, vocabulary 8,192"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("tokens=4096", "tokens=4096 is not two or more ascending numbers"),
        ("vocabularies=8192,64", "vocabularies=8192,64 is not two or more ascending numbers"),
        ("against=bert", "against=bert is not one of sparse, dense"),
        ("shape=huge", "shapes=huge is not a shape"),
    ],
)
def test_a_wrong_setting_is_refused(argument, message):
    with pytest.raises(ConfigError, match=message):
        bench([argument], as_json=False)


@pytest.mark.slow
def test_a_peak_is_that_of_a_process(tmp_path):
    said = []
    setting = Setting(STEP, "tiny@512", "short", 0, (), batches=1, warmup=1, tokens=256)
    peak = measure_peak(setting, "padless", tmp_path, said.append)
    assert 5e7 < peak < 5e9
    assert said == [f"padless tiny@512 256 tokens a batch, seed 0: {peak / 1e9:.2f} GB"]
