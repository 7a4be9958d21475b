"""The end of an error message about an unknown name: the nearest valid one, then all of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """Say which valid name is meant.

    Args:
        name: what the user wrote.
        valid: every name that would have been right.

    Returns:
        ``did you mean 'x'? Valid: a, b, x`` or, where nothing is near, only the second sentence.
    """
    options = sorted(valid)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Valid: {', '.join(options)}"
