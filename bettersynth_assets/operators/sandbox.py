"""Data-Juicer as a library that leaves the process as it was. In: nothing. Out: its registry, with ours in it.

Importing Data-Juicer, and some of its operators, changes the whole process: packages and model files are fetched at run
time, Pillow is told to accept truncated images, loguru's handlers are replaced, torch is set to one thread.
``registry`` imports it with fetching refused; ``undisturbed`` wraps whatever runs its operators.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from bettersynth_assets.errors import FetchRefusedError
from bettersynth_assets.operators import stock_models
from toolkit.image_decoding import strict_decoding

OURS = "bettersynth_assets.operators.ours"
"""Registers our operators when it is imported: the plugin of the entry point ``data_juicer.ops``."""
NEEDLESS = ("spacy-pkuseg",)
"""Asked for whatever the language, and by a name under which it is never found; only Chinese pipelines import it."""


def _refuse_install(cls: type, package_spec: str, pip_args: object = None) -> None:
    if package_spec in NEEDLESS:
        return
    raise FetchRefusedError(
        f"needs the package {package_spec!r}, which is not installed, and installing at run "
        "time is switched off: install it yourself, or take the operator out of the recipe"
    )


def _local_model(model_name: str, force: bool = False) -> str:
    """Data-Juicer's search for a model file, without its download; ``force`` says that what was found does not load."""
    from data_juicer.utils.cache_utils import DATA_JUICER_EXTERNAL_MODELS_HOME, DATA_JUICER_MODELS_CACHE

    places = ["", *(DATA_JUICER_EXTERNAL_MODELS_HOME or "").split(os.pathsep), DATA_JUICER_MODELS_CACHE]
    found = [path for place in places if (path := Path(place.strip(), model_name)).exists()]
    if found and not force:
        return str(found[0])
    what = f"cannot be read ({found[0]})" if found else f"is not in {DATA_JUICER_MODELS_CACHE}"
    raise FetchRefusedError(
        f"needs the model file {model_name!r}, which {what}, and fetching at run time is "
        "switched off: put it there yourself, or take the operator out of the recipe"
    )


def _refuse_words(words_dir: str, words_type: str) -> NoReturn:
    raise FetchRefusedError(
        f"needs the word list {words_type!r}, and fetching at run time is switched off: name a "
        "folder that holds it in models.words of the profile"
    )


def _refuse_code(*arguments: object, **more: object) -> NoReturn:
    raise FetchRefusedError(
        "loads a model with Python code of its own, which is never run: name a checkpoint of a class that transformers "
        "itself has"
    )


def _refuse_pickles(**arguments: object) -> NoReturn:
    raise FetchRefusedError(
        "would fetch NLTK's sentence splitter and load it as a pickle, which NLTK itself "
        "refuses: take the operator out of the recipe"
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
        from data_juicer.utils import model_utils
        from transformers import dynamic_module_utils

        model_utils.check_model = _local_model
        model_utils.MODEL_FUNCTION_MAPPING["nltk"] = _refuse_pickles
        model_utils.MODEL_FUNCTION_MAPPING["huggingface"] = stock_models.load_huggingface
        model_utils.MODEL_FUNCTION_MAPPING["simple_aesthetics"] = stock_models.load_aesthetics
        # Whatever way an argument took to get there; the second keeps transformers from asking on the terminal.
        dynamic_module_utils.get_class_in_module = _refuse_code
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
        if is_first:
            # It put its own handler in place of loguru's default one; an error of an operator reaches us as an error.
            logger.remove()
            logger.add(sys.stderr)
        logger.disable("data_juicer")
        from data_juicer.ops import OPERATORS
        from data_juicer.ops.filter import flagged_words_filter, stopwords_filter, text_pair_similarity_filter

        text_pair_similarity_filter.get_model = stock_models.text_pair_model
        for module in (flagged_words_filter, stopwords_filter):
            module.load_words_asset = _refuse_words
        import_module(OURS)  # also where the package is not installed and has no entry point

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
