"""Suggestions for error messages about unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """Suggest the nearest valid name and list all of them.

    Args:
        name: the unknown name.
        valid: all valid names.

    Returns:
        ``did you mean 'x'? Valid: a, b, x``; without the question if no name is close.
    """
    options = sorted(valid)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Valid: {', '.join(options)}"
