"""The models of a run, loaded. In: a resolved run. Out: models on this process's device, loaded when first used."""

from __future__ import annotations

from dataclasses import dataclass

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.models.captioners.captioner import Captioner, load_captioner
from bettersynth_assets.models.diffusion import ImageMaker, load_image_maker
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
