"""Progress of a command as JSON lines on stdout; whatever else is printed goes to stderr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]
Emit = Callable[[Event], None]


def is_main_process() -> bool:
    """Whether this is the only process, or the first of several under a launcher."""
    return int(os.environ.get("RANK", "0")) == 0


def is_first_of_machine() -> bool:
    """Whether this is the only process on its machine, or the first of those that a launcher started there."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


@dataclass(frozen=True)
class JsonLines:
    """Writes each event as one line, in one piece, so that lines of sibling processes do not mix."""

    descriptor: int

    def __call__(self, event: Event) -> None:
        if is_main_process():
            os.write(self.descriptor, (json.dumps(event, ensure_ascii=False) + "\n").encode())


def json_lines() -> JsonLines:
    """Keep stdout for JSON lines of the main process; what libraries print goes to stderr from now on."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return JsonLines(descriptor)


def tagged(emit: Emit, **tags: Any) -> Emit:
    """An ``emit`` that adds the tags to each event."""
    return lambda event: emit({**event, **tags})
