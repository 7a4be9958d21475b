"""The one door for calls into operators. In: a call into foreign code. Out: its value, or an error that names it.

Operators are Data-Juicer's, a plugin's or a recipe's own code, and may raise anything, at any call. Every constructor
and method of theirs is called inside ``guarded`` or ``attempt``. About one row, what they raise is a value, with which
the row is quarantined. About more rows than one, it becomes an ``OperatorError`` that names operator, arguments,
exception and fix. What is nobody's fault passes: errors of the environment, memory, signals, our own errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from bettersynth_assets.errors import ConfigError, DeviceError, FetchRefusedError, UserError
from toolkit.file_errors import EnvironmentFault

T = TypeVar("T")
LONGEST = 300
"""Characters of an exception's text that are shown."""
FIX = "change its arguments, or take it out of the recipe"


class OperatorError(ConfigError):
    """An operator that fails for another reason than one row."""


@contextmanager
def guarded(name: str, arguments: str, what: str, fix: str = FIX) -> Iterator[None]:
    """Call an operator for more than one row.

    Args:
        name: the operator.
        arguments: as in the recipe, for the error.
        what: when it is called, e.g. ``on the whole set of 40 rows``.
        fix: what the user can do.

    Raises:
        OperatorError: the operator raised.
    """
    try:
        yield
    except FetchRefusedError as error:
        raise OperatorError(f"operator {name!r} {error.words}") from error
    except BaseException as error:
        if _passes(error):
            raise
        raise OperatorError(f"operator {name!r} with {arguments} failed {what}: {in_words(error)}: {fix}") from error


def attempt(call: Callable[[], T]) -> tuple[T, None] | tuple[None, BaseException]:
    """Call an operator for one row.

    Returns:
        Its value, or what it raised.
    """
    try:
        return call(), None
    except BaseException as error:
        if _passes(error):
            raise
        return None, error


def in_words(error: BaseException) -> str:
    """An exception in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words if len(words) <= LONGEST else words[:LONGEST] + '…'}"


def _passes(error: BaseException) -> bool:
    """Whether an exception is no fault of the operator.

    ``SystemExit`` is one: code of a recipe that calls ``exit`` would end the step as if all were done.

    Raises:
        DeviceError: the GPU's memory is full, which no row is to blame for.
    """
    if type(error).__name__ == "OutOfMemoryError":
        raise DeviceError(
            f"out of GPU memory in an operator ({in_words(error)}): free the GPU, or set a smaller `batch_size` in the "
            "operator's arguments"
        ) from error
    if isinstance(error, UserError | EnvironmentFault | MemoryError):
        return True
    return not isinstance(error, Exception | SystemExit)
