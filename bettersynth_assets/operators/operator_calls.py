"""Calls into operators. In: a call of third-party code. Out: its value, or an error that names the operator.

Operators belong to Data-Juicer, a plugin or a recipe, and any call may raise anything. All constructors and methods of
operators are called inside ``operator_context`` or ``attempt``. An exception about a single row is returned as a value,
and the row is quarantined with it. An exception about several rows becomes an ``OperatorError`` that names operator,
arguments, exception and fix. Exceptions that the operator did not cause pass: environment faults, signals, our errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from bettersynth_assets.errors import ConfigError, DeviceError, FetchRefusedError, UserError
from toolkit.file_errors import EnvironmentFault, environment_fault, patiently

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


def retried(call: Callable[[], T], images: Sequence[str]) -> T:
    """Call an operator, and retry while an environment fault keeps it from reading its images.

    Args:
        call: a function that is safe to repeat.
        images: paths of the rows' images, which earlier steps have read.

    Raises:
        EnvironmentFault: the fault persists. Other exceptions of the operator pass unchanged.
    """

    def try_once() -> T:
        try:
            return call()
        except Exception as error:
            if fault := _environmental(error, images):
                raise fault from error
            raise

    return patiently(try_once, images[0] if images else "", seen=False)


def _environmental(error: BaseException, images: Sequence[str]) -> EnvironmentFault | None:
    """Return the environment fault behind an operator's exception, also if the operator has wrapped it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            # A file that the row does not name, e.g. a model's, may be missing because of the recipe.
            path = str(cause.filename or (images[0] if images else ""))
            if fault := environment_fault(cause, path, seen=str(cause.filename) in images):
                return fault
        cause = cause.__cause__
    return None


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
