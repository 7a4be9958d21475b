"""The generated miniature world in the place of files that a profile does not name. In: settings. Out: files.

The ``prepare`` functions of stages. A run calls them once, before anything else; everywhere else the world's files are
plain paths (``Settings.world``).
"""

from __future__ import annotations

from bettersynth_assets.config.settings import Settings
from toolkit.evaluation.benchmarks import BENCHMARKS


def prepare_seed(settings: Settings) -> None:
    """Generate the world if the profile names no seed file."""
    if settings.profile.seed is None:
        _generate(settings)


def prepare_finetune(settings: Settings) -> None:
    """Generate the world if the profile names no fine-tuning set."""
    training = settings.profile.training
    if training.finetune_json is None and training.finetune_images is None:
        _generate(settings)


def prepare_benchmarks(settings: Settings) -> None:
    """Generate the world if the profile names a benchmark without its files and the world has them."""
    for name, values in settings.profile.evaluation.chosen().items():
        named = any(values.get(file.role) is not None for file in BENCHMARKS.get(name).files)
        if not named and settings.world.benchmark(name) is not None:
            _generate(settings)
            return


def _generate(settings: Settings) -> None:
    from bettersynth_assets.miniature.generate import generate_world

    generate_world(settings.world.root, rows=settings.profile.world_rows)
