"""What is said of a prepared folder: the remedy fits what is wrong."""

import pytest

from padless.data.manifest import SplitBlocks
from padless.data.summary import fill_remedy


@pytest.mark.parametrize(
    ("num_blocks", "fill", "size"), [(1, 0.39, "smaller"), (6, 0.874, "smaller"), (600, 0.9, "larger")]
)
def test_blocks_are_too_large_where_only_the_last_one_lacks_text(num_blocks, fill, size):
    facts = {"path": "x", "num_blocks": num_blocks, "num_segments": 1, "num_real_tokens": 1, "fill": fill}
    blocks = SplitBlocks(**facts, long_token_share=0.0, segment_token_share_over={}, shards=())
    assert fill_remedy(blocks) == f"more documents, or a {size} block_tokens"
