"""What a run says about each side: rates of real tokens, ratios of equal work, share of the ceiling next to it."""

import pytest

from padless.bench.shapes import shape_of
from padless.bench.sides import ENCODE, STEP, Run, Setting, measure
from padless.plan.flops import forward_flops, step_flops


def run(batches=7):
    found = Run(Setting(STEP, "tiny", "web", 0, ("sparse",), batches=batches), padding=1.9)
    found.tokens = {"padless": [100] * batches, "sparse": [50, 150] * (batches // 2) + [100] * (batches % 2)}
    found.cpu_s = {"padless": [0.5] * batches, "sparse": [1.0] * batches}
    found.peak_bytes = {"padless": [10] * batches, "sparse": [20] * batches}
    found.flops = [10**9] * batches
    found.ceilings = [4.0, 8.0, 10.0]
    return found


def test_rates_are_tokens_over_processor_seconds():
    assert run().rate("padless") == 200
    assert run().rates("sparse")[:2] == [50, 150]
    assert run().rate("sparse") == 100


def test_a_ratio_over_a_run_is_of_all_tokens_and_all_seconds():
    assert run().ratio("sparse") == 2
    assert [part.indices(7)[:2] for part in run().groups()] == [(0, 5), (5, 7)]
    assert run().ratio("sparse", slice(0, 1)) == 4


def test_a_groups_ceiling_is_the_better_one_beside_it():
    assert run().shares() == pytest.approx([2 / 8, 2 / 10])


def test_all_processes_are_told_the_same_workload():
    setting = Setting(STEP, "tiny", "web", 5, ("sparse",), batches=4, warmup=2, tokens=1024)
    ours, theirs = setting.job_of("padless"), setting.job_of("sparse")
    assert {**ours, "who": "sparse"} == theirs
    assert (ours["batches"], ours["seed"]) == (6, 5)
    assert len(setting.workload().packed) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("job", "peer"), [(STEP, "sparse"), (ENCODE, "padded")])
def test_real_processes_do_every_batch(tmp_path, job, peer):
    said = []
    setting = Setting(job, "tiny", "short", 0, (peer,), batches=2, warmup=1, tokens=512, rows=4, precision="fp32")
    found = measure(setting, tmp_path, said.append)
    workload = setting.workload()
    real = {sum(workload.lengths(block)) for block in workload.packed[1:]}
    assert set(found.tokens["padless"]) == real
    assert sum(found.tokens[peer]) > 0
    assert all(len(found.cpu_s[who]) == 2 and min(found.cpu_s[who]) > 0 for who in ("padless", peer))
    assert len(found.ceilings) == 2
    assert len(said) == 2
    lengths, masked = workload.lengths(workload.packed[1]), workload.masked(workload.packed[1])
    model = shape_of("tiny")
    assert found.flops[0] == (step_flops(model, lengths, masked) if job == STEP else forward_flops(model, lengths))
