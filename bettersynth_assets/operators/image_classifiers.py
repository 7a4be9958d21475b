"""Data-Juicer's image classifiers, many images a call. In: rows and operators. Out: stats, as the operators write them.

The operators themselves give their models one image a call and decode it anew each. Here a row's image is decoded once
for all classifiers of a list, by ``records.images``' one rule, and each model, the operator's own, is given batches.
What the numbers mean, and who is refused, stays the operator's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bettersynth_assets.errors import UserError
from bettersynth_assets.images.decoding import chunks
from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.operators.data_juicer import BuiltOperator
from bettersynth_assets.operators.row_calls import ROW_ERRORS, STATS, Row

AT_ONCE = {"cpu": 64, "cuda": 256}
"""Images a call."""
KEPT_ROWS = 4096
"""Rows whose images, as a later classifier reads them (about 150 KB each), are kept until it comes."""


def _second(logits: Any, operator: Any) -> Any:
    return logits.softmax(-1)[:, 1]


def _aesthetics(logits: Any, operator: Any) -> Any:
    return logits.flatten() / (10.0 if operator.need_normalized_by_ten else 1.0)


CLASSIFIERS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "image_watermark_filter": ("image_watermark_prob", _second),
    "image_nsfw_filter": ("image_nsfw_score", _second),
    "image_aesthetics_filter": ("image_aesthetics_scores", _aesthetics),
}
"""By operator: its stat, and from the model's logits (B, ...) to the stat's values (B,)."""


@dataclass(frozen=True, kw_only=True)
class _Model:
    """An operator's model."""

    model: Any
    prepare: Callable[[Any], Any]
    levels: Any
    device: str
    dtype: Any
    batch: BatchSize
    parameters: int


def classify(built: BuiltOperator, rows: Sequence[Row], later: Sequence[BuiltOperator]) -> dict[int, BaseException]:
    """Put a classifier's stat into each row.

    Args:
        built: one of ``CLASSIFIERS``.
        rows: those that reach it.
        later: classifiers that some of the rows will reach; what they read of the images is made now.

    Returns:
        Errors of images that cannot be decoded, by the row's position.
    """
    stat, score = CLASSIFIERS[built.name]
    own = _loaded(built)
    others = list(later) if len(rows) <= KEPT_ROWS else []

    def scores(pixels: Any) -> list[float]:
        import torch

        with torch.inference_mode(), threads_for(own.parameters):
            floats = as_pixels(pixels, own.prepare, own.levels, own.device, own.dtype)
            found: list[float] = score(own.model(pixel_values=floats).logits.float(), built.operator).tolist()
            return found

    def put(at: Sequence[int], pixels: Any) -> None:
        for index, value in zip(at, in_batches(pixels, own.batch, scores), strict=True):
            rows[index].sample[STATS][stat] = [value]

    kept = [index for index, row in enumerate(rows) if built in row.pixels]
    size = own.batch.asked
    for first in range(0, len(kept), size):
        part = kept[first : first + size]
        put(part, [rows[index].pixels.pop(built) for index in part])
    todo = sorted({*range(len(rows))} - {*kept})
    paths = [Path(rows[index].sample["images"][0]) for index in todo]
    prepares = [own.prepare, *(_loaded(other).prepare for other in others)]
    failed: dict[int, BaseException] = {}
    for chunk in chunks(paths, size, prepares, decode=built.decode, device=own.device):
        failed.update({todo[at]: error for at, error in chunk.errors.items()})
        good = [todo[at] for at in chunk.good]
        put(good, chunk.inputs[0])
        for other, inputs in zip(others, chunk.inputs[1:], strict=True):
            for index, pixels in zip(good, inputs.cpu(), strict=True):
                rows[index].pixels[other] = pixels
    return failed


@lru_cache(maxsize=8)
def _loaded(built: BuiltOperator) -> _Model:
    import torch
    from data_juicer.utils.model_utils import get_model

    kind = "cpu" if built.rank is None else "cuda"
    try:
        model, processor = get_model(built.operator.model_key, built.rank, built.rank is not None)
    except ROW_ERRORS as error:
        raise UserError(
            f"operator {built.name!r} with {built.limits}: its model cannot be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0]}): name a folder that holds it, or a hub id"
        ) from error
    prepare, levels = resizing(getattr(processor, "image_processor", processor))
    device = kind if built.rank is None else f"cuda:{built.rank}"
    dtype = getattr(torch, built.dtype)
    # A copy of its own: Data-Juicer hands the same model to whoever asks.
    model = (model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)).eval()
    return _Model(
        model=model,
        prepare=prepare,
        levels=None if levels is None else levels.to(device),
        device=device,
        dtype=dtype,
        batch=BatchSize(AT_ONCE[kind]),
        parameters=sum(weight.numel() for weight in model.parameters()),
    )
