"""The sentence that says whether a recipe is better than its baseline. In: both arms' results on disk. Out: text."""

from __future__ import annotations

from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.experiments.conclusions import conclusions
from bettersynth_assets.experiments.declaration import Declaration
from bettersynth_assets.experiments.kit_score import BENCHMARKS
from bettersynth_assets.experiments.leaderboard import ArmFacts, leaderboard
from bettersynth_assets.experiments.sequential import MIN_SEEDS, Looks
from bettersynth_assets.experiments.table import compare_arms

BASELINE = "baseline"


def conclusion_of(recipe: str, results: Manifest, baseline: Manifest) -> str:
    """Compare a recipe with its baseline on all training seeds of the profile, in one look.

    Args:
        recipe: name of the recipe.
        results: of ``eval_results``.
        baseline: of ``baseline_results``.

    Returns:
        A sentence with the differences and their 95% intervals; an empty text if the arms have no benchmark in common.
    """
    # A recipe may have the baseline's name here, because recipes are compared with random rows only.
    scores = {"recipe": _headlines(results), BASELINE: _headlines(baseline)}
    common = [name for name in scores["recipe"] if name in scores[BASELINE]]
    chosen = tuple(name for name in common if name in BENCHMARKS) or tuple(common)
    if not chosen:
        return ""
    runs = min(len(found[name]) for found in scores.values() for name in chosen)
    declared = Declaration(baseline=BASELINE, benchmarks=chosen, looks=Looks((max(runs, MIN_SEEDS),)))
    table = compare_arms(scores, declared)
    facts = {arm: ArmFacts(arm=recipe if arm == "recipe" else arm) for arm in scores}
    (sentence,) = conclusions(leaderboard(recipe, table, declared, facts))
    return sentence


def _headlines(manifest: Manifest) -> dict[str, dict[int, float]]:
    """Return the headline metrics, by benchmark and training seed."""
    scores: dict[str, dict[int, float]] = {}
    metrics: dict[str, str] = {}
    for row in manifest.table().to_pylist():
        if metrics.setdefault(row["benchmark"], row["metric"]) == row["metric"]:
            scores.setdefault(row["benchmark"], {})[row["seed"]] = row["value"]
    return scores
