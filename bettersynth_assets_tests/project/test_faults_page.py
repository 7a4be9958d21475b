"""docs/faults.md lists every fault once and names existing tests."""

import re
from pathlib import Path

from bettersynth_assets.config.model import PROJECT_ROOT

TESTS = PROJECT_ROOT / "bettersynth_assets_tests"
ROWS = [
    line.split(" | ") for line in (PROJECT_ROOT / "docs/faults.md").read_text("utf-8").splitlines() if " | " in line
]
FAULTS = [[cell.strip("| ") for cell in row] for row in ROWS if row[0] != "| fault"]


def test_every_numbered_fault_has_a_row():
    numbers = [int(found[1]) for fault, *_ in FAULTS if (found := re.match(r"(\d+)\. ", fault))]
    assert numbers == list(range(1, 57))


def test_every_named_test_exists():
    assert all(len(row) == 3 and all(row) for row in FAULTS)
    for fault, _, tests in FAULTS:
        for named in tests.split(", "):
            path, _, function = named.partition("::")
            text = Path(TESTS / path).read_text("utf-8")
            assert not function or f"def {function}(" in text, f"{fault}: no {named}"
