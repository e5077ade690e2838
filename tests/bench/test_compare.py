"""A run is another run as soon as one bit differs."""

import json

import pytest
import torch

from padless.bench.compare import differences, figure_differences, tree_differences
from padless.checkpoint import Checkpoint, checkpoint_path, save_checkpoint

LINE = {"tokens": 512, "step": 1, "phase": "short", "loss": 7.25, "grad_norm": 1.5, "lr": 1e-3, "batch_blocks": 2,
        "mask_rate": 0.3, "blocks": "ab", "real_tokens": 500, "seconds": 0.1}  # fmt: skip


def next_bit(value: float) -> float:
    return torch.nextafter(torch.tensor(value, dtype=torch.float64), torch.tensor(100.0, dtype=torch.float64)).item()


def test_times_on_the_wall_do_not_matter():
    assert figure_differences([LINE], [{**LINE, "seconds": 9.0}]) == []


@pytest.mark.parametrize(
    "key", ["tokens", "step", "loss", "grad_norm", "lr", "batch_blocks", "mask_rate", "real_tokens"]
)
def test_one_bit_of_a_figure_is_a_difference(key):
    value = LINE[key]
    other = {**LINE, key: value + 1 if isinstance(value, int) else next_bit(value)}
    assert f"{key} is " in figure_differences([LINE], [other])[0]


def test_other_blocks_and_other_evaluations_are_differences():
    assert "blocks is 'cd', expected 'ab'" in figure_differences([LINE], [{**LINE, "blocks": "cd"}])[0]
    line = {"tokens": 0, "step": 0, "phase": "short", "eval_loss": 7.5}
    assert "eval_loss is 7.25, expected 7.5" in figure_differences([line], [{**line, "eval_loss": 7.25}])[0]


def test_missing_repeated_and_swapped_lines_are_differences():
    second = {**LINE, "step": 2, "tokens": 1024}
    assert figure_differences([LINE, second], [LINE]) == ["1 lines of metrics, expected 2"]
    assert figure_differences([LINE], [LINE, LINE]) == ["2 lines of metrics, expected 1"]
    assert "tokens is 1024, expected 512" in figure_differences([LINE, second], [second, LINE])[0]


def test_trees_are_compared_to_the_last_bit():
    tree = {"a": torch.tensor([1.0, float("nan")]), "b": {"c": 3, "d": torch.tensor(2)}}
    assert tree_differences(tree, {**tree, "a": tree["a"].clone()}, "x") == []
    changed = tree["a"].clone()
    changed[0] = torch.nextafter(changed[0], torch.tensor(2.0))
    assert tree_differences(tree, {**tree, "a": changed}, "x") == ["x/a: bits differ"]
    assert tree_differences({"a": torch.tensor(0.0)}, {"a": torch.tensor(-0.0)}, "x") == ["x/a: bits differ"]
    assert tree_differences({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.int32)}, "x") == [
        "x/a: bits differ"
    ]
    assert tree_differences(tree, {**tree, "b": {"c": 4, "d": torch.tensor(2)}}, "x") == ["x/b/c: 4, expected 3"]
    assert tree_differences(tree, {"a": tree["a"]}, "x") == ["x: other keys, ['b']"]
    assert tree_differences({"a": 1}, {"a": 1.0}, "x") == ["x/a: 1.0, expected 1"]


def run_folder(folder, weight=1.0, moment=0.5, clock=512, lines=(LINE,)):
    model = {"decoder.bias": torch.tensor([weight])}
    optimizer = {
        "moments": {"decoder.bias": {"exp_avg_sq": torch.tensor([moment])}},
        "group_steps": {"0": torch.tensor(1)},
    }
    meta = {"phase": "short", "clock_tokens": clock, "step": 1, "config": {}, "data": {}}
    save_checkpoint(checkpoint_path(folder, "short", clock), Checkpoint(model, optimizer, meta), "0" * 16)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_run_folders_are_compared_by_figures_and_by_the_last_checkpoint(tmp_path):
    one = run_folder(tmp_path / "one")
    assert differences(one, run_folder(tmp_path / "same")) == []
    assert differences(one, run_folder(tmp_path / "weight", weight=1.0000001)) == [
        "short-512tok.pt/model/decoder.bias: bits differ"
    ]
    assert differences(one, run_folder(tmp_path / "moment", moment=0.5000001)) == [
        "short-512tok.pt/optimizer/moments/decoder.bias/exp_avg_sq: bits differ"
    ]
    assert differences(one, run_folder(tmp_path / "clock", clock=1024)) == [
        "the last checkpoint is at 1_024 tokens, expected 512"
    ]
    assert differences(one, tmp_path / "nothing") == [
        "0 lines of metrics, expected 1",
        "the last checkpoint is at 0 tokens, expected 512",
    ]
