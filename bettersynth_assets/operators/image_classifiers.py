"""Data-Juicer's image classifiers over rows. In: rows and operators. Out: stats, as the operators write them.

The operators themselves give their models one image a call and decode it anew each. Here a row's image is decoded once
for all classifiers of a list, by ``records.images``' one rule, and each model is given batches (``classifier_models``).
What the numbers mean, and who is refused, stays the operator's. A caption is read as the row holds it when it is
scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bettersynth_assets.models.batching import Done, untold
from bettersynth_assets.models.image_chunks import chunks
from bettersynth_assets.operators.apply import Row
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.classifier_models import load_classifier
from bettersynth_assets.operators.data_juicer import BuiltOperator
from bettersynth_assets.operators.sample import STATS

KEPT_BYTES = 2_000_000_000
"""Of images as later classifiers read them (150 KB each at 224 pixels a side, 440 KB at 384), kept until they come."""


def classifies(built: BuiltOperator) -> bool:
    """Whether ``classify`` is an operator's way; one that flips images is called as it is."""
    flips = (getattr(built.operator, f"{way}_flip", False) for way in ("horizontal", "vertical"))
    return spec_of(built.name).classifier is not None and not any(flips)


def classify(
    built: BuiltOperator, rows: Sequence[Row], later: Sequence[BuiltOperator], done: Done = untold
) -> dict[int, BaseException]:
    """Put a classifier's stat into each row.

    Args:
        built: one of those that ``classifies`` accepts.
        rows: those that reach it.
        later: classifiers that some of the rows will reach; what they read of the images is made now.
        done: told of each batch.

    Returns:
        Errors of images that cannot be decoded and captions that cannot be read, by the row's position.
    """
    own = load_classifier(built)
    tokens = own.tokens([row.sample["text"] for row in rows])
    failed = {index: found for index, found in enumerate(tokens) if isinstance(found, BaseException)}

    def put(at: Sequence[int], pixels: Any) -> None:
        for index, value in zip(at, own.values(pixels, [tokens[index] for index in at]), strict=True):
            rows[index].sample[STATS][own.head.stat] = [value]

    size = own.batch.asked
    left = [index for index in range(len(rows)) if index not in failed]
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
    """Positions of rows whose images have to be decoded, and the classifiers for which they are kept.

    The first part are those for which there is room; the later classifiers decode the others anew.
    """
    # Rows of a chunk share its memory, which goes with the last of them.
    chunk = {pixels.untyped_storage().data_ptr(): pixels for row in rows for pixels in row.pixels.values()}
    held = sum(pixels.untyped_storage().nbytes() for pixels in chunk.values())
    each = sum(load_classifier(other).image_bytes for other in later)
    room = max(0, KEPT_BYTES - held) // each if each else 0
    for part, others in ((todo[:room], later), (todo[room:], [])):
        if part:
            yield part, others
