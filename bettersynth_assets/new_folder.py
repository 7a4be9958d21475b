"""``bettersynth-init``: makes the working folder one in which Dagster's commands find the graph and keep its history.

For an installed package; a checkout is such a folder already.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from bettersynth_assets.config.model import PACKAGE_ROOT, SHIPPED

FILES = {
    "dagster.yaml": "where Dagster keeps its history: .dagster in this folder",
    "workspace.yaml": "what `dagster dev` loads",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="bettersynth-init", description="Writes dagster.yaml and workspace.yaml to this folder."
    )
    parser.parse_args(arguments)
    for name, purpose in FILES.items():
        if Path(name).exists():
            print(f"{name}: kept as it is")
            continue
        shutil.copyfile((SHIPPED if SHIPPED.is_dir() else PACKAGE_ROOT) / name, name)
        print(f"{name}: {purpose}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
