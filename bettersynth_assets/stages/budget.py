"""budgeted_set and baseline_set. In: all remaining rows, or all of the seed file. Out: exactly N exposures of them.

The recipe's ``budget.select`` first removes rows that are too similar to others (``selection``). The remaining rows, in
the order of the seed file, are drawn as by the kit and the third-place team, by
``toolkit.preprocess.check_sample_number``. The same exposures are also written in training order: as the kit's
``processed_data.jsonl``, with the seed file's extra fields, and as ``llava.json`` with the original questions.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bettersynth_assets.config.recipe import BudgetSection
from bettersynth_assets.config.settings import Settings
from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets.records.questions import questions_key, read_questions
from bettersynth_assets.records.schema import BUDGETED, QUARANTINE, REJECTS, SEED, rows_table
from bettersynth_assets.stages.accounting import empty_set_error
from bettersynth_assets.stages.recipe_check import check_recipe
from bettersynth_assets.stages.rules import BUDGET_MET, EVERY_ROW_SET
from bettersynth_assets.stages.seed import seed_versions
from bettersynth_assets.stages.selection import select_inputs, select_key, select_rows
from toolkit.files import write_atomically
from toolkit.tokens import kit_text

KIT_FILE = "processed_data.jsonl"
LLAVA_FILE = "llava.json"
OPERATOR = "budget"
LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
Section = Callable[[Settings], BudgetSection]


def section_of_recipe(settings: Settings) -> BudgetSection:
    return settings.recipe.budget


def section_of_baseline(settings: Settings) -> BudgetSection:
    """Return the section of the baseline, whose rows are always drawn at random; the recipe only sets their number."""
    return BudgetSection(seed=settings.draw_seed)


def run(work: Work, *, name: str, source: str, section_of: Section) -> Result:
    """Fill the budget from all shards of ``source``.

    Args:
        work: settings and inputs.
        name: name of the stage.
        source: the stage whose rows fill the budget.
        section_of: returns how the budget is filled.

    Raises:
        EmptySetError: there are no rows; names what removed most of them.
    """
    from toolkit.preprocess.check_sample_number import fill_budget, repeat_factor
    from toolkit.preprocess.dj_to_llava import to_llava

    settings = work.settings
    section = section_of(settings)
    offered = work.rows(source).sort_by("line")
    if not offered.num_rows:
        raise empty_set_error(name, settings)
    selected = select_rows(work, offered, stage=name) if section.select else None
    rows = selected.kept if selected else offered
    drawn = draw_rows(rows.num_rows, section)
    filled = fill_budget(len(drawn), settings.budget, random_seed=section.seed, order=section.order)
    order = [drawn[place] for place in filled]
    kept, rejects = split_by_exposures(rows, order, stage=name, budget=settings.budget)
    questions = read_questions(work.run.seed)
    kit_rows = as_kit_rows(kept)
    kit_lines = [_line(row) for row in kit_rows]
    llava_rows = to_llava(kit_rows, questions)
    # Captions hold no reserved tokens (records.reserved), so both formats have equal captions.
    assert [row["conversations"][1]["value"] for row in llava_rows] == kept["caption"].to_pylist()
    llava_lines = [_line(row) for row in llava_rows]
    shown = np.searchsorted(np.unique(order), order).tolist()  # positions among the kept rows, in training order
    write_atomically(work.folder / KIT_FILE, "".join(kit_lines[place] + "\n" for place in shown))
    write_atomically(work.folder / LLAVA_FILE, "[\n" + ",\n".join(llava_lines[place] for place in shown) + "\n]\n")
    stats: dict[str, Any] = {
        "budget": settings.budget,
        "order": section.order,
        "exposures": len(order),
        "budget_met": len(order) == settings.budget,
        "repeats": repeat_factor(len(drawn), len(order)),
        "exposures_per_row": _histogram(kept, not_drawn=rejects.num_rows),
        "original_questions": sum(row_id in questions for row_id in kept["id"].to_pylist()),
    }
    if selected:
        rejects = pa.concat_tables([selected.rejects, rejects])
        stats |= {"select": section.select, "operators": selected.operators}
    return Result(
        rows_in=offered.num_rows,
        kept=kept,
        rejects=rejects,
        quarantine=selected.quarantine if selected else QUARANTINE.empty_table(),
        stats=stats,
        files=(KIT_FILE, LLAVA_FILE),
    )


def draw_rows(n_rows: int, section: BudgetSection) -> Sequence[int]:
    """Return the rows that may be used, ascending: all, or the ``rows`` of them that the random seed draws."""
    if section.rows is None or section.rows >= n_rows:
        return range(n_rows)
    order = random.Random(f"rows {section.seed}").sample(range(n_rows), n_rows)
    return sorted(order[: section.rows])


def split_by_exposures(rows: pa.Table, order: list[int], *, stage: str, budget: int) -> tuple[pa.Table, pa.Table]:
    """Count how often each row was drawn.

    Args:
        rows: all rows, in line order.
        order: positions in ``rows``, one per exposure, in training order.
        stage: name for the table of rejects.
        budget: number of exposures, for the table of rejects.

    Returns:
        Drawn rows with ``exposures``, in line order; rows that were not drawn, as rejects.
    """
    exposures = np.bincount(np.asarray(order, dtype=np.int64), minlength=rows.num_rows).astype(np.int32)
    rows = rows.append_column("exposures", pa.array(exposures))
    is_drawn = pc.greater(rows["exposures"], 0)
    left_out = rows.filter(pc.invert(is_drawn)).select(["id", "line"]).to_pylist()
    rejects = [
        {
            **row,
            "stage": stage,
            "operator": OPERATOR,
            "reason": f"not among the {budget} drawn of {rows.num_rows} rows",
            "value": 0.0,
            "limit": json.dumps({"exposures": budget}),
        }
        for row in left_out
    ]
    return rows.filter(is_drawn), rows_table(rejects, REJECTS)


def as_kit_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Convert rows to the kit's format in the same order; extra fields of the seed file follow the kit's fields.

    ``llava.json`` does not contain the extra fields: no trainer reads them, and the training depends on that file.
    """
    return [
        {
            "id": row["id"],
            "text": kit_text(row["caption"]),
            "images": [row["image"]],
            **json.loads(row["extra"] or "{}"),
        }
        for row in rows.select(["id", "caption", "image", "extra"]).to_pylist()
    ]


