"""``image_near_duplicate_deduplicator``: one image of each group of near-duplicates, as a Data-Juicer operator.

Reads images; writes the stat ``image_hash`` (16 hexadecimal digits, see ``image_hash``). Data-Juicer's own
``image_deduplicator`` needs the package imagededup and takes images for the same only where all bits are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from data_juicer.ops.base_op import OPERATORS, Deduplicator
from data_juicer.utils.constant import Fields
from pydantic import Field
from typing_extensions import Annotated  # noqa: UP035 - what Data-Juicer's own signatures use

from bettersynth_assets.images.decoding import opened
from bettersynth_assets.images.image_hash import MAX_DISTANCE, image_hash, repeats
from bettersynth_assets.images.opening import ImageError, open_rgb
from bettersynth_assets.operators.catalog import register_spec
from bettersynth_assets.operators.sample import similarity_of
from bettersynth_assets.operators.spec import OperatorSpec

NAME = "image_near_duplicate_deduplicator"
HASH = "image_hash"
_FILES_AHEAD = 64

register_spec(OperatorSpec(name=NAME, pure=True, stats=(HASH,)))


@OPERATORS.register_module(NAME)
class ImageNearDuplicateDeduplicator(Deduplicator):
    """Keep one row of each group whose images' perceptual hashes differ in few bits."""

    measures = HASH

    def __init__(
        self,
        max_distance: Annotated[int, Field(ge=0, le=MAX_DISTANCE)] = 4,
        keep: Literal["first", "best"] = "first",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Set up the operator.

        Args:
            max_distance: bits, of 64, by which the hashes of near-duplicates may differ.
            keep: which row of a group stays: the ``first`` in the set's order, or the ``best`` by image-text
                similarity (rows without one come last).
            *args: Data-Juicer's.
            **kwargs: Data-Juicer's.

        Raises:
            ValueError: an argument out of range.
        """
        super().__init__(*args, **kwargs)
        if not 0 <= max_distance <= MAX_DISTANCE:
            raise ValueError(f"max_distance = {max_distance}: must lie between 0 and {MAX_DISTANCE} bits")
        if keep not in ("first", "best"):
            raise ValueError(f"keep = {keep!r}: write first or best")
        self.max_distance, self.keep = max_distance, keep

    def measure(self, samples: Sequence[dict[str, Any]]) -> list[str | ImageError]:
        """Hash each sample's first image, into its stats too; one that cannot be decoded gives its error."""
        paths = [Path(sample[self.image_key][0]) for sample in samples]
        hashes = [found for _, chunk in opened(paths, _FILES_AHEAD, image_hash) for found in chunk]
        for sample, found in zip(samples, hashes, strict=True):
            if not isinstance(found, ImageError):
                sample[Fields.stats][HASH] = found
        return hashes

    def verdicts(self, samples: Sequence[dict[str, Any]]) -> dict[int, tuple[float | None, str]]:
        """Find the samples that go.

        Args:
            samples: with ``image_hash``, in the set's order.

        Returns:
            By position: the distance in bits, and the reason in words.
        """
        order = list(range(len(samples)))
        if self.keep == "best":
            order.sort(key=lambda position: -similarity_of(samples[position]))
        found = repeats([sample[HASH] for sample in samples], order, self.max_distance)
        return {
            position: (
                float(bits),
                f"image differs in {bits} <= max_distance {self.max_distance} bits from that of row "
                f"{samples[other].get('id', other)!r}, which stays",
            )
            for position, (other, bits) in found.items()
        }

    def compute_hash(self, sample: dict[str, Any], context: bool = False) -> dict[str, Any]:
        """Data-Juicer's entry for one row; a row without an image is nobody's duplicate."""
        images = sample.get(self.image_key)
        sample[HASH] = image_hash(open_rgb(Path(images[0]))) if images else ""
        return sample

    def process(self, dataset: Any, show_num: int = 0) -> tuple[Any, dict[str, Any]]:
        """Data-Juicer's entry for the whole set; pairs for its tracer are not collected."""
        columns = [name for name in ("id", HASH, Fields.stats) if name in dataset.column_names]
        samples = dataset.select_columns(columns).to_list()
        hashed = [position for position, sample in enumerate(samples) if sample[HASH]]
        gone = {hashed[position] for position in self.verdicts([samples[position] for position in hashed])}
        kept = dataset.select([position for position in range(len(samples)) if position not in gone])
        return kept.remove_columns([HASH]), {}
