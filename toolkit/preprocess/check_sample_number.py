"""Brings a data set to its sample budget, as the kit's ``check_sample_number.py`` and the third-place team's do.

In: number of rows, or a file of rows (``row_files``). Out: row indices, one per exposure; or these rows as JSON lines.

* Over budget: ``random.sample`` of the budget's size, seed 1024 (kit).
* Under budget, ``order="shuffle"`` (third place): ``random.sample(rows, min(missing, len(rows)))`` until full, which is
  shuffled whole passes and one partial pass.
* Under budget, ``order="keep"`` (kit): every row once, in order; the budget is not filled.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from toolkit.file_errors import EnvironmentFault
from toolkit.files import write_atomically
from toolkit.preprocess.row_files import RowFileError, raw_rows

Order = Literal["shuffle", "keep"]
KIT_SEED = 1024
KIT_BUDGET = 200_000


class BudgetError(ValueError):
    """A budget that cannot be met."""


def fill_budget(n_rows: int, budget: int, *, seed: int = KIT_SEED, order: Order = "shuffle") -> list[int]:
    """Choose which row each exposure shows.

    Args:
        n_rows: rows there are; index ``i`` stands for row ``i``.
        budget: exposures wanted.
        seed: of ``random.Random``; the kit's is 1024.
        order: ``shuffle`` fills the budget by repetition, ``keep`` leaves a set under budget as it is.

    Returns:
        ``budget`` indices (``n_rows`` for ``keep`` under budget), equal to what ``random.seed(seed)`` followed by the
        kit's calls of ``random.sample`` on the rows themselves would give.

    Raises:
        BudgetError: no rows, a budget below 1, or an unknown order.
    """
    if budget < 1:
        raise BudgetError(f"budget {budget} is not positive; ask for at least 1 exposure")
    if n_rows < 1:
        raise BudgetError(f"no rows left to fill a budget of {budget}; loosen the filters")
    if order not in get_args(Order):
        raise BudgetError(f"order {order!r} is unknown; use one of {get_args(Order)}")
    if order == "keep" and n_rows <= budget:
        return list(range(n_rows))
    generator = random.Random(seed)
    chosen: list[int] = []
    while len(chosen) < budget:
        chosen.extend(generator.sample(range(n_rows), min(budget - len(chosen), n_rows)))
    return chosen


def repeat_factor(n_rows: int, exposures: int) -> float:
    """Mean times that a row is shown, e.g. 3.76 in the third-place team's best run."""
    return exposures / n_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Command: read a JSONL file, write the budgeted one, print one JSON line of counts."""
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.preprocess.check_sample_number", description="Bring a JSONL file to its sample budget."
    )
    parser.add_argument("--input", type=Path, required=True, help="JSONL file")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file to write; may be the input")
    parser.add_argument("--budget", type=int, default=KIT_BUDGET, help=f"rows to write; {KIT_BUDGET} as in the kit")
    parser.add_argument("--seed", type=int, default=KIT_SEED, help=f"of the drawing; {KIT_SEED} as in the kit")
    parser.add_argument(
        "--order", choices=get_args(Order), default="shuffle",
        help="under budget: shuffle fills it by repetition, keep leaves the rows as they are (the kit's way)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        # A row of a JSON array may stand on several lines; in JSON a line break is a space.
        lines = [raw.replace(b"\n", b" ") for _, raw in raw_rows(given.input)]
        chosen = fill_budget(len(lines), given.budget, seed=given.seed, order=given.order)
    except (RowFileError, EnvironmentFault) as error:
        parser.exit(2, f"error: {error}\n")
    except (BudgetError, OSError) as error:
        parser.exit(2, f"error: {given.input}: {error}\n")
    write_atomically(given.output, b"".join(lines[i] + b"\n" for i in chosen))
    counts = {"rows": len(lines), "exposures": len(chosen), "repeats": round(repeat_factor(len(lines), len(chosen)), 2)}
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
