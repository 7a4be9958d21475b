"""Draws tokens reproducibly. In: logits of a batch, one uniform number per row and token. Out: the token of each row.

A row's numbers depend on its key and the recipe's seed, never on its position, so a row gets the same caption next to
any neighbours, in any batch and shard. The logits may differ in their last bits between batch sizes (on a GPU; small
models on the CPU give equal ones). Where such a bit decides between two tokens, the caption changes, as with greedy
decoding. Temperature and limits are those of transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.config.recipe import Sampling

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LogitsProcessorList


def draw_uniforms(sampling: Sampling, keys: Sequence[str], tokens: int) -> NDArray[np.float32]:
    """Return (n, tokens) numbers in [0, 1) that decide each token of each row.

    Args:
        sampling: the recipe's settings, with the random seed.
        keys: one per row, e.g. the row's id.
        tokens: maximum number of tokens per row; longer captions begin with the same numbers.
    """
    rows = [_generator(sampling.seed, key).random(tokens, dtype=np.float32) for key in keys]
    return np.stack(rows) if rows else np.empty((0, tokens), np.float32)


def _generator(random_seed: int, key: str) -> np.random.Generator:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([random_seed, int.from_bytes(digest[:16], "big")])


def limits(sampling: Sampling) -> LogitsProcessorList:
    """Build a ``LogitsProcessorList`` of temperature, ``top_k`` and ``top_p``; called with input ids, logits (B, V)."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    steps = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.top_k is not None:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(float(sampling.top_p)))
    return steps


def draw_tokens(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Return the token where a row's cumulative probability first exceeds its number.

    Args:
        scores: limited logits, (B, V); a token with minus infinity is never drawn.
        uniforms: (B,) in [0, 1) in steps of 2^-24, so that a number times the sum is less than the sum.

    Returns:
        (B,) int64.
    """
    import torch

    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)  # float32 would lose tokens by rounding
    return torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:], right=True)[:, 0]


class DrawnToken:
    """Last of a ``LogitsProcessorList``: keeps only the drawn token, so that greedy decoding selects it."""

    def __init__(self, uniforms: Tensor) -> None:
        """Use the (B, tokens) numbers of one call of ``generate``, on the device."""
        self._uniforms, self._step = uniforms, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        tokens = draw_tokens(scores, self._uniforms[:, self._step])
        self._step += 1
        return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0.0)


def generate_arguments(sampling: Sampling | None, uniforms: Tensor | None) -> dict[str, Any]:
    """Return the arguments of transformers' ``generate`` for one batch; greedy without ``sampling``."""
    greedy: dict[str, Any] = {"do_sample": False, "num_beams": 1}
    if sampling is None:
        return greedy
    assert uniforms is not None, "sampling needs uniforms, see uniforms_for"
    steps = limits(sampling)
    steps.append(DrawnToken(uniforms))
    return {**greedy, "logits_processor": steps}


def uniforms_for(
    sampling: Sampling | None, keys: Sequence[str] | None, rows: int, tokens: int
) -> NDArray[np.float32] | None:
    """Return ``draw_uniforms`` if tokens are drawn, else None.

    Raises:
        ValueError: as ``check_keys``.
    """
    check_keys(sampling, keys, rows)
    return None if sampling is None or keys is None else draw_uniforms(sampling, keys, tokens)


def check_keys(sampling: Sampling | None, keys: Sequence[str] | None, rows: int) -> None:
    """Refuse to draw for rows without individual keys; their captions would depend on their position.

    Raises:
        ValueError: the number of keys differs from the number of rows.
    """
    if sampling is not None and (keys is None or len(keys) != rows):
        raise ValueError(f"sampling needs one key per image: {rows} images, {len(keys or ())} keys; pass the rows' ids")
