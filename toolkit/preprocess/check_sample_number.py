"""Sample or repeat the rows of a data set to fill its sample budget.

In: number of rows, or a file of rows (``row_files``). Out: row indices, one per exposure; or these rows as JSON Lines.

The rules are those of the kit's ``check_sample_number.py`` and of the third-place team's version of it:

* Over budget: ``random.sample`` of the budget's size, seed 1024 (kit).
* Under budget, ``order="shuffle"`` (third place): repeat ``random.sample(rows, min(missing, len(rows)))`` until the
  budget is full. The result is a number of complete shuffled passes and one partial pass.
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
    """A budget that cannot be filled."""


def fill_budget(n_rows: int, budget: int, *, random_seed: int = KIT_SEED, order: Order = "shuffle") -> list[int]:
    """Choose the row of each exposure.

    Args:
        n_rows: number of available rows.
        budget: number of exposures.
        random_seed: the kit uses 1024.
        order: ``shuffle`` repeats rows until the budget is full; ``keep`` returns a set under budget unchanged.

    Returns:
        ``budget`` row indices (``n_rows`` for ``keep`` under budget). They select the same rows as
        ``random.seed(seed)`` followed by the kit's calls of ``random.sample`` on the rows themselves.

    Raises:
        BudgetError: no rows, a budget below 1, or an unknown order.
    """
    if budget < 1:
        raise BudgetError(f"budget {budget} is not positive; set it to at least 1 exposure")
    if n_rows < 1:
        raise BudgetError(f"no rows left to fill a budget of {budget}; loosen the filters")
    if order not in get_args(Order):
        raise BudgetError(f"order {order!r} is unknown; use one of {', '.join(get_args(Order))}")
    if order == "keep" and n_rows <= budget:
        return list(range(n_rows))
    generator = random.Random(random_seed)
    chosen: list[int] = []
    while len(chosen) < budget:
        chosen.extend(generator.sample(range(n_rows), min(budget - len(chosen), n_rows)))
    return chosen


def repeat_factor(n_rows: int, exposures: int) -> float:
    """Return the mean number of exposures per row, e.g. 3.76 in the third-place team's best run."""
    return exposures / n_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: read a JSONL file, write the budgeted file, print the counts as one JSON line."""
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.preprocess.check_sample_number",
        description="Sample or repeat the rows of a JSONL file to fill the sample budget.",
    )
    parser.add_argument("--input", type=Path, required=True, help="JSONL file")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file to write; may be the input")
    parser.add_argument(
        "--budget", type=int, default=KIT_BUDGET, help=f"rows to write (default, as in the kit: {KIT_BUDGET})"
    )
    parser.add_argument("--seed", type=int, default=KIT_SEED, help=f"random seed (default, as in the kit: {KIT_SEED})")
    parser.add_argument(
        "--order", choices=get_args(Order), default="shuffle",
        help="if there are fewer rows than the budget: shuffle repeats them, keep writes each once, as the kit does",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        # A row of a JSON array may span several lines; JSON allows a space in place of a line break.
        lines = [raw.replace(b"\n", b" ") for _, raw in raw_rows(options.input)]
        chosen = fill_budget(len(lines), options.budget, random_seed=options.seed, order=options.order)
    except (RowFileError, EnvironmentFault) as error:
        parser.exit(2, f"error: {error}\n")
    except (BudgetError, OSError) as error:
        parser.exit(2, f"error: {options.input}: {error}\n")
    write_atomically(options.output, b"".join(lines[i] + b"\n" for i in chosen))
    counts = {"rows": len(lines), "exposures": len(chosen), "repeats": round(repeat_factor(len(lines), len(chosen)), 2)}
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
