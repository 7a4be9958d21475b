"""A ladder as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict

from bettersynth_assets.experiments.conclusions import title
from bettersynth_assets.experiments.ladder import Ladder, Rung, Step

RUNGS = ("rung", "runs per arm", "arms, the best first")
STEPS = ("rungs", "measure", "arms", "pairs ordered alike", "Kendall's tau-b", "p", "decided in both: agree",
         "disagree", "share ordered alike by the verdicts")  # fmt: skip


def as_markdown(found: Ladder) -> str:
    """Format one line per rung, then one per two rungs and measure."""
    rungs = {rung.profile: rung for rung in found.rungs}
    lines = _table(RUNGS, [_rung(name, rungs.get(name)) for name in found.profiles])
    if found.steps:
        lines += ["", *_table(STEPS, [_step(step) for step in found.steps])]
    else:
        lines += ["", "Rungs are compared as soon as two of them have results."]
    if notes := remarks(found):
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join([*lines, ""])


def as_json(found: Ladder) -> str:
    """Format all values, with the remarks."""
    steps = [
        asdict(step) | {"share": step.share, "bounds": None if step.bounds is None else [*step.bounds]}
        for step in found.steps
    ]
    rungs = [
        {
            "profile": rung.profile,
            "order": rung.order(),
            "runs": rung.runs,
            "means": rung.values,
            "recipes": rung.recipes,
        }
        for rung in found.rungs
    ]
    values = {
        "experiment": found.experiment, "profiles": found.profiles, "not_measured": found.not_measured,
        "rungs": rungs, "steps": steps, "remarks": remarks(found),
    }  # fmt: skip
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(found: Ladder) -> str:
    """Format one line per two rungs and measure; rungs that are not measured have one with their name only."""
    text = io.StringIO()
    names = [name for name in Step.__dataclass_fields__ if name != "other_recipes"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "share", "share_low", "share_high", "other_recipes"])
    for step in found.steps:
        low, high = step.bounds or (None, None)
        values = [getattr(step, name) for name in names]
        writer.writerow([*values, step.share, low, high, " ".join(step.other_recipes)])
    for name in found.not_measured:
        writer.writerow([name, "", "not measured", *[""] * (len(names) + 1)])
    return text.getvalue()


FORMATS = {"md": as_markdown, "json": as_json, "csv": as_csv}
"""By the ending of the file."""


def remarks(found: Ladder) -> list[str]:
    """Return what a reader must know about the steps."""
    lines = []
    for step in found.steps:
        if step.other_recipes and step.measure == found.steps[0].measure:
            arms = ", ".join(step.other_recipes)
            lines.append(f"{step.one} and {step.other}: other values of the recipe in the two rungs: {arms}")
    return lines


def _rung(name: str, rung: Rung | None) -> list[str]:
    if rung is None:
        return [name, "", "not measured"]
    runs = sorted({rung.runs[arm] for arm in rung.order()})
    return [name, str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}", ", ".join(rung.order())]


def _step(step: Step) -> list[str]:
    bounds = "" if step.bounds is None else f"{step.bounds[0]:.0%} to {step.bounds[1]:.0%}"
    share = "" if step.share is None else f"{step.alike} of {step.pairs} ({step.share:.0%})"
    tau, p = ("" if value is None else format(value, form) for value, form in ((step.tau, ".2f"), (step.p, ".3g")))
    names = [f"{step.one}, {step.other}", title(step.measure)]
    return [*names, str(step.arms), share, tau, p, str(step.agree), str(step.disagree), bounds]


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
