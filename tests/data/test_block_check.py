import numpy as np
import pytest
from small_streams import random_blocks, split_of, write_samples, write_split

from padless.data.block_check import block_fault, block_from
from padless.data.mds import ValidationBlocks
from padless.errors import DataError


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("streams") / "a", 3)


def sample(**fields):
    tokens = np.arange(10, 30, dtype=np.uint16)
    return {"block": 2, "tokens": tokens, "lengths": np.array([12, 8], np.int32), **fields}


FAULTS = {
    "another block": (sample(block=1), "it is numbered 1, and lies where block 2 should"),
    "beyond the split": (sample(block=-7), "it is numbered -7, and lies where block 2 should"),
    "tokens in two dimensions": (
        sample(tokens=np.ones((2, 10), np.uint16)),
        "its tokens are 2-dimensional uint16, not flat uint16",
    ),
    "tokens of another type": (sample(tokens=np.ones(20, np.uint32)), "1-dimensional uint32, not flat uint16"),
    "lengths in two dimensions": (sample(lengths=np.array([[12, 8]], np.int32)), "2 2-dimensional int32"),
    "no lengths": (sample(lengths=np.array([], np.int32)), "its lengths are 0 1-dimensional int32"),
    "an empty segment": (sample(lengths=np.array([20, 0], np.int32)), "a segment of 0 tokens, outside 1 to 16"),
    "a negative segment": (sample(lengths=np.array([24, -4], np.int32)), "a segment of -4 tokens, outside 1 to 16"),
    "a long segment": (sample(lengths=np.array([20], np.int32)), "a segment of 20 tokens, outside 1 to 16"),
    "lengths that do not add up": (
        sample(lengths=np.array([12, 7], np.int32)),
        "its segment lengths add up to 19, it has 20 tokens",
    ),
    "more than a block": (
        sample(tokens=np.ones(48, np.uint16), lengths=np.full(3, 16, np.int32)),
        "it has 48 tokens, a block holds 32",
    ),
    "an id outside the vocabulary": (
        sample(tokens=np.full(20, 100, np.uint16)),
        "it has token id 100, the vocabulary ends at 99",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_a_block_is_refused_with_stream_shard_and_sample(split, fault):
    bad, message = FAULTS[fault]
    with pytest.raises(DataError) as caught:
        block_from(bad, split, 0, 2, 2)
    assert caught.value.cause.startswith(f"stream 'a', shard {split.path(0)}, sample 2: ")
    assert message in caught.value.cause
    assert "prepare the folder again" in caught.value.remedy


def test_whole_blocks_pass(split):
    assert all(block_fault(block, split, index) is None for index, block in enumerate(random_blocks(20)))
    full = sample(tokens=np.full(32, 99, np.uint16), lengths=np.full(2, 16, np.int32))
    assert block_fault(full, split, 2) is None


def test_a_sample_that_cannot_be_decoded_is_named(tmp_path):
    split = split_of(write_samples(tmp_path / "a", random_blocks(5)), 5)
    content = bytearray(split.path(0).read_bytes())
    begin = int(np.frombuffer(content[4 * 4 : 4 * 5], "<u4")[0])
    content[begin : begin + 4] = (2**32 - 1).to_bytes(4, "little")  # the length of a column
    split.path(0).write_bytes(content)
    blocks = ValidationBlocks(split)
    assert blocks[2].index == 2
    with pytest.raises(DataError, match=r"stream 'a', shard .*shard.00000.mds, sample 3: it cannot be decoded \("):
        blocks[3]
