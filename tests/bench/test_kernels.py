"""What the attention bench compares computes the same, forward and backward."""

import pytest
import torch

from padless.bench.kernels import attention_of, pad_packed

LENGTHS = (5, 40, 1, 70)


@pytest.mark.parametrize("window_tokens", [None, 16])
@pytest.mark.parametrize("who", ["sdpa", "padded"])
def test_every_side_agrees_with_the_reference(who, window_tokens):
    qkv_T3NH = torch.randn(sum(LENGTHS), 3, 2, 16, generator=torch.Generator().manual_seed(0))
    out_TNH, grad_T3NH = attention_of("reference", qkv_T3NH, LENGTHS, window_tokens)()
    found, gradient = attention_of(who, qkv_T3NH, LENGTHS, window_tokens)()
    if who == "sdpa":
        torch.testing.assert_close(found, out_TNH, rtol=0, atol=1e-5)
        torch.testing.assert_close(gradient, grad_T3NH, rtol=0, atol=1e-4)
        return
    is_real_BL = pad_packed(torch.ones(sum(LENGTHS)), LENGTHS) == 1
    torch.testing.assert_close(found[is_real_BL], out_TNH, rtol=0, atol=1e-5)
