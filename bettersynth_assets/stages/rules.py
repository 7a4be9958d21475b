"""Checks of the finished sets: rows conserved, columns, shares, budget, losses, answers."""

from __future__ import annotations

import math
from collections import Counter

import pyarrow.parquet as pq

from bettersynth_assets.engine.rules import Evidence, Rule, Verdict


def conservation(evidence: Evidence) -> Verdict:
    """Rows in = kept + rejected + quarantined, and rows in = rows kept by the previous stage."""
    lost = {manifest.shard: manifest.lost for manifest in evidence.manifests if manifest.lost}
    for manifest in evidence.manifests:
        for source, manifests in evidence.upstream.items():
            digests = manifest.inputs.get(source)
            # A shard built from another version of its input is stale; it is checked once it has been rebuilt.
            current = [
                source_manifest
                for source_manifest in manifests
                if len(digests or []) > 1 or source_manifest.shard in (manifest.shard, "all")
            ]
            if digests == [source_manifest.digest for source_manifest in current]:
                difference = sum(source_manifest.kept for source_manifest in current) - manifest.rows_in
                if difference:
                    lost[f"{source} -> {manifest.shard}"] = difference
    rows = sum(manifest.rows_in for manifest in evidence.manifests)
    summary = f"{rows:,} rows in, none lost" if not lost else f"rows that no table accounts for: {lost}"
    return Verdict(passed=not lost, summary=summary, numbers={"rows_in": rows, "lost": sum(map(abs, lost.values()))})


def schema(evidence: Evidence) -> Verdict:
    """The kept table has the declared columns and types."""
    assert evidence.columns is not None
    differing = {}
    for manifest in evidence.manifests:
        columns = pq.read_schema(manifest.file("kept.parquet"))
        if not columns.equals(evidence.columns, check_metadata=False):
            differing[manifest.shard] = sorted(
                str(name)
                for name in {*columns.names, *evidence.columns.names}
                if name not in columns.names
                or name not in evidence.columns.names
                or columns.field(name).type != evidence.columns.field(name).type
            )
    summary = f"{len(evidence.columns)} columns as declared" if not differing else f"columns that differ: {differing}"
    return Verdict(passed=not differing, summary=summary)


def quarantine_share(evidence: Evidence) -> Verdict:
    """The share of quarantined rows is within the profile's limit."""
    rows = sum(manifest.rows_in for manifest in evidence.manifests)
    count = sum(sum(manifest.quarantined.values()) for manifest in evidence.manifests)
    limit = evidence.settings.profile.limits.max_quarantined_share
    share = count / rows if rows else 0.0
    return Verdict(
        passed=share <= limit,
        summary=f"{count:,} of {rows:,} rows quarantined ({share:.2%}); limits.max_quarantined_share is {limit:.2%}",
        numbers={"share": round(share, 6), "limit": limit},
    )


def rows_left(evidence: Evidence) -> Verdict:
    """At least 1% of the rows are kept."""
    rows = sum(manifest.rows_in for manifest in evidence.manifests)
    kept = sum(manifest.kept for manifest in evidence.manifests)
    share = kept / rows if rows else 0.0
    return Verdict(
        passed=share >= 0.01,
        summary=f"{kept:,} of {rows:,} rows kept ({share:.2%}); under 1% a threshold is probably wrong",
        numbers={"share": round(share, 6)},
    )


def thresholds(evidence: Evidence) -> Verdict:
    """The statistics of the similarity are finite, within [-1, 1], not constant, and cover every scored row."""
    (manifest,) = evidence.manifests
    score = manifest.stats["clip_score"]
    scored = sum(scored_shard.kept for scored_shard in evidence.upstream.get("clip_scores", []))
    faults = []
    values = [score["mean"], score["sd"], *score["k_sigma"], *score["percentiles"].values()]
    if not all(math.isfinite(value) for value in values):
        faults.append("a statistic is not finite")
    if not -1 <= score["mean"] <= 1:
        faults.append("the mean is outside [-1, 1]")
    if not score["sd"] > 0:
        faults.append("all scores are the same")
    if manifest.stats["rows"] != scored:
        faults.append(f"{manifest.stats['rows']:,} rows measured of {scored:,} scored")
    summary = f"mean {score['mean']:.4f}, sd {score['sd']:.4f}" + "".join(f"; {fault}" for fault in faults)
    return Verdict(passed=not faults, summary=summary, numbers={"mean": score["mean"], "sd": score["sd"]})


