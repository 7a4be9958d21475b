"""``kmeans_diversity_selector``: selects rows evenly over clusters of their images, as a Data-Juicer operator.

Reads images through a CLIP-class model; writes the stat ``image_cluster``. Data-Juicer 1.6.1 has no such selector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from data_juicer.ops.base_op import OPERATORS, Selector
from data_juicer.utils.constant import Fields
from numpy.typing import NDArray

from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.scorers.clip_files import embed_files
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.operators.catalog import register_spec
from bettersynth_assets.operators.diversity import clusters_of, quotas, ranks_in_clusters
from bettersynth_assets.operators.sample import EMBEDDING, similarity_of
from bettersynth_assets.operators.spec import ModelRole, OperatorSpec

if TYPE_CHECKING:
    from data_juicer.core import NestedDataset

NAME = "kmeans_diversity_selector"
CLUSTER = "image_cluster"

register_spec(
    OperatorSpec(
        name=NAME,
        pure=True,
        model=ModelRole(argument="clip_model", role="clip"),
        embeddings_unless=frozenset({"clip_model", "dtype"}),
        stats=(CLUSTER,),
    )
)


@OPERATORS.register_module(NAME)
class KmeansDiversitySelector(Selector):
    """Cluster the images' embeddings and select equally many rows of every cluster."""

    _accelerator = "cuda"
    measures = EMBEDDING

    def __init__(
        self,
        clip_model: str = "openai/clip-vit-base-patch32",
        clusters: int = 100,
        count: int | None = None,
        share: float | None = None,
        prefer: Literal["similarity", "centre", "first"] = "similarity",
        seed: int = 1024,
        clip_batch: int = 64,
        dtype: str = "float32",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Set up the operator.

        Args:
            clip_model: folder or hub id of an OpenCLIP or transformers CLIP checkpoint.
            clusters: number of clusters.
            count: rows to keep; set either this or ``share``.
            share: share of the rows to keep, above 0 and at most 1.
            prefer: rows to select in a cluster: those with the best image-text similarity, those nearest to its
                centre, or the first.
            seed: random seed of k-means.
            clip_batch: images per model call.
            dtype: ``float32`` or ``bfloat16``.
            *args: arguments of Data-Juicer.
            **kwargs: arguments of Data-Juicer.

        Raises:
            ValueError: an argument is out of range, or not exactly one of ``count`` and ``share`` is set.
        """
        super().__init__(*args, **kwargs)
        if (count is None) == (share is None):
            raise ValueError("set either count (rows) or share (above 0, at most 1)")
        if clusters < 1 or (count is not None and count < 1) or (share is not None and not 0 < share <= 1):
            raise ValueError(
                f"clusters = {clusters}, count = {count}, share = {share}: no row left; use values above 0"
            )
        if prefer not in ("similarity", "centre", "first"):
            raise ValueError(f"prefer = {prefer!r}: use similarity, centre or first")
        self.clusters, self.count, self.share, self.prefer, self.seed = clusters, count, share, prefer, seed
        self.clip_model, self.clip_batch, self.dtype = clip_model, clip_batch, dtype
        self._scorer: ClipScorer | None = None

    def measure(
        self, samples: Sequence[dict[str, Any]], rank: int | None = None
    ) -> list[NDArray[np.float32] | ImageError]:
        """Embed each sample's first image, (D,) float32; undecodable images return their error."""
        if self._scorer is None:
            device = f"cuda:{rank or 0}" if self.use_cuda() else "cpu"
            model = resolve_model(self.clip_model, role="clip")
            self._scorer = ClipScorer(model.name, device=device, dtype=self.dtype, batch=self.clip_batch)
        return embed_files(self._scorer, [Path(sample[self.image_key][0]) for sample in samples])

    def verdicts(self, samples: Sequence[dict[str, Any]]) -> dict[int, tuple[float | None, str]]:
        """Find the samples to remove; writes ``image_cluster`` to the stats of all samples.

        Args:
            samples: samples with ``image_embedding``, in the dataset's order.

        Returns:
            By position: the row's rank in its cluster, from 1, and the reason as text.
        """
        if not samples:
            return {}
        embeddings = np.stack([np.asarray(sample[EMBEDDING], np.float32) for sample in samples])
        labels, distances = clusters_of(embeddings, self.clusters, random_seed=self.seed)
        for sample, label in zip(samples, labels.tolist(), strict=True):
            sample[Fields.stats][CLUSTER] = label
        ranks = ranks_in_clusters(labels, self._preferences(samples, distances)).tolist()
        sizes = np.bincount(labels).tolist()
        total = self.count if self.count is not None else max(1, int((self.share or 0) * len(samples) + 0.5))
        quota = quotas(sizes, total)
        return {
            position: (
                float(rank + 1),
                f"place {rank + 1} of cluster {label}, which gives {quota[label]} of its {sizes[label]} rows",
            )
            for position, (label, rank) in enumerate(zip(labels.tolist(), ranks, strict=True))
            if rank >= quota[label]
        }

    def _preferences(self, samples: Sequence[dict[str, Any]], distances: NDArray[np.float32]) -> list[float]:
        if self.prefer == "centre":
            return [-value for value in distances.tolist()]
        if self.prefer == "first":
            return [0.0] * len(samples)
        return [similarity_of(sample) for sample in samples]

    def process(self, dataset: NestedDataset) -> NestedDataset:
        """Select rows of the dataset; called by Data-Juicer.

        Raises:
            ImageError: an image cannot be decoded.
        """
        columns = [name for name in (self.image_key, Fields.stats) if name in dataset.column_names]
        samples = [{Fields.stats: {}, **sample} for sample in dataset.select_columns(columns).to_list()]
        for sample, embedding in zip(samples, self.measure(samples), strict=True):
            if isinstance(embedding, ImageError):
                raise embedding
            sample[EMBEDDING] = embedding
        removed = self.verdicts(samples)
        return dataset.select([position for position in range(len(samples)) if position not in removed])

    def __getstate__(self) -> dict[str, Any]:
        """Drop the loaded model, which Data-Juicer's hashing and worker processes cannot use."""
        return {**self.__dict__, "_scorer": None}
