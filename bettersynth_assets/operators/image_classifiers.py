"""Runs Data-Juicer's image classifiers on rows. In: rows and operators. Out: stats as the operators write them.

The operators run their models on one image per call, and each decodes it again. Here an image is decoded once for all
classifiers of a list, by the common rule of ``images``, and the models run in batches (``classifier_models``). Score
meaning and thresholds remain the operator's. Captions are read as they are when the row is scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bettersynth_assets.models.batching import Done, no_progress
from bettersynth_assets.models.image_chunks import chunks
from bettersynth_assets.operators.apply import Row
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.classifier_models import load_classifier
from bettersynth_assets.operators.data_juicer import BuiltOperator
from bettersynth_assets.operators.sample import STATS

if TYPE_CHECKING:
    from torch import Tensor

KEPT_BYTES = 2_000_000_000
"""Limit for images kept for later classifiers (150 KB each at 224 pixels a side, 440 KB at 384)."""


def classifies(built: BuiltOperator) -> bool:
    """Whether ``classify`` replaces an operator's own code; operators that flip images are called directly."""
    flips = (getattr(built.operator, f"{way}_flip", False) for way in ("horizontal", "vertical"))
    return spec_of(built.name).classifier is not None and not any(flips)


def classify(
    built: BuiltOperator, rows: Sequence[Row], later: Sequence[BuiltOperator], done: Done = no_progress
) -> dict[int, BaseException]:
    """Write a classifier's stat to each row.

    Args:
        built: an operator for which ``classifies`` is true.
        rows: the rows that reach it.
        later: classifiers that some of the rows will reach; their inputs are prepared now.
        done: called after each batch.

    Returns:
        Errors of images that cannot be decoded and captions that cannot be read, by the row's position.
    """
    own = load_classifier(built)
    tokens = own.tokens([row.sample["text"] for row in rows])
    failed = {index: found for index, found in enumerate(tokens) if isinstance(found, BaseException)}
    readable = {index: found for index, found in enumerate(tokens) if not isinstance(found, BaseException)}

    def put(at: Sequence[int], pixels: Sequence[Tensor]) -> None:
        for index, value in zip(at, own.values(pixels, [readable[index] for index in at]), strict=True):
            rows[index].sample[STATS][own.head.stat] = [value]

    size = own.batch.asked
    left = [*readable]
    kept = [index for index in left if built in rows[index].pixels]
    for first in range(0, len(kept), size):
        part = kept[first : first + size]
        put(part, [rows[index].pixels.pop(built) for index in part])
        done(len(part))
    todo = sorted({*left} - {*kept})
    for part, others in _parts(todo, rows, later):
        prepares = [own.prepare, *(load_classifier(other).prepare for other in others)]
        paths = [Path(rows[index].sample["images"][0]) for index in part]
        for chunk in chunks(paths, size, prepares, decode=built.decode, device=own.device):
            failed.update({part[at]: error for at, error in chunk.errors.items()})
            good = [part[at] for at in chunk.good]
            put(good, chunk.inputs[0])
            for other, inputs in zip(others, chunk.inputs[1:], strict=True):
                for index, pixels in zip(good, inputs.cpu(), strict=True):
                    rows[index].pixels[other] = pixels
            done(chunk.files)
    return dict(sorted(failed.items()))


def _parts(
    todo: list[int], rows: Sequence[Row], later: Sequence[BuiltOperator]
) -> Iterator[tuple[list[int], Sequence[BuiltOperator]]]:
    """Yield positions of rows whose images must be decoded, and the classifiers that images are kept for.

    Images of the first part are kept while memory lasts; later classifiers decode the others again.
    """
    # Rows of a chunk share one storage, which is freed with the last of them.
    chunk = {pixels.untyped_storage().data_ptr(): pixels for row in rows for pixels in row.pixels.values()}
    held = sum(pixels.untyped_storage().nbytes() for pixels in chunk.values())
    each = sum(load_classifier(other).image_bytes for other in later)
    room = max(0, KEPT_BYTES - held) // each if each else 0
    for part, others in ((todo[:room], later), (todo[room:], [])):
        if part:
            yield part, others
