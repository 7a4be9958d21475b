"""Helper for the functions with their own gradients (``torch.autograd.Function``) that ``torch.compile`` sees."""

from __future__ import annotations

import torch
from torch import Tensor


def cast(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert the result of an ``autograd.Function`` unless it has the dtype already.

    Compiled by PyTorch 2.11, a function that ends in a ``.to`` without effect has the gradient 0.
    """
    return result if result.dtype == dtype else result.to(dtype)