def _line(row: dict[str, Any]) -> str:
    """Format one line of UTF-8 as in the kit; escapes characters that some readers treat as line ends."""
    return json.dumps(row, ensure_ascii=False).translate(LINE_ENDS)


def _histogram(kept: pa.Table, *, not_drawn: int) -> dict[str, int]:
    """Count rows by number of exposures: ``{"3": 120, "4": 380}``."""
    counts = Counter(kept["exposures"].to_pylist())
    counts[0] = not_drawn
    return {str(times): rows for times, rows in sorted(counts.items()) if rows}


def depends(run: ResolvedRun, shard: str, inputs: Inputs, *, section_of: Section) -> object:
    section = section_of(run.settings)
    return {
        "budget": run.settings.budget,
        "section": section.key(),
        "questions": questions_key(run.seed),
        **(select_key(run, inputs) if section.select else {}),
    }


BUDGETED_SET = Stage(
    name="budgeted_set",
    version=1,
    columns=BUDGETED,
    rules=(*EVERY_ROW_SET, BUDGET_MET),
    run=partial(run, name="budgeted_set", source="recaptioned_set", section_of=section_of_recipe),
    depends=partial(depends, section_of=section_of_recipe),
    files=seed_versions,
    sharded=False,
    inputs=("recaptioned_set",),
    by_value=("seed_profile",),
    additional_inputs=select_inputs,
    preflight=check_recipe,
)
BASELINE_SET = Stage(
    name="baseline_set",
    version=1,
    columns=SEED.append(BUDGETED.field("exposures")),
    rules=(*EVERY_ROW_SET, BUDGET_MET),
    run=partial(run, name="baseline_set", source="seed_dataset", section_of=section_of_baseline),
    depends=partial(depends, section_of=section_of_baseline),
    files=seed_versions,
    sharded=False,
    inputs=("seed_dataset",),
    scope="budget",
)
