"""Progress of a command as JSON lines on stdout; whatever else is printed goes to stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

Emit = Callable[[dict[str, Any]], None]


def is_main_process() -> bool:
    """Whether this is the only process, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def json_lines() -> Emit:
    """Keep stdout for JSON lines of the main process; what libraries print goes to stderr from now on."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        if is_main_process():
            print(json.dumps(event, ensure_ascii=False), file=stream, flush=True)

    return emit
