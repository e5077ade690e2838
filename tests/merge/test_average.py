"""The mean is the weighted sum, rounded once, with the decoder tied to the embeddings."""

import pytest
import torch

from padless.errors import ConfigError
from padless.merge.average import WeightedMean, shares_of
from padless.model.tensor_shapes import DECODER, EMBEDDING


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        EMBEDDING: torch.randn(64, 8, generator=generator),
        "head.norm.weight": torch.randn(8, generator=generator),
    }
    return {**drawn, DECODER: drawn[EMBEDDING]}


def test_the_mean_is_the_weighted_sum_rounded_once():
    parts, shares = [weights(seed) for seed in range(3)], (0.5, 0.3, 0.2)
    mean = WeightedMean()
    for part, share in zip(parts, shares, strict=True):
        mean.add(part, share)
    merged = mean.result()
    for name, tensor in merged.items():
        exact = sum(share * part[name].double() for part, share in zip(parts, shares, strict=True))
        assert tensor.dtype == torch.float32
        off = (tensor.double() - exact).abs()  # rounding to fp32 is off by at most 2^-24 of the value
        assert bool((off <= exact.abs() * 2**-24 * (1 + 1e-6)).all()), name
    assert merged[DECODER].data_ptr() == merged[EMBEDDING].data_ptr()


def test_the_mean_of_equal_weights_is_those_weights():
    mean = WeightedMean()
    for share in shares_of(None, 3):
        mean.add(weights(1), share)
    assert all(torch.equal(tensor, weights(1)[name]) for name, tensor in mean.result().items())


def test_shares_are_divided_by_their_sum():
    assert shares_of(None, 4) == (0.25,) * 4
    assert shares_of([2.0, 1.0, 1.0], 3) == (0.5, 0.25, 0.25)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1.0], "weights has 1 values for 2 checkpoints"),
        ([1.0, 0.0], "weights has 0, and the weights of a mean are above 0"),
        ([2.0, -3.0], "weights has -3"),
        ([float("nan"), 1.0], "weights has nan"),
        ([float("inf"), 1.0], "weights has inf"),
    ],
)
def test_weights_that_make_no_mean_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        shares_of(given, 2)
