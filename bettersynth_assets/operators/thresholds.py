"""Limits of a similarity filter. In: the recipe's arguments and all scores of the seed file. Out: both limits.

Mean, sd, percentiles and k-th best score are global, but rows are filtered shard by shard. Limits are therefore
computed once over all shards' scores and then applied as plain numbers.

method      keeps scores                                            source
mean        >= mean                                                 third-place write-up: better than k-sigma
k_sigma     mean - k·sd .. mean + k·sd, k = 3                       third-place write-up
percentile  low-th .. high-th percentile, linear between ranks;     -
            0 and 100 are open ends
top_k       the ``count`` best, or the best ``share`` of all rows   LEM's and WLL's recipes
min         >= min_score                                            Data-Juicer's image_text_similarity_filter

Both limits are inclusive. ``top_k`` keeps exactly k rows: of rows tied at the k-th score, those with the smallest ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bettersynth_assets.errors import ConfigError, EmptySetError
from bettersynth_assets.operators.sample import SIMILARITY
from bettersynth_assets.operators.spec import ModelRole, OperatorSpec
from toolkit.suggest import nearest

NAME = "clip_score_filter"
METHODS: dict[str, tuple[str, ...]] = {
    "mean": (),
    "k_sigma": ("k",),
    "percentile": ("low", "high"),
    "top_k": ("count", "share"),
    "min": ("min_score", "max_score"),
}


def check_arguments(arguments: Mapping[str, Any]) -> str:
    """Check a recipe's ``clip_score_filter`` entry.

    Returns:
        The method.

    Raises:
        ConfigError: an unknown method or argument (with the nearest valid one), or a value out of range.
    """
    method = arguments.get("method", "mean")
    if method not in METHODS:
        raise ConfigError(f"{NAME}: method = {method!r} is unknown: {nearest(str(method), METHODS)}")
    valid = METHODS[method]
    for name, value in arguments.items():
        if name == "method":
            continue
        if name not in valid:
            raise ConfigError(f"{NAME}: argument {name!r} does not go with method {method}: {nearest(name, valid)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{NAME}: {name} = {value!r}: use a number")
    ranges: dict[str, tuple[float, float]] = {"k": (0, np.inf), "low": (0, 100), "high": (0, 100), "share": (0, 1)}
    for name in ranges.keys() & arguments.keys():
        low, high = ranges[name]
        if not low <= arguments[name] <= high:
            raise ConfigError(f"{NAME}: {name} = {arguments[name]}: must lie between {low:g} and {high:g}")
    _check_combination(method, arguments)
    return str(method)


def _check_combination(method: str, arguments: Mapping[str, Any]) -> None:
    if method == "top_k" and ("count" in arguments) == ("share" in arguments):
        raise ConfigError(f"{NAME}: method top_k needs either `count` (rows) or `share` (0 to 1), found {arguments}")
    if method == "top_k" and not (arguments.get("share", 1) > 0 and arguments.get("count", 1) >= 1):
        raise ConfigError(f"{NAME}: top_k of {arguments} keeps no row: set it to keep at least one")
    if method == "min" and "min_score" not in arguments:
        raise ConfigError(f"{NAME}: method min needs `min_score`, a cosine between -1 and 1")
    if method == "percentile" and not arguments.get("low", 0) < arguments.get("high", 100):
        raise ConfigError(f"{NAME}: percentile low = {arguments.get('low', 0)} is not below high = {arguments['high']}")


def score_limits(arguments: Mapping[str, Any], scores: ArrayLike) -> tuple[float | None, float | None]:
    """Compute the inclusive limits of a similarity filter.

    Args:
        arguments: the recipe's arguments, e.g. ``{"method": "top_k", "share": 0.5}``.
        scores: cosines of all rows of the seed file, shape (n,), any order; a numpy or Arrow array.

    Returns:
        (low, high), None for an open end.

    Raises:
        ConfigError: unusable arguments.
        EmptySetError: there are no scores, but the method needs some.
    """
    method = check_arguments(arguments)
    if method == "min":
        return float(arguments["min_score"]), _number(arguments.get("max_score"))
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise EmptySetError(
            f"{NAME}: method {method} needs at least one scored row, but the seed file has none: check the quarantine "
            "of seed_dataset"
        )
    if method == "mean":
        return float(values.mean()), None
    if method == "k_sigma":
        mean, reach = float(values.mean()), float(arguments.get("k", 3) * values.std())
        return mean - reach, mean + reach
    if method == "percentile":
        # Open at 0 and 100: the worst and best score of the seed file do not limit captions generated later.
        edges = arguments.get("low", 0), arguments.get("high", 100)
        return tuple(None if edge in (0, 100) else float(np.percentile(values, edge)) for edge in edges)  # type: ignore[return-value]
    count = top_count(arguments, values.size)
    return float(np.partition(values, values.size - count)[values.size - count]), None


def top_count(arguments: Mapping[str, Any], rows: int) -> int:
    """Return how many of ``rows`` ``top_k`` keeps: ``count``, or ``share`` of them rounded half up; 1 to ``rows``."""
    count = arguments.get("count", int(arguments.get("share", 1.0) * rows + 0.5))
    return max(1, min(rows, int(count)))


def last_tied_id(arguments: Mapping[str, Any], scores: NDArray[np.float32], ids: Sequence[str]) -> str | None:
    """Return the last id to keep of rows at exactly ``top_k``'s limit, so that exactly k rows are kept.

    Returns:
        None if the method is not ``top_k`` or all rows at the limit are kept.
    """
    if check_arguments(arguments) != "top_k":
        return None
    low, _ = score_limits(arguments, scores)
    values = np.asarray(scores, dtype=np.float64)
    assert low is not None
    tied = sorted(ids[index] for index in np.flatnonzero(values == low).tolist())
    room = top_count(arguments, values.size) - int(np.count_nonzero(values > low))
    return tied[room - 1] if room < len(tied) else None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def resolved_limits(arguments: Mapping[str, Any], scores: NDArray[np.float32], ids: Sequence[str]) -> dict[str, Any]:
    """Fill in ``min_score`` and ``max_score``, and ``last_tied_id`` if a tie is cut."""
    arguments = {"method": "mean", **arguments}
    low, high = score_limits(arguments, scores)
    limits = {"min_score": low, "max_score": high, "last_tied_id": last_tied_id(arguments, scores, ids)}
    return arguments | {key: value for key, value in limits.items() if value is not None}


SPEC = OperatorSpec(
    name=NAME,
    pure=True,
    cost="header",
    model=ModelRole(argument="clip_model", role="clip"),
    check=check_arguments,
    limits=resolved_limits,
    stats=(SIMILARITY,),
)
"""Defined here, not next to its class, because shipped recipes need it before Data-Juicer is imported."""
