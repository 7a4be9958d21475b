"""Draws tokens with a seed. In: logits of a batch, one uniform number per row and token. Out: the token of each row.

A row's numbers come from its own key and the recipe's seed, never from its place, so a row is given the same caption
beside any neighbours, in any batch and shard. The logits themselves may differ in their last bits between batch sizes
(on a GPU; small models on the CPU give the same); where such a bit decides between two tokens, so does the caption, as
it does for greedy decoding. Temperature and limits are transformers' own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bettersynth_assets.config.recipe import Sampling


def uniforms(sampling: Sampling, keys: Sequence[str], tokens: int) -> NDArray[np.float32]:
    """(n, tokens) numbers in [0, 1): what decides each token of each row.

    Args:
        sampling: the recipe's; its seed.
        keys: one per row, e.g. the row's id.
        tokens: the most that a row may have; a longer caption begins with the same numbers.
    """
    rows = [_generator(sampling.seed, key).random(tokens, dtype=np.float32) for key in keys]
    return np.stack(rows) if rows else np.empty((0, tokens), np.float32)


def _generator(seed: int, key: str) -> np.random.Generator:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:16], "big")])


def limits(sampling: Sampling) -> Any:
    """Temperature, ``top_k`` and ``top_p`` as a ``LogitsProcessorList``; called with (input ids, logits (B, V))."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    steps = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.top_k is not None:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(float(sampling.top_p)))
    return steps


def drawn(scores: Any, numbers: Any) -> Any:
    """The token where a row's cumulative probability first exceeds its number.

    Args:
        scores: limited logits, (B, V); a token of minus infinity is never drawn.
        numbers: (B,) in [0, 1) in steps of 2^-24, so that a number times the sum stays below the sum.

    Returns:
        (B,) int64.
    """
    import torch

    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)  # float32 would lose tokens in its rounding
    return torch.searchsorted(cumulative, numbers.double()[:, None] * cumulative[:, -1:], right=True)[:, 0]


class Draw:
    """The last of a ``LogitsProcessorList``: leaves only the drawn token, so that greedy decoding takes it."""

    def __init__(self, numbers: Any) -> None:
        """Take the (B, tokens) numbers of one call of ``generate``, on the device."""
        self._numbers, self._step = numbers, 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        tokens = drawn(scores, self._numbers[:, self._step])
        self._step += 1
        return torch.full_like(scores, float("-inf")).scatter(1, tokens[:, None], 0.0)


def generate_arguments(sampling: Sampling | None, numbers: Any) -> dict[str, Any]:
    """What transformers' ``generate`` is given for one batch; greedy without ``sampling``."""
    greedy: dict[str, Any] = {"do_sample": False, "num_beams": 1}
    if sampling is None:
        return greedy
    steps = limits(sampling)
    steps.append(Draw(numbers))
    return {**greedy, "logits_processor": steps}


def numbers_for(sampling: Sampling | None, keys: Sequence[str] | None, rows: int, tokens: int) -> Any:
    """``uniforms`` where there is anything to draw, else None.

    Raises:
        ValueError: as ``check_keys``.
    """
    check_keys(sampling, keys, rows)
    return None if sampling is None or keys is None else uniforms(sampling, keys, tokens)


def check_keys(sampling: Sampling | None, keys: Sequence[str] | None, rows: int) -> None:
    """Refuse to draw for rows without a key of their own each; their captions would depend on their place.

    Raises:
        ValueError: so they are.
    """
    if sampling is not None and (keys is None or len(keys) != rows):
        raise ValueError(f"sampling needs one key per image: {rows} images, {len(keys or ())} keys; give the rows' ids")
