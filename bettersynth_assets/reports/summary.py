"""Summary of a run in one table. In: the manifests on disk. Out: text, and ``summary.json`` in the recipe's folder.

``python -m bettersynth_assets.reports.summary [RECIPE]`` prints it, by default for the profile's default recipe. It
only reads manifests; stages that have not run are omitted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.settings import Settings, load_settings
from bettersynth_assets.engine.pipeline import Pipeline
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.errors.storage import is_read_only
from bettersynth_assets.experiments.conclusions import TUNE_ONLY
from bettersynth_assets.reports.verdict import conclusion_of
from bettersynth_assets.reports.world_quality import world_quality
from bettersynth_assets.stages.graph import STAGES
from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.file_errors import EnvironmentFault
from toolkit.files import write_atomically

FILE = "summary.json"
MINIATURE_MODELS = PROJECT_ROOT / "bettersynth_assets" / "miniature" / "weights"
LIKELIHOOD = "log_probability_per_token"
OPEN_UI = "dagster dev, then http://127.0.0.1:3000"
Summary = dict[str, Any]


def summarize(settings: Settings) -> Summary:
    """Collect the figures of all stages on disk.

    Returns:
        JSON values: ``stages`` (rows in and out, seconds), ``thresholds``, ``arms`` (by benchmark and metric, headline
        metric first: mean, sd, n, chance level (null if unknown) and values per training seed), ``kit_score``, or
        ``no_kit_score`` with the reason why there is none, ``conclusion`` (the comparison with the baseline in one
        sentence), ``note`` on the validity of the figures, and ``quality`` for the miniature.
    """
    pipeline = Pipeline(STAGES, ResolvedRun(settings))
    stage_manifests = {name: manifests for name in pipeline.stages if (manifests := pipeline.current(name))}
    results = {
        name: stage_manifests[name][0] for name in ("eval_results", "baseline_results") if name in stage_manifests
    }
    summary: Summary = {
        "profile": settings.profile.name,
        "recipe": settings.recipe.name,
        "seed": settings.profile.seed or "the generated miniature world",
        "data_root": str(settings.data_root),
        "note": _validity_note(settings),
        "stages": [_stage(name, manifests) for name, manifests in stage_manifests.items()],
        "thresholds": _thresholds(stage_manifests),
        "arms": {
            name: _arm(results[stage])
            for name, stage in ((settings.recipe.name, "eval_results"), ("baseline", "baseline_results"))
            if stage in results
        },
        "split": next((found.stats.get("split", "report") for found in results.values()), None),
        "kit_score": results["eval_results"].stats.get("kit_score") if "eval_results" in results else None,
        "kit_score_se": results["eval_results"].stats.get("kit_score_se") if "eval_results" in results else None,
        "no_kit_score": results["eval_results"].stats.get("no_kit_score") if "eval_results" in results else None,
    }
    if len(results) == 2:
        summary["conclusion"] = conclusion_of(settings.recipe.name, *results.values())
    if settings.profile.seed is None and stage_manifests:
        summary["quality"] = world_quality(settings.world.truth, stage_manifests)
    return summary


def write_summary(settings: Settings) -> Summary:
    """Collect the figures and write ``summary.json`` to the recipe's folder, unless that is read-only."""
    summary = summarize(settings)
    path, text = settings.recipe_root / FILE, json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
        except (OSError, EnvironmentFault) as error:
            if not is_read_only(error):
                raise
    return summary


def as_text(summary: Summary) -> str:
    """Format the summary as a table for people."""
    lines = [f"profile {summary['profile']}, recipe {summary['recipe']}, seed: {summary['seed']}", ""]
    heads = ("stage", "shards", "rows in", "kept", "rejected", "quarantined", "seconds")
    rows = [
        [
            stage["name"],
            *(f"{stage[key]:,}" for key in ("shards", "rows_in", "kept")),
            f"{sum(stage['rejected'].values()):,}",
            f"{sum(stage['quarantined'].values()):,}",
            f"{stage['seconds']:,.1f}",
        ]
        for stage in summary["stages"]
    ]
    lines += _columns(heads, rows)
    lines += ["", *(f"{name}: {value}" for name, value in summary["thresholds"].items())]
    if summary["arms"]:
        lines += ["", TUNE_ONLY if summary["split"] == "tune" else f"split {summary['split']}"]
        lines += ["", *_arm_tables(summary["arms"])]
    if summary["kit_score"] is not None:
        score = (
            f"{summary['kit_score']:.3f} ± {summary['kit_score_se']:.3f} (standard error, with the baseline's noise)"
        )
        lines += ["", f"kit score against the baseline: {score}"]
    elif summary["no_kit_score"]:
        lines += ["", f"no kit score: {summary['no_kit_score']}"]
    if "quality" in summary:
        lines += ["", "compared with the ground truth of the miniature world:", *_flat(summary["quality"])]
    lines += ["", *([summary["note"]] if summary["note"] else []), f"{FILE}: {_path_of(summary)}"]
    lines += [f"UI: {OPEN_UI}"]
    if summary.get("conclusion"):
        lines += ["", summary["conclusion"]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m bettersynth_assets.reports.summary", description="Print the results of a recipe."
    )
    parser.add_argument("recipe", nargs="?", help="name of a recipe, or path of its file; default: the profile's")
    parsed = parser.parse_args(arguments)
    try:
        print(as_text(write_summary(load_settings(recipe=parsed.recipe))))
    except ValueError as error:  # a UserError, or rows of a world that was replaced
        print(error, file=sys.stderr)
        return 1
    return 0


