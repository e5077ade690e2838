import shutil

import pytest

from padless.checkpoint import Checkpoint, expected_bytes, refuse_too_little_space, save_checkpoint
from padless.config.compose import compose
from padless.config.load import to_plain
from padless.errors import CheckpointError
from padless.model.count import count_parameters
from padless.model.masked_lm import MaskedLM
from padless.optim.build import build_optimizer, optimizer_state


def test_a_real_checkpoint_has_the_expected_size(tmp_path):
    config = compose(["recipe=smoke"])
    model = MaskedLM(config.model, config.phases["short"].rope)
    optimizer = build_optimizer(model, config.optimizer, 1e-3, 1e-5, is_gpu=False)
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    optimizer.step()
    meta = {"phase": "short", "clock_tokens": 1, "step": 1, "config": to_plain(config)}
    checkpoint = Checkpoint(dict(model.state_dict()), optimizer_state(model, optimizer), meta)
    size = save_checkpoint(tmp_path / "x.pt", checkpoint, "hash").size_bytes
    expected = expected_bytes(count_parameters(config.model).total)
    assert expected - 1_048_576 < size < expected


def test_a_disk_that_cannot_hold_one_checkpoint_is_refused_before_the_run(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    refuse_too_little_space(tmp_path / "runs" / "new", free // 2)
    with pytest.raises(CheckpointError, match=r"runs/new has .* free, one checkpoint needs 1000 TB\n.*free disk"):
        refuse_too_little_space(tmp_path / "runs" / "new", 10**15)
