"""Files that a run needs and its profile does not name. In: a resolved run. Out: files.

The ``prepare`` functions of stages. A run calls them once, before anything else; everywhere else the miniature world's
files and the image root are plain paths.
"""

from __future__ import annotations

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.records.image_root import link_images
from toolkit.evaluation.benchmarks import BENCHMARKS

REGENERATING = "recaptioned_set"
"""The set whose shards contain the images that a recipe regenerates."""


def prepare_seed(run: ResolvedRun) -> None:
    """Generate the world if the profile names no seed file; link the image root of a recipe that regenerates images.

    Raises:
        SeedError: the seed file's folder has an entry with the reserved name.
    """
    if run.settings.profile.seed is None:
        _generate(run.settings)
    if run.recipe.regenerate is not None:
        seed_images = run.seed.checked_file().parent
        link_images(run.image_root, seed_images=seed_images, regenerated=run.settings.recipe_root / REGENERATING)


def prepare_finetune(run: ResolvedRun) -> None:
    """Generate the world if the profile names no fine-tuning set."""
    training = run.settings.profile.training
    if training.finetune_json is None and training.finetune_images is None:
        _generate(run.settings)


def prepare_benchmarks(run: ResolvedRun) -> None:
    """Generate the world if the profile names a benchmark without its files and the world has them."""
    evaluation = run.settings.profile.evaluation
    for name, values in evaluation.chosen().items():
        named = any(values.get(file.role) is not None for file in BENCHMARKS.get(name).files)
        if not named and run.settings.world.benchmark(name, evaluation.split) is not None:
            _generate(run.settings)
            return


def _generate(settings: Settings) -> None:
    from bettersynth_assets.miniature.generate import generate_world

    profile = settings.profile
    generate_world(settings.world.root, rows=profile.world_rows, report=profile.world_report)
