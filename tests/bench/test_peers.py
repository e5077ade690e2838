"""The implementations of a bench do the same work: equal weights give equal losses and gradients."""

import pytest
import torch

from padless.bench.lengths import CASES, draw_workload
from padless.bench.peers import implementation, our_optimizer, their_optimizer, train_step
from padless.bench.shapes import shape_of

pytestmark = pytest.mark.slow  # transformers
TINY = shape_of("tiny@512")


def sides(names, rows=32, batches=1):
    workload = draw_workload(CASES["short"], batches, 512, 512, 0, rows=rows)
    return [implementation(name, TINY, workload, "fp32", "sdpa", False, 512) for name in names]


def gradients(side):
    losses = []
    for loss in side.losses(side.batch(0)):
        loss.backward()
        losses.append(float(loss.detach()))
    return sum(losses), {name: parameter.grad for name, parameter in side.model.named_parameters()}


def test_losses_and_gradients_agree():
    ours, sparse, dense = sides(["padless", "sparse", "dense"])
    for peer in (sparse, dense):
        missing = peer.model.load_state_dict(ours.model.state_dict(), strict=False)
        assert not missing.unexpected_keys
    loss, mine = gradients(ours)
    for peer in (sparse, dense):
        their_loss, theirs = gradients(peer)
        assert their_loss == pytest.approx(loss, abs=1e-5)
        assert set(theirs) == set(mine)
        for name, gradient in mine.items():
            torch.testing.assert_close(theirs[name], gradient, rtol=0, atol=1e-5)


def test_rows_computed_in_parts_are_the_same_step():
    whole, parts = sides(["sparse"])[0], sides(["sparse"], rows=2)[0]
    assert len(parts.batch(0)[0]) > len(whole.batch(0)[0])
    loss, mine = gradients(whole)
    loss_of_parts, theirs = gradients(parts)
    assert loss_of_parts == pytest.approx(loss, abs=1e-5)
    for name, gradient in mine.items():
        torch.testing.assert_close(theirs[name], gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["padless", "sparse"])
def test_steps_move_the_weights_and_lower_the_loss(name):
    (side,) = sides([name])
    optimizer = our_optimizer(side.model) if name == "padless" else their_optimizer(side.model)
    batch = side.batch(0)
    found = [train_step(side.model, optimizer, side.losses(batch)) for _ in range(5)]
    losses, norms = zip(*found, strict=True)
    assert losses[-1] < losses[0]
    assert min(norms) > 0


def test_encoders_see_the_same_tokens():
    ours, padded = sides(["padless", "padded"])
    with torch.inference_mode():
        hidden_TD = ours.hidden(ours.batch(0))
        padded.hidden(padded.batch(0))
    assert hidden_TD.shape == (512, 64)
