from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("rows", "heads", "key_heads", "length", "width"), [(3, 4, 4, 56, 80), (2, 8, 2, 672, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 40])
def test_decode_attention_equals_torchs_masked_attention(rows, heads, key_heads, length, width, dtype, queries):
    from bettersynth_assets.models.gpu.decode_attention import attend

    torch.manual_seed(0)
    how = {"device": "cuda:0", "dtype": dtype}
    query = torch.randn(rows, queries, heads, width, **how).transpose(1, 2)
    key, value = torch.randn(rows, key_heads, length, width, **how), torch.randn(rows, key_heads, length, width, **how)
    positions = torch.arange(queries, device="cuda:0") if queries > 1 else torch.tensor([length - 6], device="cuda:0")
    later = torch.arange(length, device="cuda:0") > positions[:, None]
    exact = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=~later[None, None], scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    mask = (later.to(dtype) * torch.finfo(dtype).min)[None, None]
    found, _ = attend(None, query, key, value, mask, scaling=0.3)
    assert found.shape == exact.shape and found.dtype == dtype
    assert (found - exact).abs().max() < (2e-2 if dtype is torch.bfloat16 else 2e-3)
    again, _ = attend(None, query[1:], key[1:], value[1:], mask, scaling=0.3)
    assert queries > 1 or torch.equal(again, found[1:])
