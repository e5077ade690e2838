"""One validation loss, whatever the number of ranks; and the loss of guessing by frequency to compare it with."""

import copy
import dataclasses
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from padless.config.schema import RopeConfig
from padless.data.collate import Block, MaskedBlock, collate
from padless.data.masking import MaskingRule
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from padless.train.hardware import Compute
from padless.train.validation import Validation, ValidationRules, unigram_cross_entropy
from small_shape import small_shape

MODEL = small_shape(
    num_layers=2,
    global_every_layers=2,
    local_window_tokens=8,
    mlp_dropout=0.1,
    embedding_dropout=0.1,
    init_std=0.2,
)
MASKING = MaskingRule.build(128, 4, [0, 1, 2, 3, 4], 0.8, 0.1)
RULES = ValidationRules(64, 32, 3, MASKING, 0.15, 17, None)
COMPUTE = Compute(torch.device("cpu"), None, "sdpa")


class Blocks:
    """A validation split in memory."""

    def __init__(self, name, count):
        self.name = name
        self._blocks = []
        for number in range(count):
            generator = np.random.default_rng([len(name), number])
            lengths = np.array([3, 17, 5 + number], np.int32)
            self._blocks.append(
                Block(name, number, generator.integers(5, 128, lengths.sum()).astype(np.uint16), lengths)
            )

    def __len__(self):
        return len(self._blocks)

    def __getitem__(self, index):
        return self._blocks[index]


@dataclass(frozen=True)
class ThreadRanks:
    """One rank of several that run as threads and exchange what they gather."""

    rank: int
    size: int
    shelf: list
    meet: threading.Barrier

    def gather(self, item):
        self.shelf[self.rank] = item
        self.meet.wait(timeout=30)
        return list(self.shelf)


def evaluate_on(ranks, model, splits, rules=RULES):
    shelf, meet, results = [None] * ranks, threading.Barrier(ranks), [None] * ranks

    def one(rank):
        world = ThreadRanks(rank, ranks, shelf, meet)
        results[rank] = Validation(splits, rules, world, COMPUTE).evaluate(model)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture(scope="module")
def model():
    made = MaskedLM(MODEL, RopeConfig(10_000.0, 10_000.0))
    initialise(made, 17)
    return made.eval()


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_figures_are_equal_to_the_last_bit_on_any_number_of_ranks(model, ranks):
    splits = [Blocks("a", 7), Blocks("bb", 4)]
    (alone,) = evaluate_on(1, model, splits)
    assert set(alone) == {"eval_loss", "eval_masked_tokens", "eval_loss_a", "eval_loss_bb"}
    assert alone["eval_masked_tokens"] > 20
    assert alone["eval_loss_a"] != alone["eval_loss_bb"]
    assert evaluate_on(ranks, model, splits) == [alone] * ranks


def test_the_loss_is_the_mean_over_all_masked_tokens_of_blocks_computed_one_by_one(model):
    splits = [Blocks("a", 5)]
    validation = Validation(splits, RULES, ThreadRanks(0, 1, [None], threading.Barrier(1)), COMPUTE)
    logs = []
    for masked in validation.masked_blocks():
        start = 0
        for length in masked.block.lengths_S.tolist():
            here = [int(p) - start for p in masked.positions_M if start <= p < start + length]
            ids = torch.from_numpy(masked.input_ids_T[start : start + length])
            cu = torch.tensor([0, length], dtype=torch.int32)
            from padless.data.batch import PackedBatch

            none = torch.zeros(0, dtype=torch.int64)
            with torch.no_grad():
                logits = model.logits(PackedBatch(ids, cu, none, none, (length,), length, length, 0))
            labels = torch.from_numpy(masked.block.tokens_T.astype(np.int64)[start : start + length])
            logs += [float(-logits[p].log_softmax(-1)[labels[p]]) for p in here]
            start += length
    figures = validation.evaluate(model)
    assert figures["eval_masked_tokens"] == len(logs)
    assert figures["eval_loss"] == pytest.approx(np.mean(logs), rel=1e-5)


