"""``image_near_duplicate_deduplicator``: keeps one image of each group of near-duplicates.

A Data-Juicer operator. Reads images; writes the stat ``image_hash`` (16 hexadecimal digits, see ``image_hash``).
Data-Juicer's ``image_deduplicator`` needs the package imagededup and only finds images whose hashes are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_juicer.ops.base_op import OPERATORS, Deduplicator
from data_juicer.utils.constant import Fields
from pydantic import Field
from typing_extensions import Annotated  # noqa: UP035 - used by Data-Juicer's signatures

from bettersynth_assets.images.decoding import opened
from bettersynth_assets.images.image_hash import MAX_DISTANCE, image_hash, repeats
from bettersynth_assets.images.opening import ImageError, open_rgb
from bettersynth_assets.operators.catalog import register_spec
from bettersynth_assets.operators.sample import similarity_of
from bettersynth_assets.operators.spec import OperatorSpec

if TYPE_CHECKING:
    from data_juicer.core import NestedDataset

NAME = "image_near_duplicate_deduplicator"
HASH = "image_hash"
_FILES_AHEAD = 64

register_spec(OperatorSpec(name=NAME, pure=True, stats=(HASH,)))


@OPERATORS.register_module(NAME)
class ImageNearDuplicateDeduplicator(Deduplicator):
    """Keep one row of each group of images whose perceptual hashes differ in few bits."""

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
            max_distance: maximum number of bits, of 64, by which the hashes of near-duplicates differ.
            keep: the row to keep of a group: the ``first`` in the dataset's order, or the ``best`` by image-text
                similarity (rows without one come last).
            *args: arguments of Data-Juicer.
            **kwargs: arguments of Data-Juicer.

        Raises:
            ValueError: an argument is out of range.
        """
        super().__init__(*args, **kwargs)
        if not 0 <= max_distance <= MAX_DISTANCE:
            raise ValueError(f"max_distance = {max_distance}: must lie between 0 and {MAX_DISTANCE} bits")
        if keep not in ("first", "best"):
            raise ValueError(f"keep = {keep!r}: use first or best")
        self.max_distance, self.keep = max_distance, keep

    def measure(self, samples: Sequence[dict[str, Any]]) -> list[str | ImageError]:
        """Hash each sample's first image and store the hash in its stats; undecodable images return their error."""
        paths = [Path(sample[self.image_key][0]) for sample in samples]
        hashes = [result for _, chunk in opened(paths, _FILES_AHEAD, image_hash) for result in chunk]
        for sample, result in zip(samples, hashes, strict=True):
            if not isinstance(result, ImageError):
                sample[Fields.stats][HASH] = result
        return hashes

    def verdicts(self, samples: Sequence[dict[str, Any]]) -> dict[int, tuple[float | None, str]]:
        """Find the samples to remove.

        Args:
            samples: samples with ``image_hash``, in the dataset's order.

        Returns:
            By position: the distance in bits, and the reason as text.
        """
        order = list(range(len(samples)))
        if self.keep == "best":
            order.sort(key=lambda position: -similarity_of(samples[position]))
        duplicates = repeats([sample[HASH] for sample in samples], order, self.max_distance)
        return {
            position: (
                float(bits),
                f"image differs in {bits} <= max_distance {self.max_distance} bits from that of row "
                f"{samples[original].get('id', original)!r}, which stays",
            )
            for position, (original, bits) in duplicates.items()
        }

    def compute_hash(self, sample: dict[str, Any], context: bool = False) -> dict[str, Any]:
        """Hash one row's image; called by Data-Juicer. A row without an image is never a duplicate."""
        images = sample.get(self.image_key)
        sample[HASH] = image_hash(open_rgb(Path(images[0]))) if images else ""
        return sample

    def process(self, dataset: NestedDataset, show_num: int = 0) -> tuple[NestedDataset, dict[str, Any]]:
        """Deduplicate the dataset; called by Data-Juicer. Pairs for its tracer are not collected."""
        columns = [name for name in ("id", HASH, Fields.stats) if name in dataset.column_names]
        samples = dataset.select_columns(columns).to_list()
        hashed = [position for position, sample in enumerate(samples) if sample[HASH]]
        removed = {hashed[position] for position in self.verdicts([samples[position] for position in hashed])}
        kept = dataset.select([position for position in range(len(samples)) if position not in removed])
        return kept.remove_columns([HASH]), {}