def _path_of(summary: Summary) -> Path:
    return Path(summary["data_root"]) / summary["profile"] / summary["recipe"] / FILE


def _stage(name: str, manifests: list[Manifest]) -> dict[str, Any]:
    rejected: dict[str, int] = {}
    quarantined: dict[str, int] = {}
    for manifest in manifests:
        for total, counts in ((rejected, manifest.rejected), (quarantined, manifest.quarantined)):
            for reason, count in counts.items():
                total[reason] = total.get(reason, 0) + count
    return {
        "name": name,
        "shards": len(manifests),
        "rows_in": sum(manifest.rows_in for manifest in manifests),
        "kept": sum(manifest.kept for manifest in manifests),
        "rejected": dict(sorted(rejected.items())),
        "quarantined": dict(sorted(quarantined.items())),
        "seconds": round(sum(manifest.seconds for manifest in manifests), 3),
    }


def _thresholds(stage_manifests: dict[str, list[Manifest]]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if "seed_profile" in stage_manifests:
        score = stage_manifests["seed_profile"][0].stats["clip_score"]
        shown["similarity of the seed, mean"] = round(score["mean"], 6)
        shown["similarity of the seed, sd"] = round(score["sd"], 6)
    for stage, key in (("filtered_set", "process"), ("recaptioned_set", "refilter")):
        for operator in stage_manifests[stage][0].stats.get(key, []) if stage in stage_manifests else []:
            ((name, arguments),) = operator.items()
            shown[f"{stage} {name}"] = json.dumps(arguments, sort_keys=True)
    return shown


def _arm(manifest: Manifest) -> dict[str, Any]:
    """Return every metric of an arm with its values per training seed, headline metrics first."""
    arm: dict[str, Any] = {}
    for row in manifest.table().to_pylist():
        benchmark, metric = row["benchmark"], row["metric"]
        chance = manifest.stats.get("chance", {}).get(benchmark, {}).get(metric)
        summary = {**manifest.stats["metrics"][benchmark][metric], "chance": chance, "per_seed": {}}
        entry = arm.setdefault(benchmark, {}).setdefault(metric, summary)
        entry["per_seed"][str(row["seed"])] = row["value"]
    return arm


def _arm_tables(arms: dict[str, dict[str, Any]]) -> list[str]:
    """Format headline metrics and likelihood of the correct answers: one column per benchmark, one row per arm."""
    lines: list[str] = []
    benchmarks = list(dict.fromkeys(name for arm in arms.values() for name in arm))
    headlines = {name: next(iter(arm[name])) for arm in arms.values() for name in arm}
    for metrics, digits in ((headlines, 2), (dict.fromkeys(benchmarks, LIKELIHOOD), 4)):
        shown = [name for name in benchmarks if any(metrics[name] in arm.get(name, {}) for arm in arms.values())]
        if not shown:
            continue
        heads = [f"{_title(name)} {metrics[name]}, {_size_and_chance(arms, name, metrics[name])}" for name in shown]
        if metrics is not headlines:
            lines += ["", "log-probability of the correct answer per token, nats:"]
            heads = [_title(name) for name in shown]
        rows = [
            [
                name,
                *(_cell(arm.get(benchmark, {}).get(metrics[benchmark]), digits) for benchmark in shown),
                str(_seeds(arm)),
            ]
            for name, arm in arms.items()
        ]
        lines += _columns(("arm", *heads, "seeds"), rows)
    return lines


def _cell(figures: dict[str, Any] | None, digits: int) -> str:
    if figures is None:
        return "-"
    spread = "" if figures["sd"] is None else f" ± {figures['sd']:.{digits}f}"
    return f"{figures['mean']:.{digits}f}{spread}"


def _title(benchmark: str) -> str:
    return BENCHMARKS.get(benchmark).title if benchmark in BENCHMARKS.names() else benchmark


def _size_and_chance(arms: dict[str, dict[str, Any]], benchmark: str, metric: str) -> str:
    figures = next(arm[benchmark][metric] for arm in arms.values() if metric in arm.get(benchmark, {}))
    chance = "" if figures["chance"] is None else f", chance {figures['chance']:.2f}"
    return f"n {int(figures['n'])}{chance}"


def _seeds(arm: dict[str, Any]) -> int:
    return max(len(figures["per_seed"]) for metrics in arm.values() for figures in metrics.values())


def _validity_note(settings: Settings) -> str:
    """Return a warning about the validity of the scores, or an empty text."""
    miniature_models = [
        role
        for role, name in settings.profile.models.model_dump().items()
        if name is not None and (PROJECT_ROOT / name).is_relative_to(MINIATURE_MODELS)
    ]
    if not miniature_models:
        return ""
    generated = settings.profile.seed is None
    world = "" if generated else ", and the seed file is not from the world that they were trained on"
    return (
        f"The small models of the miniature were used ({', '.join(miniature_models)}){world}: the figures show how the "
        "pipeline behaves and say nothing about MGM-2B."
    )


def _flat(values: dict[str, Any], prefix: str = "  ") -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{prefix}{name}", *_flat(value, prefix + "  ")]
        else:
            lines.append(f"{prefix}{name}: {value:.4f}" if isinstance(value, float) else f"{prefix}{name}: {value}")
    return lines


def _columns(heads: Sequence[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [list(heads), *rows]) for column in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [list(heads), *rows]
    ]


if __name__ == "__main__":
    sys.exit(main())