def test_accuracy_is_the_share_of_masked_tokens_guessed_right(model):
    splits = [Blocks("a", 5), Blocks("bb", 2)]
    validation = Validation(splits, RULES, ThreadRanks(0, 1, [None], threading.Barrier(1)), COMPUTE)
    first = validation.masked_blocks()[0]
    guesser = copy.deepcopy(model)  # one that often guesses a token that is there
    with torch.no_grad():
        guesser.decoder.bias[int(first.block.tokens_T[first.positions_M[0]])] += 10.0
    right = total = 0
    for masked in validation.masked_blocks():
        batch = collate([masked], RULES.block_tokens, RULES.max_seq_len, RULES.pad_id)
        with torch.no_grad():
            guesses = guesser.logits(batch).argmax(-1)
        right += sum(int(guesses[place]) == int(masked.block.tokens_T[place]) for place in masked.positions_M)
        total += len(masked.positions_M)
    figures = validation.evaluate(guesser, with_accuracy=True)
    assert 0 < right < total
    assert figures.pop("eval_accuracy") == right / total
    assert figures == validation.evaluate(guesser)


def test_evaluation_leaves_dropout_off_and_the_model_in_training_mode(model):
    training = MaskedLM(MODEL, RopeConfig(10_000.0, 10_000.0)).train()
    training.load_state_dict(model.state_dict())
    splits = [Blocks("a", 3)]
    assert evaluate_on(1, training, splits) == evaluate_on(1, model, splits)
    assert training.training


def test_masks_are_fixed_and_the_limit_on_blocks_holds(model):
    splits = [Blocks("a", 6)]
    world = ThreadRanks(0, 1, [None], threading.Barrier(1))
    first, second = (Validation(splits, RULES, world, COMPUTE).masked_blocks() for _ in range(2))
    assert all(np.array_equal(a.positions_M, b.positions_M) for a, b in zip(first, second, strict=True))
    assert len({a.positions_M.tobytes() for a in first}) == 6
    limited = Validation(splits, dataclasses.replace(RULES, max_blocks=2), world, COMPUTE).masked_blocks()
    assert [masked.block.index for masked in limited] == [0, 1]


def test_a_limit_on_blocks_takes_from_every_stream_in_turn(model):
    splits = [Blocks("a", 6), Blocks("bb", 1), Blocks("ccc", 4)]
    world = ThreadRanks(0, 1, [None], threading.Barrier(1))
    validation = Validation(splits, dataclasses.replace(RULES, max_blocks=6), world, COMPUTE)
    taken = [(masked.block.stream, masked.block.index) for masked in validation.masked_blocks()]
    assert taken == [("a", 0), ("bb", 0), ("ccc", 0), ("a", 1), ("ccc", 1), ("a", 2)]
    assert "eval_loss_ccc" in validation.evaluate(model)


def test_without_validation_data_there_is_no_figure(model):
    assert evaluate_on(1, model, []) == [{}]


def test_unigram_cross_entropy_is_the_loss_of_guessing_by_frequency():
    train = [Block("a", 0, np.array([5, 5, 6], np.uint16), np.array([3], np.int32)),
             Block("a", 1, np.array([7], np.uint16), np.array([1], np.int32))]  # fmt: skip
    held_out = Block("a", 0, np.array([5, 6, 9, 5], np.uint16), np.array([4], np.int32))
    masked = MaskedBlock(held_out, held_out.tokens_T.astype(np.int64), np.array([0, 2, 3]))
    counts = {5: 3, 9: 1}  # one is added to each of ten entries: 14 in all
    expected = -(2 * np.log(counts[5] / 14) + np.log(counts[9] / 14)) / 3
    assert unigram_cross_entropy(train, [masked], 10) == pytest.approx(expected, rel=1e-12)
