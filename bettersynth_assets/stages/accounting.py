"""Explains which stage or operator removed the rows when a set is empty. In: manifests. Out: an ``EmptySetError``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.store import Manifest, Slot
from bettersynth_assets.errors import EmptySetError

ROW_STAGES = {
    "seed_profile": ("seed_dataset", "clip_scores"),
    "budgeted_set": ("seed_dataset", "clip_scores", "filtered_set", "recaptioned_set"),
    "baseline_set": ("seed_dataset",),
}
"""The stages that the rows of a set pass before it."""


def empty_set_error(stage: str, settings: Settings, own_rejects: Mapping[str, int] | None = None) -> EmptySetError:
    """Name what removed most of the rows before ``stage``.

    Args:
        stage: the stage that found no rows, one of ``ROW_STAGES``.
        settings: settings, to locate the manifests of earlier stages.
        own_rejects: rows that the stage itself rejected, by operator.
    """
    removed = Counter({(stage, f"operator {operator}"): count for operator, count in (own_rejects or {}).items()})
    rows = 0
    for name in ROW_STAGES[stage]:
        for manifest in _manifests(name, settings):
            rows += manifest.rows_in if name == "seed_dataset" else 0
            removed.update({(name, f"operator {operator}"): count for operator, count in manifest.rejected.items()})
            removed.update({(name, f"quarantine {reason}"): count for reason, count in manifest.quarantined.items()})
    if not removed:
        return EmptySetError(f"{stage}: no rows arrive, because the seed file has none: check the seed file")
    (where, cause), largest = removed.most_common(1)[0]
    others = ", ".join(f"{name} ({stage_name}) {count}" for (stage_name, name), count in removed.most_common()[1:])
    return EmptySetError(
        f"{stage}: no rows are left of {rows}. {cause} of {where} removed most, {largest}"
        + (f"; the others: {others}" if others else "")
        + f". Loosen it in recipe {settings.recipe.name!r}, or correct the quarantined rows in the seed file"
    )


def _manifests(name: str, settings: Settings) -> list[Manifest]:
    roots = (settings.shared_root, settings.recipe_root)
    slots = [Slot(root=root, stage=name, shard=shard) for shard in settings.profile.shard_names() for root in roots]
    return [manifest for slot in slots if (manifest := slot.read()) is not None]
