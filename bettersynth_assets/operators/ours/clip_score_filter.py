"""``clip_score_filter``: our similarity filter as a Data-Juicer operator. Reads or computes ``image_text_similarity``.

In a recipe of this project the limits are computed from all shards' scores (see ``thresholds``) and passed as
``min_score`` and ``max_score``. In plain ``dj-process`` the operator scores rows without a score in batches, and
computes the limits of ``mean``, ``k_sigma``, ``percentile`` and ``top_k`` from the rows that reach it. Its spec is in
``thresholds``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields, StatsKeys
from data_juicer.utils.mm_utils import load_image, remove_special_tokens

from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.operators.thresholds import NAME, score_limits

if TYPE_CHECKING:
    from data_juicer.core import Exporter, NestedDataset, Tracer

SCORE = StatsKeys.image_text_similarity


@OPERATORS.register_module(NAME)
class ClipScoreFilter(Filter):
    """Keep rows whose image-text cosine lies within limits that are passed or computed from the dataset."""

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        clip_model: str = "openai/clip-vit-base-patch32",
        method: str = "mean",
        k: float | None = None,
        low: float | None = None,
        high: float | None = None,
        count: int | None = None,
        share: float | None = None,
        min_score: float | None = None,
        max_score: float | None = None,
        last_tied_id: str | None = None,
        clip_batch: int = 64,
        dtype: str = "float32",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Set up the filter.

        Args:
            clip_model: folder or hub id of an OpenCLIP or transformers CLIP checkpoint; loaded only if needed.
            method: ``mean``, ``k_sigma``, ``percentile``, ``top_k`` or ``min``; with the arguments of
                ``thresholds.score_limits``.
            k: ``k_sigma``: half-width in standard deviations.
            low: ``percentile``: lower bound, 0 to 100.
            high: ``percentile``: upper bound, 0 to 100.
            count: ``top_k``: rows to keep.
            share: ``top_k``: share of rows to keep, 0 to 1.
            min_score: lowest cosine to keep; if it or ``max_score`` is set, ``method`` only documents its origin.
            max_score: highest cosine to keep.
            last_tied_id: of rows at exactly ``min_score``, the last id to keep; None keeps them all.
            clip_batch: pairs per model call.
            dtype: ``float32`` or ``bfloat16``.
            *args: arguments of Data-Juicer.
            **kwargs: arguments of Data-Juicer.
        """
        super().__init__(*args, **kwargs)
        method_arguments = {"method": method, "k": k, "low": low, "high": high, "count": count, "share": share}
        self.arguments = {name: value for name, value in method_arguments.items() if value is not None}
        self.min_score, self.max_score, self.last_tied_id = min_score, max_score, last_tied_id
        self.has_limits = min_score is not None or max_score is not None
        self.clip_model, self.clip_batch, self.dtype = clip_model, clip_batch, dtype
        self._scorer: ClipScorer | None = None

    def compute_stats_batched(
        self, samples: dict[str, list[Any]], rank: int | None = None, context: bool = False
    ) -> dict[str, list[Any]]:
        """Score the rows that have no ``image_text_similarity`` yet; a row without an image gets an empty list."""
        stats = samples[Fields.stats]
        missing = [index for index, stat in enumerate(stats) if SCORE not in stat]
        pairs = [index for index in missing if samples[self.image_key][index]]
        for index in missing:
            stats[index][SCORE] = []
        if pairs:
            if self._scorer is None:
                device = f"cuda:{rank or 0}" if self.use_cuda() else "cpu"
                model = resolve_model(self.clip_model, role="clip")
                self._scorer = ClipScorer(model.name, device=device, dtype=self.dtype, batch=self.clip_batch)
            scores = self._scorer.scores(
                [load_image(samples[self.image_key][index][0]) for index in pairs],
                [remove_special_tokens(samples[self.text_key][index]) for index in pairs],
            )
            for index, score in zip(pairs, scores.tolist(), strict=True):
                stats[index][SCORE] = [score]
        return samples

    def process_batched(self, samples: dict[str, list[Any]]) -> list[bool]:
        """Keep rows within the limits, and rows without an image, as Data-Juicer's filter does."""
        ids = samples.get("id", [None] * len(samples[Fields.stats]))
        return [self._keeps(stat[SCORE], row_id) for stat, row_id in zip(samples[Fields.stats], ids, strict=True)]

    def _keeps(self, scores: list[float], row_id: str | None) -> bool:
        if not len(scores):
            return True
        if not self.get_keep_boolean(scores[0], self.min_score, self.max_score):
            return False
        if self.last_tied_id is None or row_id is None or scores[0] != self.min_score:
            return True
        return row_id <= self.last_tied_id

    def run(
        self,
        dataset: NestedDataset,
        *,
        exporter: Exporter | None = None,
        tracer: Tracer | None = None,
        reduce: bool = True,
    ) -> NestedDataset:
        """Score all rows, compute the limits from them if none are set, then filter; called by Data-Juicer."""
        if reduce and not self.has_limits:
            dataset = super().run(dataset, exporter=exporter, tracer=tracer, reduce=False)
            scores = [stat[SCORE][0] for stat in dataset[Fields.stats] if len(stat[SCORE])]
            self.min_score, self.max_score = score_limits(self.arguments, scores)
        return super().run(dataset, exporter=exporter, tracer=tracer, reduce=reduce)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the loaded model, which Data-Juicer's hashing and worker processes cannot use."""
        return {**self.__dict__, "_scorer": None}
