"""Data-Juicer without side effects on the process. In: nothing. Out: its registry, including our operators.

Importing Data-Juicer and some of its operators changes the whole process: it installs packages and downloads models at
run time, makes Pillow accept truncated images, replaces loguru's handlers and sets torch to one thread. ``registry``
imports it with installs and downloads disabled; ``operator_environment`` wraps code that runs its operators.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bettersynth_assets.errors import FetchRefusedError
from bettersynth_assets.operators import stock_models
from toolkit.image_decoding import strict_decoding

if TYPE_CHECKING:
    from data_juicer.utils.registry import Registry

OURS = "bettersynth_assets.operators.ours"
"""Registers our operators on import: the plugin of the entry point ``data_juicer.ops``."""
NEEDLESS = ("spacy-pkuseg",)
"""Requested for all languages under a name that is never found; only Chinese pipelines import it."""


def _refuse_install(cls: type, package_spec: str, pip_args: object = None) -> None:
    if package_spec in NEEDLESS:
        return
    raise FetchRefusedError(
        f"needs the package {package_spec!r}, which is not installed, and installing at run time is disabled: install "
        "it yourself, or remove the operator from the recipe"
    )


def _local_model(model_name: str, force: bool = False) -> str:
    """Find a model file like Data-Juicer, without downloading; ``force`` means that the file found does not load."""
    from data_juicer.utils.cache_utils import DATA_JUICER_EXTERNAL_MODELS_HOME, DATA_JUICER_MODELS_CACHE

    folders = ["", *(DATA_JUICER_EXTERNAL_MODELS_HOME or "").split(os.pathsep), DATA_JUICER_MODELS_CACHE]
    files = [path for folder in folders if (path := Path(folder.strip(), model_name)).exists()]
    if files and not force:
        return str(files[0])
    problem = f"cannot be read ({files[0]})" if files else f"is not in {DATA_JUICER_MODELS_CACHE}"
    raise FetchRefusedError(
        f"needs the model file {model_name!r}, which {problem}, and downloading at run time is disabled: put it there, "
        "or remove the operator from the recipe"
    )


def _refuse_words(words_dir: str, words_type: str) -> NoReturn:
    raise FetchRefusedError(
        f"needs the word list {words_type!r}, and downloading at run time is disabled: set models.words of the profile "
        "to a folder with the list"
    )


def _refuse_code(*arguments: object, **options: object) -> NoReturn:
    raise FetchRefusedError(
        "loads a model with custom Python code, which is never run: use a checkpoint of a class that transformers "
        "provides"
    )


def _refuse_pickles(**arguments: object) -> NoReturn:
    raise FetchRefusedError(
        "would download NLTK's sentence splitter and load it as a pickle, which NLTK refuses: remove the operator from "
        "the recipe"
    )


@lru_cache(maxsize=1)
def registry() -> Registry:
    """Import Data-Juicer and our operators.

    Returns:
        Data-Juicer's ``OPERATORS`` registry: ``.modules`` maps each operator's name to its class.
    """
    with operator_environment():
        is_first = "data_juicer" not in sys.modules
        from data_juicer.utils.lazy_loader import LazyLoader
        from loguru import logger

        LazyLoader._install_package = classmethod(_refuse_install)
        from data_juicer.utils import model_utils
        from transformers import dynamic_module_utils

        model_utils.check_model = _local_model
        model_utils.MODEL_FUNCTION_MAPPING["nltk"] = _refuse_pickles
        model_utils.MODEL_FUNCTION_MAPPING["huggingface"] = stock_models.load_huggingface
        model_utils.MODEL_FUNCTION_MAPPING["simple_aesthetics"] = stock_models.load_aesthetics
        # Covers all ways to pass the argument; the second patch keeps transformers from asking on the terminal.
        dynamic_module_utils.get_class_in_module = _refuse_code
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
        if is_first:
            # Data-Juicer replaces loguru's default handler; its operators report errors as exceptions.
            logger.remove()
            logger.add(sys.stderr)
        logger.disable("data_juicer")
        from data_juicer.ops import OPERATORS
        from data_juicer.ops.filter import flagged_words_filter, stopwords_filter, text_pair_similarity_filter

        text_pair_similarity_filter.get_model = stock_models.text_pair_model
        for module in (flagged_words_filter, stopwords_filter):
            module.load_words_asset = _refuse_words
        import_module(OURS)  # also if the package is not installed and has no entry point

        return OPERATORS


@contextmanager
def operator_environment() -> Iterator[None]:
    """Run Data-Juicer with strict image decoding, and restore torch's number of threads afterwards."""
    import torch

    threads = torch.get_num_threads()
    with strict_decoding:
        try:
            yield
        finally:
            torch.set_num_threads(threads)
