"""Where events lie on the clock, and which occurrence of a start is meant."""

from padless.bench.moments import Moments


def test_moments_of_the_smoke_recipe(moments):
    clocks = moments.clocks
    assert clocks["step"][:9] == (512, 1024, 1536, 2048, 2560, 3072, 3584, 4096, 5120)
    assert clocks["handover"] == (50_176, 75_776)
    assert clocks["export"] == (98_304,)
    assert clocks["save_inside"] == clocks["save_after"]
    assert clocks["save_inside"][:2] == (3072, 6144)
    assert {50_176, 75_776, 98_304} <= set(clocks["save_inside"])
    assert len(clocks["pass_border"]) >= 4
    assert all(clock % 256 == 0 for clock in clocks["pass_border"])
    assert moments.end_tokens == 98_304


def moments_with(**clocks):
    return Moments(clocks, ramp_end_tokens=0, end_tokens=100, evaluation_blocks=5)


def test_an_event_is_counted_from_the_clock_a_start_resumes_at():
    found = moments_with(step=(10, 20, 30, 40))
    assert found.number_in_start("step", 10, 0, 0, 1) == 1
    assert found.number_in_start("step", 40, 0, 0, 1) == 4
    assert found.number_in_start("step", 40, 20, 0, 1) == 2
    assert found.number_in_start("step", 40, 40, 0, 1) == 1, "it has passed: the next one"


def test_evaluations_are_counted_by_the_blocks_of_a_rank():
    found = moments_with(evaluation=(30, 60))
    assert found.number_in_start("evaluation", 30, 0, 0, 1) == 5 + 1, "untrained weights are evaluated first"
    assert found.number_in_start("evaluation", 60, 10, 0, 2) == 3 + 1
    assert found.number_in_start("evaluation", 60, 10, 1, 2) == 2 + 1
    assert found.number_in_start("evaluation", 60, 30, 1, 2) == 1


def test_deletions_and_the_export_are_always_the_next_ones():
    found = moments_with(retention=(10, 20), export=(100,))
    assert found.number_in_start("retention", 20, 0, 0, 1) == 1
    assert found.number_in_start("export", 100, 0, 0, 1) == 1
