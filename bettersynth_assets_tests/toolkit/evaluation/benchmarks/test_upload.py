"""MMBench's upload files: equal predictions give equal bytes, and pandas reads them back."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from toolkit.evaluation.benchmarks.mmbench.upload import upload_table, write_upload


@pytest.mark.slow
def test_equal_tables_give_equal_bytes_at_different_times(tmp_path: Path) -> None:
    questions = pd.DataFrame({"index": ["1", "2"], "question": ["What?", "Где?"], "A": ["x", "y"], "split": "dev"})
    table = upload_table(questions, ["A", "B"])
    write_upload(table, tmp_path / "first")
    time.sleep(1.1)  # openpyxl stores whole seconds and has no parameter for the time
    write_upload(table, tmp_path / "second")
    for suffix in (".xlsx", ".tsv"):
        assert (tmp_path / f"first{suffix}").read_bytes() == (tmp_path / f"second{suffix}").read_bytes()
    assert pd.read_excel(tmp_path / "second.xlsx", dtype=str).to_dict("list") == table.to_dict("list")
