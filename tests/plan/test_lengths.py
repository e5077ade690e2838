"""Segments that stand for all: as the preparation cuts, and with the attention of the real ones."""

import numpy as np
import pytest

from padless.data.packing import cut
from padless.plan.calibration import preset
from padless.plan.flops import attention_flops
from padless.plan.lengths import assume_segments, cut_documents, mix_segments, segments_of_histogram


@pytest.mark.parametrize("cap", [16, 64, 1024])
def test_documents_are_cut_as_the_preparation_cuts_them(cap):
    contents = [1, cap - 3, cap - 2, cap - 1, cap, 2 * cap - 4, 2 * cap, 5 * cap + 1]
    segments = cut_documents([(content, 1.0) for content in contents], cap, "here")
    lengths, counts = np.unique(cut(np.array(contents), cap).lengths_N, return_counts=True)
    assert segments.lengths == tuple(lengths.tolist())
    assert segments.weights == tuple(counts.tolist())


@pytest.mark.parametrize("cap", [512, 1024, 8192])
def test_a_histogram_gives_the_attention_of_the_documents_within_5_percent(cap):
    contents = np.exp(np.random.default_rng(0).normal(6.5, 1.0, 20_000)).astype(np.int64) + 1
    bounds, counts = np.unique(2 ** np.ceil(np.log2(contents)).astype(np.int64), return_counts=True)
    histogram = {str(bound): int(count) for bound, count in zip(bounds, counts, strict=True)}
    # 5 %: bins are a factor of 2 wide, and attention grows with the square of the length.
    segments = segments_of_histogram(histogram, int(contents.max()), int(contents.sum()), cap, "here")
    base, lengths = preset("base"), cut(contents, cap).lengths_N.tolist()
    exact = attention_flops(base, lengths) / sum(lengths)
    assert segments.attention_flops_a_token(base) == pytest.approx(exact, rel=0.05)


def test_an_assumption_is_that_of_the_benches():
    from padless.bench.lengths import CASES, segment_lengths

    for name, cap in (("web", 1024), ("long", 8192)):
        drawn_N = segment_lengths(CASES[name], 20_000_000, np.random.default_rng(0))
        assert assume_segments(cap).mean_tokens == pytest.approx(drawn_N.mean(), rel=0.02)


def test_full_rows_are_full():
    assert assume_segments(512, "full").lengths == (512,)
    assert "full rows" in assume_segments(512, "full").says


def test_streams_are_mixed_by_tokens():
    short, long = assume_segments(64, "full"), assume_segments(1024, "full")
    mixed = mix_segments([(short, 0.25), (long, 0.75)], "both")
    tokens = [length * weight for length, weight in zip(mixed.lengths, mixed.weights, strict=True)]
    assert tokens == pytest.approx([0.25, 0.75])
