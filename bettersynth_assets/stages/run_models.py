"""The models of a run, loaded. In: a resolved run. Out: models on this process's device, loaded when first used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.models.captioners.captioner import Captioner, load_captioner
from bettersynth_assets.models.diffusion import ImageMaker, load_image_maker
from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.models.scorers.clip_score import ClipScorer, load_scorer


@dataclass(frozen=True)
class RunModels:
    """Models of a run; the functions that load them keep them for all shards of the process."""

    run: ResolvedRun

    @property
    def scorer(self) -> ClipScorer:
        return load_scorer(self.run.scorer, self.run.gpu)

    @property
    def captioner(self) -> Captioner:
        return load_captioner(self.run.captioner, self.run.gpu)

    @property
    def image_maker(self) -> ImageMaker:
        return load_image_maker(self.run.diffusion, self.run.gpu)

    def similarities(self, paths: Sequence[Path], captions: Sequence[str]) -> Sequence[float | ImageError]:
        """Score pairs with the model of clip_scores, which is only loaded if there are any."""
        if not captions:
            return []
        scored = score_files(self.scorer, paths, captions)
        return [scored.errors.get(index, score) for index, score in enumerate(scored.scores.tolist())]
