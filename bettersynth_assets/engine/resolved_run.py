"""What a run's profile and recipe name, as values. In: settings. Out: a ``ResolvedRun``.

Each value is resolved once per run, when it is first needed: a run of clip_scores alone needs no captioner. A run that
is pickled for a worker carries the values that it has. Nothing here writes a file or generates the miniature world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from bettersynth_assets.config.fixed_data import FinetuneFiles, benchmark_files, finetune_files
from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.config.operator_models import OperatorModels
from bettersynth_assets.config.profile import absolute
from bettersynth_assets.config.recipe import Recipe
from bettersynth_assets.config.resolved_model import ResolvedModel, resolve_model
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.images.paths import Roots, real_roots
from bettersynth_assets.records.seed_source import QUESTIONS_FILE, SeedSource
from bettersynth_assets.scheduler.devices import resolve_devices


@dataclass(frozen=True)
class ResolvedRun:
    """Settings of a run, and the models, files and folders that they name.

    Except for ``device``, values do not depend on the ``gpu`` section, which differs between the processes of a run
    (``with_gpu``).
    """

    settings: Settings
    passed: set[Callable[[ResolvedRun], Sequence[str]]] = field(default_factory=set, repr=False, compare=False)
    """Preflight checks that this run has passed (``Stage.preflight``)."""

    @property
    def recipe(self) -> Recipe:
        return self.settings.recipe

    @property
    def gpu(self) -> Gpu:
        return self.settings.profile.gpu

    @property
    def device(self) -> str:
        """Torch's name of the first device of this process.

        Raises:
            DeviceError: a GPU that does not exist.
        """
        return resolve_devices(self.gpu)[0]

    def with_gpu(self, gpu: Gpu) -> Self:
        """Return a copy with another ``gpu`` section that shares all resolved values."""
        changed = copy(self)
        profile = self.settings.profile.model_copy(update={"gpu": gpu})
        vars(changed)["settings"] = replace(self.settings, profile=profile)
        return changed

    @cached_property
    def seed(self) -> SeedSource:
        """The seed file and its questions; the miniature world's if the profile names none."""
        profile, world = self.settings.profile, self.settings.world
        file = world.seed_file if profile.seed is None else absolute(profile.seed)
        return SeedSource(
            file=file,
            questions=file.with_name(QUESTIONS_FILE) if profile.questions is None else absolute(profile.questions),
            questions_named=profile.questions,
            decoded=self.settings.shared_root / "decoded",
            limits=profile.limits,
            is_generated=profile.seed is None,
        )

    @property
    def image_root(self) -> Path:
        """Folder that image paths of rows are relative to.

        The seed file's folder. If the recipe regenerates images, a folder of the recipe that combines both kinds
        (``records.image_root``).
        """
        return self.seed.images if self.recipe.regenerate is None else self.settings.recipe_root / "image_root"

    @cached_property
    def image_roots(self) -> Roots:
        """Further folders that links to images may point into.

        Raises:
            ConfigError: a folder does not exist.
        """
        return real_roots(self.settings.profile.image_roots)

    @cached_property
    def scorer(self) -> ResolvedModel:
        """The model of image-text similarity. Like the following models, raises ConfigError if it does not exist."""
        return resolve_model(self.settings.profile.models.clip, role="clip")

    @cached_property
    def captioner(self) -> ResolvedModel:
        return resolve_model(self.settings.profile.models.captioner, role="captioner")

    @cached_property
    def base(self) -> ResolvedModel:
        """The model that both arms train from."""
        return resolve_model(self.settings.profile.models.base, role="base")

    @cached_property
    def diffusion(self) -> ResolvedModel:
        """The text-to-image pipeline.

        Raises:
            ConfigError: the profile names none, or one that does not exist.
        """
        profile = self.settings.profile
        if profile.models.diffusion is None:
            raise ConfigError(
                "the recipe's `regenerate` section needs a text-to-image pipeline, but profile "
                f"{profile.name!r} has none: set models.diffusion to a folder or hub id of a diffusers pipeline, or "
                "remove the section"
            )
        return resolve_model(profile.models.diffusion, role="diffusion")

    @cached_property
    def operator_models(self) -> OperatorModels:
        """Models that operators of the recipe load."""
        return OperatorModels(self.settings.profile.models)

    @cached_property
    def finetune(self) -> FinetuneFiles:
        """The fine-tuning set of both arms.

        Raises:
            ConfigError: see ``finetune_files``.
        """
        return finetune_files(self.settings.profile.training, self.settings.world)

    @cached_property
    def benchmarks(self) -> dict[str, dict[str, Any]]:
        """Files (absolute, by role) and options of the benchmarks, by name.

        Raises:
            ConfigError: see ``benchmark_files``.
        """
        return benchmark_files(self.settings.profile.evaluation, self.settings.world)