def same_kept(evidence: Evidence) -> Verdict:
    """The written and the planned order of operators keep the same rows of the sample, byte for byte."""
    (manifest,) = evidence.manifests
    rows, differ = manifest.stats["sample_rows"], manifest.stats["kept_rows_that_differ"]
    summary = f"{manifest.stats['sample_rows_kept']:,} of {rows:,} sample rows kept in the recipe's order"
    return Verdict(
        passed=differ == 0,
        summary=summary
        + (f"; {differ:,} differ in the planned order, so the recipe's order is kept" if differ else " and planned"),
        numbers={"sample_rows": rows, "kept_rows_that_differ": differ},
    )


def budget_met(evidence: Evidence) -> Verdict:
    """The exposures equal the budget; with `order: keep`, a smaller set is shown once, as in the original kit."""
    (manifest,) = evidence.manifests
    exposures = sum(manifest.table()["exposures"].to_pylist())
    removed = sum(manifest.quarantined.values()) + sum(manifest.rejected.values()) - manifest.rejected.get("budget", 0)
    is_kept_as_is = (
        manifest.stats.get("order") == "keep" and exposures == manifest.rows_in - removed < evidence.settings.budget
    )
    summary = f"{exposures:,} exposures of {manifest.kept:,} rows; the budget is {evidence.settings.budget:,}"
    return Verdict(
        passed=exposures == evidence.settings.budget or is_kept_as_is,
        summary=summary + (", which `order: keep` does not have to meet" if is_kept_as_is else ""),
        numbers={"exposures": exposures, "budget": evidence.settings.budget},
    )


def finite_loss(evidence: Evidence) -> Verdict:
    """Every training seed has a finite final loss."""
    (manifest,) = evidence.manifests
    losses = {row["seed"]: row["final_loss"] for row in manifest.table().to_pylist()}
    expected = set(evidence.settings.profile.training.seeds)
    failed = sorted(seed for seed in expected if not math.isfinite(losses.get(seed, math.nan)))
    summary = (
        f"training seeds without a finite loss: {failed}" if failed else f"{len(expected)} training seeds, all finite"
    )
    return Verdict(passed=not failed, summary=summary)


def all_answered(evidence: Evidence) -> Verdict:
    """Every question of every benchmark has an answer, for every training seed."""
    (manifest,) = evidence.manifests
    answered: Counter[tuple[str, int]] = Counter()
    for row in manifest.table("questions").select(["seed", "benchmark", "answer"]).to_pylist():
        answered[row["benchmark"], row["seed"]] += row["answer"] is not None
    expected = {
        (name, seed): manifest.stats["questions"].get(name, 0)
        for name in evidence.settings.profile.evaluation.chosen()
        for seed in evidence.settings.profile.training.seeds
    }
    missing = {
        f"{name} of seed {seed}": count - answered[name, seed] if count else "no questions"
        for (name, seed), count in expected.items()
        if count != answered[name, seed] or not count
    }
    summary = f"answers missing: {missing}" if missing else f"{sum(answered.values()):,} answers"
    return Verdict(passed=not missing, summary=summary)


CONSERVATION = Rule(name="rows_conserved", description=conservation.__doc__ or "", judge=conservation)
SCHEMA = Rule(name="schema", description=schema.__doc__ or "", judge=schema)
QUARANTINE = Rule(
    name="quarantine_share",
    description=quarantine_share.__doc__ or "",
    judge=quarantine_share,
    fix="the shards' quarantine tables name each row and its fault; fix the rows, or raise the limit in the profile",
)
ROWS_LEFT = Rule(name="rows_left", description=rows_left.__doc__ or "", judge=rows_left, blocking=False)
THRESHOLDS = Rule(name="threshold_sanity", description=thresholds.__doc__ or "", judge=thresholds)
SAME_KEPT = Rule(name="same_kept_rows", description=same_kept.__doc__ or "", judge=same_kept)
BUDGET_MET = Rule(name="budget_met", description=budget_met.__doc__ or "", judge=budget_met)
FINITE_LOSS = Rule(name="finite_loss", description=finite_loss.__doc__ or "", judge=finite_loss)
ALL_ANSWERED = Rule(name="all_answered", description=all_answered.__doc__ or "", judge=all_answered)
EVERY_ROW_SET = (CONSERVATION, SCHEMA, QUARANTINE)
