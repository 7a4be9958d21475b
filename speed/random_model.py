"""A model with random weights, created on its device."""

from __future__ import annotations

import torch

from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM


def random_model(
    config: MGMConfig, *, device: str, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> MGMGemmaForCausalLM:
    """Build a model; equal arguments give equal weights."""
    torch.manual_seed(seed)
    dtype_before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return MGMGemmaForCausalLM(config)
    finally:
        torch.set_default_dtype(dtype_before)
