"""Spearman's rank correlation, against values worked out by hand."""

import pytest

from padless.design.agreement import rank_correlation


def test_the_same_order_is_1_and_the_opposite_is_minus_1():
    assert rank_correlation([1, 2, 30], [0.1, 0.5, 0.6]) == pytest.approx(1)
    assert rank_correlation([1, 2, 30], [3, 2, 1]) == pytest.approx(-1)


def test_one_swap_of_four_is_four_fifths():
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_equal_values_share_the_mean_rank():
    # ranks 1.5 1.5 3 against 1 2 3: covariance 1.5, spreads sqrt(1.5) and sqrt(2)
    assert rank_correlation([5, 5, 9], [1, 2, 3]) == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


def test_without_an_order_there_is_none():
    assert rank_correlation([1, 1], [1, 2]) is None
    assert rank_correlation([], []) is None
