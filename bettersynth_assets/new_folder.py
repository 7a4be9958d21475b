"""``bettersynth-init``: set up the working directory for Dagster's commands with an installed package.

It writes the files by which Dagster finds the graph and records its runs. A checkout contains them already.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from bettersynth_assets.config.model import PACKAGE_ROOT, SHIPPED

FILES = {
    "dagster.yaml": "makes Dagster record runs in .dagster in this folder, per profile and seed file",
    "workspace.yaml": "makes `dagster dev` load the graph",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="bettersynth-init", description="Write dagster.yaml and workspace.yaml to this folder."
    )
    parser.parse_args(arguments)
    for name, purpose in FILES.items():
        if Path(name).exists():
            print(f"{name}: exists, not changed")
            continue
        shutil.copyfile((SHIPPED if SHIPPED.is_dir() else PACKAGE_ROOT) / name, name)
        print(f"{name}: {purpose}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
