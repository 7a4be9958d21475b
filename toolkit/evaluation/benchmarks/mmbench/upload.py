"""Upload table for MMBench's server. In: the benchmark and predictions. Out: a workbook and a TSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.evaluation.benchmarks.mmbench.letters import LETTERS

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("index", "question", *LETTERS, "prediction", "answer", "split")


def upload_table(questions: pd.DataFrame, predictions: Sequence[str]) -> pd.DataFrame:
    """The benchmark's rows with their predictions, in the columns of an upload, without images."""
    table = questions.assign(prediction=list(predictions))
    return table[[column for column in _COLUMNS if column in table]]


def write_upload(table: pd.DataFrame, stem: Path) -> None:
    """Write ``<stem>.xlsx`` and ``<stem>.tsv``; a workbook loses characters that it cannot hold."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    stem.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(stem.with_suffix(".tsv"), sep="\t", index=False)
    clean = table.map(lambda cell: ILLEGAL_CHARACTERS_RE.sub("", cell))
    clean.to_excel(stem.with_suffix(".xlsx"), index=False)
