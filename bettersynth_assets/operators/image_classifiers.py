"""Runs Data-Juicer's image classifiers on rows. In: rows and operators. Out: stats as the operators write them.

The operators run their models on one image per call, and each decodes it again. Here an image is decoded once for all
classifiers of a list, by the common rule of ``images``, and the models run in batches (``classifier_models``). Score
meaning and thresholds remain the operator's. Captions are read as they are when the row is scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bettersynth_assets.models.batching import ProgressCallback, no_progress
from bettersynth_assets.models.image_chunks import chunks
from bettersynth_assets.operators.apply import BuiltFilter
from bettersynth_assets.operators.built import BuiltOperator, Errors
from bettersynth_assets.operators.classifier_models import ClassifierModel, load_classifier
from bettersynth_assets.operators.rows import Row
from bettersynth_assets.operators.sample import STATS
from bettersynth_assets.operators.spec import ClassifierHead

if TYPE_CHECKING:
    from data_juicer.ops.base_op import OP
    from torch import Tensor

KEPT_BYTES = 2_000_000_000
"""Limit for images kept for later classifiers (150 KB each at 224 pixels a side, 440 KB at 384)."""


def flips(operator: OP) -> bool:
    """Whether an operator flips images; such a classifier runs its own code."""
    return any(getattr(operator, f"{direction}_flip", False) for direction in ("horizontal", "vertical"))


@dataclass(frozen=True, kw_only=True)
class BuiltClassifier(BuiltFilter):
    """A filter by the output of a model for images."""

    head: ClassifierHead
    decode: str = "pillow"
    """Decoder of image files, see ``image_chunks.chunks``."""
    dtype: str = "float32"
    """Type of the model's weights."""
    fix: ClassVar[str] = "set another model in the profile, or remove the operator from the recipe"

    @property
    def model(self) -> ClassifierModel:
        """The operator's model, loaded when first used."""
        return load_classifier(self, self.head, self.dtype)

    def measure(
        self, rows: list[Row], later: Sequence[BuiltOperator] = (), on_batch: ProgressCallback = no_progress
    ) -> Errors:
        """Write the classifier's stat; inputs of later classifiers are prepared from the same decoded images.

        Returns:
            Errors of images that cannot be decoded and captions that cannot be read.
        """
        classifier = self.model
        tokens = classifier.tokens([row.sample["text"] for row in rows])
        failed = {index: result for index, result in enumerate(tokens) if isinstance(result, BaseException)}
        readable = {index: result for index, result in enumerate(tokens) if not isinstance(result, BaseException)}

        def write_stats(positions: Sequence[int], pixels: Sequence[Tensor]) -> None:
            values = classifier.values(pixels, [readable[index] for index in positions])
            for index, value in zip(positions, values, strict=True):
                rows[index].sample[STATS][self.head.stat] = [value]

        batch_size = classifier.batch.requested
        kept = [index for index in readable if self in rows[index].pixels]
        for first in range(0, len(kept), batch_size):
            chunk_positions = kept[first : first + batch_size]
            write_stats(chunk_positions, [rows[index].pixels.pop(self) for index in chunk_positions])
            on_batch(len(chunk_positions))
        to_decode = sorted(readable.keys() - {*kept})
        ahead = [operator for operator in later if isinstance(operator, BuiltClassifier)]
        for chunk_positions, kept_for in _split_by_memory(to_decode, rows, ahead):
            prepares = [classifier.prepare, *(classifier_ahead.model.prepare for classifier_ahead in kept_for)]
            paths = [Path(rows[index].sample["images"][0]) for index in chunk_positions]
            for chunk in chunks(paths, batch_size, prepares, decode=self.decode, device=classifier.device):
                failed.update({chunk_positions[positions]: error for positions, error in chunk.errors.items()})
                good = [chunk_positions[positions] for positions in chunk.good]
                write_stats(good, chunk.inputs[0])
                for classifier_ahead, inputs in zip(kept_for, chunk.inputs[1:], strict=True):
                    for index, pixels in zip(good, inputs.cpu(), strict=True):
                        rows[index].pixels[classifier_ahead] = pixels
                on_batch(chunk.files)
        return dict(sorted(failed.items()))


def _split_by_memory(
    undecoded: list[int], rows: Sequence[Row], later: Sequence[BuiltClassifier]
) -> Iterator[tuple[list[int], Sequence[BuiltClassifier]]]:
    """Yield positions of rows whose images must be decoded, and the classifiers that images are kept for.

    Images of the first part are kept while memory lasts; later classifiers decode the others again.
    """
    # Rows of a chunk share one storage, which is freed with the last of them.
    storages = {pixels.untyped_storage().data_ptr(): pixels for row in rows for pixels in row.pixels.values()}
    held = sum(pixels.untyped_storage().nbytes() for pixels in storages.values())
    bytes_per_row = sum(other.model.image_bytes for other in later)
    room = max(0, KEPT_BYTES - held) // bytes_per_row if bytes_per_row else 0
    for positions, kept_for in ((undecoded[:room], later), (undecoded[room:], [])):
        if positions:
            yield positions, kept_for
