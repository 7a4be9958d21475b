"""What a launcher of several processes gives to each. The command ``… FOLDER`` writes it to ``FOLDER/<rank>.json``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def variables(rank: int, processes: int, *, address: str = "127.0.0.1", port: int) -> dict[str, str]:
    """Return what torchrun sets for one of several processes of a machine."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    return {**{key: str(value) for key, value in where.items()}, "MASTER_ADDR": address, "MASTER_PORT": str(port)}


if __name__ == "__main__":
    given = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
    (Path(sys.argv[-1]) / f"{os.environ['RANK']}.json").write_text(json.dumps(given))
