"""The train step's bench: settings are checked before anything starts, targets stand beside what was measured."""

import json

import pytest

from padless.bench.inference import DEFAULTS as INFERENCE
from padless.bench.inference import summarise as summarise_inference
from padless.bench.result import as_markdown
from padless.bench.sides import ENCODE, STEP, Run, Setting
from padless.bench.step import DEFAULTS, bench, parse, summarise
from padless.errors import ConfigError

PEERS = ("sparse", "dense")


def run(shape, case, seed, rate, job=STEP, peers=PEERS):
    found = Run(Setting(job, shape, case, seed, peers, batches=5), padding=1.9)
    rates = {"padless": rate, **dict.fromkeys(peers, 1000)}
    found.tokens = {who: [each] * 5 for who, each in rates.items()}
    found.cpu_s = {who: [1.0] * 5 for who in rates}
    found.peak_bytes = {who: [10**9, 2 * 10**9, 10**9, 10**9, 10**9] for who in rates}
    found.flops, found.ceilings = [6 * 10**11] * 5, [1_000.0, 900.0]
    return found


def test_every_shape_case_and_seed_is_a_setting():
    plan = parse(["cases=web,long", "shapes=nano", "seeds=0,7", "compile=true", "rows=8"], DEFAULTS, STEP, PEERS)
    assert [(each.shape, each.case, each.seed) for each in plan.settings] == [
        ("nano", "web", 0),
        ("nano", "web", 7),
        ("nano", "long", 0),
        ("nano", "long", 7),
    ]
    assert {(each.is_compiled, each.rows, each.batches, each.job) for each in plan.settings} == {(True, 8, 20, STEP)}


def test_the_defaults_are_twenty_batches_and_two_seeds():
    for defaults, job, peers in ((DEFAULTS, STEP, PEERS), (INFERENCE, ENCODE, ("padded",))):
        plan = parse([], defaults, job, peers)
        assert {each.batches for each in plan.settings} == {20}
        assert {each.seed for each in plan.settings} == {0, 1}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("cases=books", "cases=books is not one of web, long, full, short"),
        ("shapes=web,huge", "shapes=web is not a shape of the benches"),
        ("against=bert", "against=bert is not one of sparse, dense"),
        ("batches=0", "batches=0 is less than 1"),
        ("tokens=many", "tokens=many is not a whole number"),
        ("precision=fp8", "precision=fp8 is not one of bf16, fp32"),
        ("compile=yes", "compile=yes is not one of true, false"),
        ("speed=high", "'speed=high' is not one of cases"),
    ],
)
def test_a_wrong_setting_is_refused(argument, message):
    with pytest.raises(ConfigError, match=message):
        parse([argument], DEFAULTS, STEP, PEERS)


def test_targets_are_held_against_whole_runs():
    runs = [run("6x384", "web", seed, rate) for seed, rate in ((0, 4_000), (1, 6_000))]
    result = summarise([*runs, run("6x384", "long", 0, 3_600), run("6x384", "long", 1, 5_400)])
    by_name = {ratio.name: ratio for ratio in result.ratios}
    sparse = by_name["6x384 web: padless over sparse, whole run of a seed"]
    assert (sparse.values, sparse.target, sparse.holds) == ((4.0, 6.0), 4.5, True)
    assert by_name["6x384 web: padless over dense, whole run of a seed"].holds is False
    assert by_name["6x384 web: padless over sparse, by 5 batches"].target is None
    assert by_name["6x384 web: share of the core's matrix ceiling"].values == pytest.approx((0.6, 0.6))
    assert by_name["6x384 web: peak memory of padless, GB"].values == (2.0, 2.0)
    assert by_name["6x384 web: peak memory of padless, GB"].holds is False
    assert by_name["6x384 long: padless over sparse, whole run of a seed"].target == 3.0
    assert by_name["6x384: tokens/s at long over web"].values == pytest.approx((0.9, 0.9))
    assert by_name["6x384: tokens/s at long over web"].target == 0.9
    assert by_name["6x384: tokens/s at long over web, if both reached one share of the ceiling"].target is None


def test_a_reader_sees_what_the_ceiling_allows():
    runs = [run("6x384", "web", 0, 4_000), run("6x384", "long", 0, 3_600)]
    by_name = {ratio.name: ratio for ratio in summarise(runs).ratios}
    of_web = by_name["6x384 web: padless over sparse, if the whole ceiling were reached"]
    assert of_web.values == pytest.approx((4.0 / 0.6,))
    runs[1].flops = [2 * each for each in runs[0].flops]
    equal = "6x384: tokens/s at long over web, if both reached one share of the ceiling"
    assert {ratio.name: ratio.values for ratio in summarise(runs).ratios}[equal] == pytest.approx(
        (0.45,)
    )  # 4,000 and 3,600 tokens a batch, and twice the operations


def test_figures_are_a_value_a_batch_and_notes_say_what_is_padding():
    result = summarise([run("nano", "web", 0, 4_000), run("nano", "web", 1, 5_000)])
    rates = {each.who: each.values for each in result.figures if each.unit == "real tokens/s"}
    assert rates["padless"] == (4_000.0,) * 5 + (5_000.0,) * 5
    assert result.notes == [
        "nano web: a padded peer computes 1.90, 1.90 tokens for a real one; matrix ceiling 900 to 1,000 GFLOP/s."
    ]
    assert "| nano web: padless over sparse, whole run of a seed | 4 | 4.5 | 5 | >= 5 | **no** |" in as_markdown(result)


def test_inference_compares_with_the_padded_encoder():
    result = summarise_inference([run("6x384", "fixed-512", 0, 3_000, ENCODE, ("padded",))])
    assert next(ratio.name for ratio in result.ratios) == "6x384 fixed-512: padless over padded, whole run of a seed"
    assert {each.who for each in result.figures} == {"padless", "padded"}


@pytest.mark.slow
def test_a_small_run_leaves_table_figures_and_picture(tmp_path, capsys):
    settings = [
        "cases=short",
        "shapes=tiny",
        "against=dense",
        "batches=2",
        "warmup=1",
        "seeds=0",
        "tokens=512",
        "rows=8",
    ]
    bench([*settings, f"folder={tmp_path}"], as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads((tmp_path / "step.json").read_text())
    assert {each["who"] for each in plain["figures"]} == {"padless", "dense"}
    assert all(len(each["values"]) == 2 for each in plain["figures"] if each["unit"] == "real tokens/s")
    assert all(min(each["values"]) > 0 for each in [*plain["figures"], *plain["ratios"]])
    assert plain["facts"]["batches"] == "2 a seed"
    assert (tmp_path / "step.md").read_text().startswith("### step")
    assert (tmp_path / "step.png").read_bytes()[:4] == b"\x89PNG"
