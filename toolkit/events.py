"""Progress events of a command: one JSON object per line on stdout. All other output goes to stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]
Emit = Callable[[Event], None]


def is_main_process() -> bool:
    """Return whether this process has rank 0; a process without a launcher has."""
    return int(os.environ.get("RANK", "0")) == 0


def is_first_of_machine() -> bool:
    """Return whether this process has local rank 0 on its machine; a process without a launcher has."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


@dataclass(frozen=True)
class JsonLines:
    """Write each event with a single ``write`` call, so that lines of several processes do not interleave."""

    descriptor: int

    def __call__(self, event: Event) -> None:
        if is_main_process():
            os.write(self.descriptor, (json.dumps(event, ensure_ascii=False) + "\n").encode())


def json_lines() -> JsonLines:
    """Reserve stdout for the main process's JSON lines and redirect everything else printed there to stderr."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return JsonLines(descriptor)


def tagged(emit: Emit, **tags: Any) -> Emit:
    """Return an ``emit`` that adds the tags to each event."""
    return lambda event: emit({**event, **tags})
