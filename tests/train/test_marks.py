"""The best figure of a column has a star, and columns stay aligned."""

from padless.train.marks import mark_best


def test_the_best_have_a_star_and_what_is_unknown_is_empty():
    assert mark_best([2.0, None, 1.0, 1.0], ".1f") == ["2.0 ", "", "1.0*", "1.0*"]
    assert mark_best([0.25, 0.5], ".0%", highest=True) == ["25% ", "50%*"]
    assert mark_best([None], ".1f") == [""]
