"""Data-Juicer as a library that leaves the process as it was. In: nothing. Out: its registry, with ours in it.

Importing Data-Juicer, and some of its operators, changes the whole process: packages are installed at run time,
Pillow is told to accept truncated images, loguru's handlers are replaced, torch is set to one thread. ``registry``
imports it with installing refused; ``undisturbed`` wraps whatever runs its operators.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn

from bettersynth_assets.errors import ConfigError
from bettersynth_assets.records.images import strict_decoding


def _refuse_install(cls: type, package_spec: str, pip_args: object = None) -> NoReturn:
    raise ConfigError(
        f"a Data-Juicer operator needs the package {package_spec!r}, which is not installed, and installing at run "
        "time is switched off: install it yourself, or take the operator out of the recipe"
    )


@lru_cache(maxsize=1)
def registry() -> Any:
    """Import Data-Juicer and our own operators.

    Returns:
        Data-Juicer's ``OPERATORS`` registry: ``.modules`` maps each operator's name to its class.
    """
    with undisturbed():
        is_first = "data_juicer" not in sys.modules
        from data_juicer.utils.lazy_loader import LazyLoader
        from loguru import logger

        LazyLoader._install_package = classmethod(_refuse_install)
        if is_first:
            # It put its own handler in place of loguru's default one; an error of an operator reaches us as an error.
            logger.remove()
            logger.add(sys.stderr)
        logger.disable("data_juicer")
        from data_juicer.ops import OPERATORS

        from bettersynth_assets.operators import (
            clip_score_filter,
            image_near_duplicate_deduplicator,
            kmeans_diversity_selector,
        )

        for own in (clip_score_filter, image_near_duplicate_deduplicator, kmeans_diversity_selector):
            assert OPERATORS.modules[own.NAME].__module__ == own.__name__
        return OPERATORS


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run Data-Juicer with strict image decoding, and give torch its threads back afterwards."""
    import torch

    threads = torch.get_num_threads()
    with strict_decoding:
        try:
            yield
        finally:
            torch.set_num_threads(threads)
