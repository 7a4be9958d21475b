"""A complete project of minimal size: a world of 60 rows, tiny random models, one training step per stage."""

from __future__ import annotations

from pathlib import Path

import yaml

SHARDS = 2
BUDGET = 12
RECIPE = {
    "process": [
        {"image_shape_filter": {"min_width": 100, "min_height": 100}},
        {"clip_score_filter": {"method": "mean"}},
    ],
    "caption": {"policy": "best_of", "max_new_tokens": 4},
}


def write_tiny_project(root: Path) -> dict[str, str]:
    """Write seed, benchmarks, models, profile and recipe under ``root``.

    Returns:
        The environment variables that select them.
    """
    from bettersynth_assets.config.world_paths import BENCHMARK_FILES
    from bettersynth_assets.miniature.generate import generate_world
    from bettersynth_assets_tests.helpers.small_world import FEWEST
    from tiny_models.profile_models import make_all
    from toolkit.models.mgm.tiny import save_tiny

    world = generate_world(root / "world", rows=60, sizes=FEWEST)
    models = make_all(root / "models")
    save_tiny(root / "models" / "mgm")
    stage = {"global_batch": 4, "per_device_batch": 4, "learning_rate": 1e-3, "max_steps": 1}
    profile = {
        "name": "tiny",
        "seed": str(world.seed_file),
        "shards": SHARDS,
        "budget": BUDGET,
        "default_recipe": "tiny_recipe",
        "models": {
            "clip": str(models.clip),
            "watermark": str(models.watermark),
            "captioner": str(models.captioner),
            "base": str(root / "models" / "mgm"),
        },
        "gpu": {"devices": "cpu"},
        "training": {
            "seeds": [0],
            "stage_1": stage,
            "stage_2": stage,
            "finetune_json": str(world.finetune_json),
            "finetune_images": str(world.finetune_images),
        },
        "evaluation": {
            "batch": 4,
            "benchmarks": {
                name: {role: str(path) for role, path in (world.benchmark(name, "tune") or {}).items()}
                for name in BENCHMARK_FILES
            },
        },
    }
    (root / "recipes").mkdir()
    for name, values in (("tiny_profile", profile), ("recipes/tiny_recipe", RECIPE)):
        (root / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return {
        "BETTERSYNTH_PROFILE": str(root / "tiny_profile.yaml"),
        "BETTERSYNTH_RECIPES": str(root / "recipes"),
        "BETTERSYNTH_DATA": str(root / "data"),
    }
