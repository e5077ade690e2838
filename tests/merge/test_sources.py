"""Which checkpoints an argument names, and which of them belong together."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from padless.errors import CheckpointError, ConfigError, ModelError
from padless.merge.sources import (
    find_candidates,
    find_checkpoint,
    pick_best,
    read_source,
    recorded_losses,
    refuse_misfit,
    refuse_too_few,
)


def test_a_run_names_its_newest_whole_checkpoint(save, tmp_path):
    older, newer = save(1, clock=1_000), save(2, clock=2_000)
    assert find_checkpoint(str(older)) == older
    assert find_checkpoint(str(tmp_path / "run")) == find_checkpoint(f"{tmp_path / 'run'}@latest") == newer
    newer.write_bytes(newer.read_bytes()[:-1])
    assert find_checkpoint(str(tmp_path / "run")) == older


def test_what_is_no_checkpoint_is_refused(tmp_path):
    for name in ("none.pt", str(tmp_path)):
        with pytest.raises(CheckpointError, match="neither a checkpoint file nor the folder of a run"):
            find_checkpoint(name)


def test_the_best_are_picked_from_the_last_phase(save, tmp_path):
    save(1, phase="context", clock=500)  # of another phase
    paths = [save(2, clock=clock) for clock in (1_000, 2_000, 3_000)]
    assert find_candidates(str(tmp_path / "run"), 2) == paths
    with pytest.raises(CheckpointError, match=r"best=3: .*run has 2 whole checkpoint\(s\) in phase 'anneal', its last"):
        find_candidates(str(tmp_path / "run"), 3)
    with pytest.raises(CheckpointError, match=r"has 0 whole checkpoint\(s\) in any phase"):
        find_candidates(str(tmp_path / "nowhere"), 1)


def test_the_lowest_losses_come_first_the_later_of_two_alike_then_the_last():
    a, b, c, last = (Path(name) for name in "abcd")
    assert pick_best({a: 4.0, b: 3.5, c: 3.5, last: 9.0}, 2) == [c, b, last]


def test_a_recorded_loss_counts_only_where_it_is_the_checkpoints_own(save, tmp_path):
    """Saved every 1_000, validated every 2_000: the second checkpoint records the loss of the first."""
    stale = [save(1, clock=clock, eval_loss=loss) for clock, loss in ((2_000, 3.0), (3_000, 3.0), (4_000, 2.9))]
    lines = [{"tokens": clock, "phase": "anneal", "eval_loss": loss} for clock, loss in ((2_000, 3.0), (4_000, 2.9))]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert recorded_losses([stale[0], stale[2]])[stale[0]] == 3.0
    with pytest.raises(CheckpointError, match=r"anneal-3_000tok\.pt was not validated where it was saved") as caught:
        recorded_losses(stale)
    assert "leave evaluate=false out" in caught.value.remedy


def test_one_checkpoint_and_one_twice_are_no_merge(save, tmp_path):
    path = save(1)
    with pytest.raises(ConfigError, match=r"1 checkpoint\(s\) given .* a merge needs two or more"):
        refuse_too_few([path])
    with pytest.raises(ConfigError, match="are the same checkpoint"):
        refuse_too_few([path, path.parent / ".." / "anneal" / path.name])
    refuse_too_few([path, save(1, run="other")])


def test_what_gives_weights_another_meaning_is_named_with_both_values(save, config):
    def differing(message, **changes):
        with pytest.raises(ModelError, match=message):
            refuse_misfit(first, read_source(save(2, run="other", **changes))[0])

    first = read_source(save(1))[0]
    differing(
        "model.num_heads differs: 2 in .* 4 in ", config=replace(config, model=replace(config.model, num_heads=4))
    )
    wider = replace(config, model=replace(config.model, intermediate_size=96))
    differing("model.intermediate_size differs: 64 in .* 96 in ", config=wider)
    theta = config.phases["anneal"].rope.global_theta
    differing(f"rope.global_theta differs: {theta:.1f} in .* 10000.0 in ", phase="short")
    shorter = replace(config.phases["anneal"], max_seq_len=128)
    differing("max_seq_len differs: 256 .* 128", config=replace(config, phases={**config.phases, "anneal": shorter}))
    differing("tokenizer differs: 000000000000 in .* 111111111111 in ", tokenizer_sha256="1" * 64)


def test_dropout_and_another_phase_of_the_same_length_do_not_matter(save, config):
    other = replace(config, model=replace(config.model, mlp_dropout=0.1))
    refuse_misfit(read_source(save(1))[0], read_source(save(2, run="other", phase="context", config=other))[0])
