"""Upload table for MMBench's server. In: the benchmark and predictions. Out: a workbook and a TSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from toolkit.evaluation.benchmarks.mmbench.letters import LETTERS

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("index", "question", *LETTERS, "prediction", "answer", "split")
_PROPERTIES = "docProps/core.xml"
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_NO_TIME = b"1980-01-01T00:00:00Z"
"""The earliest time that a zip archive can store."""


def upload_table(questions: pd.DataFrame, predictions: Sequence[str]) -> pd.DataFrame:
    """The benchmark's rows with their predictions, in the columns of an upload, without images."""
    table = questions.assign(prediction=list(predictions))
    return table[[column for column in _COLUMNS if column in table]]


def write_upload(table: pd.DataFrame, stem: Path) -> None:
    """Write ``<stem>.xlsx`` and ``<stem>.tsv``; a workbook loses characters that it cannot hold.

    Equal tables give equal bytes.
    """
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    stem.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(stem.with_suffix(".tsv"), sep="\t", index=False)
    clean = table.map(lambda cell: ILLEGAL_CHARACTERS_RE.sub("", cell))
    workbook = BytesIO()
    clean.to_excel(workbook, index=False, engine="openpyxl")
    stem.with_suffix(".xlsx").write_bytes(without_times(workbook.getvalue()))


def without_times(workbook: bytes) -> bytes:
    """Return a workbook without the times at which openpyxl wrote it and its parts."""
    result = BytesIO()
    with ZipFile(BytesIO(workbook)) as source, ZipFile(result, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            content = _TIME.sub(_NO_TIME, content) if name == _PROPERTIES else content
            target.writestr(ZipInfo(name), content, compress_type=ZIP_DEFLATED)  # a ZipInfo's time is 1980-01-01
    return result.getvalue()
