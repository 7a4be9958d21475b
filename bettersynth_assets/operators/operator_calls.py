"""Calls into operators. In: a call of third-party code. Out: its value, or an error that names the operator.

Operators belong to Data-Juicer, a plugin or a recipe, and any call may raise anything. All constructors and methods of
operators are called inside ``operator_context`` or ``attempt``. An exception about a single row is returned as a value,
and the row is quarantined with it. An exception about several rows becomes an ``OperatorError`` that names operator,
arguments, exception and fix. Exceptions that the operator did not cause pass: environment faults, signals, our errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from bettersynth_assets.errors import ConfigError, DeviceError, FetchRefusedError, UserError
from toolkit.file_errors import EnvironmentFault

T = TypeVar("T")
LONGEST = 300
"""Maximum number of characters shown of an exception's text."""
FIX = "change its arguments, or remove it from the recipe"


class OperatorError(ConfigError):
    """An operator failed for a reason other than a single row."""


@contextmanager
def operator_context(name: str, arguments: str, occasion: str, fix: str = FIX) -> Iterator[None]:
    """Convert exceptions of an operator that is called for several rows.

    Args:
        name: the operator.
        arguments: its arguments as in the recipe, for the error.
        occasion: when it is called, e.g. ``on the whole set of 40 rows``.
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
        raise OperatorError(
            f"operator {name!r} with {arguments} failed {occasion}: {one_line(error)}: {fix}"
        ) from error


def attempt(call: Callable[[], T]) -> tuple[T, None] | tuple[None, BaseException]:
    """Call an operator for one row.

    Returns:
        Its value, or the exception that it raised.
    """
    try:
        return call(), None
    except BaseException as error:
        if _passes(error):
            raise
        return None, error


def one_line(error: BaseException) -> str:
    """Format an exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= LONGEST else text[:LONGEST] + '…'}"


def _passes(error: BaseException) -> bool:
    """Whether an exception was not caused by the operator.

    ``SystemExit`` counts as caused by it: a recipe's code that calls ``exit`` would end the step as if it were done.

    Raises:
        DeviceError: the GPU's memory is full, which is no fault of a row.
    """
    if type(error).__name__ == "OutOfMemoryError":
        raise DeviceError(
            f"out of GPU memory in an operator ({one_line(error)}): free the GPU, or set a smaller `batch_size` in the "
            "operator's arguments"
        ) from error
    if isinstance(error, UserError | EnvironmentFault | MemoryError):
        return True
    return not isinstance(error, Exception | SystemExit)
