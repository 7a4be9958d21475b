"""Local models for Data-Juicer's operators. In: ``OperatorModels``. Out: loaders and fingerprints.

Data-Juicer looks for these models in its own cache folder and downloads missing ones in the middle of a run. Here the
profile names their location, which is checked before any row is processed. An operator built under ``loading_from``
uses loaders that read from there and download nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bettersynth_assets.config.operator_models import OperatorModels
from bettersynth_assets.config.profile import absolute
from bettersynth_assets.config.resolved_model import files_fingerprint
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.spec import PIECES, Need

if TYPE_CHECKING:
    import kenlm
    from fasttext.FastText import _FastText
    from sentencepiece import SentencePieceProcessor
    from spacy.tokens import Doc
    from transformers import PreTrainedTokenizerBase

PARSED = 4096
"""Number of parsed captions that are cached, so that two operators of a list parse a caption once."""

TOO_NEW = {"kenlm": (3, 13)}
"""First Python version for which a package does not compile; pyproject.toml has the same as a marker."""

FETCH = {
    "language_id": "a fastText model file: lid.176.bin of fasttext.cc/docs/en/language-identification.html",
    "perplexity": "a folder with en.sp.model and en.arpa.bin: huggingface.co/edugp/kenlm, folder wikipedia",
    "spacy": "the folder of a spaCy pipeline with tagger and parser: en_core_web_md, unpacked, with its config.cfg",
    "nltk": "a folder of NLTK data: python -m nltk.downloader -d FOLDER punkt_tab averaged_perceptron_tagger_eng",
    "words": 'a folder with flagged_words.json and stopwords.json, each {"en": ["word", ...]}',
    "tokenizer": "the folder of a transformers tokenizer, as save_pretrained leaves it",
}


def needs_of(name: str, arguments: Mapping[str, Any]) -> tuple[Need, ...]:
    """Return what an operator loads from the profile's local models; empty for most."""
    spec = spec_of(name)
    return (*spec.needs, spec.word_splitter) if arguments.get("tokenization") is True else spec.needs


def path_of(need: Need, arguments: Mapping[str, Any], models: OperatorModels) -> str | None:
    """Return the path of a role's files from the recipe, else from the profile."""
    named: str | None = arguments.get(need.argument) if need.argument else None
    return named or models.named(need.role)


def local_files(name: str, need: Need, arguments: Mapping[str, Any], models: OperatorModels) -> tuple[Path, list[Path]]:
    """Find the files that an operator loads.

    Args:
        name: the operator.
        need: one of its needs.
        arguments: its arguments in the recipe.
        models: models of the profile.

    Returns:
        The role's path, and the files and folders that are read.

    Raises:
        ConfigError: the profile names no path, or a file is missing; says what to download and where to name it.
    """
    path = path_of(need, arguments, models)
    if path is None:
        raise ConfigError(
            f"operator {name!r} needs models.{need.role}, which the profile does not set: set it to {FETCH[need.role]}"
        )
    named = need.argument if need.argument and arguments.get(need.argument) else f"models.{need.role}"
    base = absolute(str(Path(path).expanduser()))
    files = [base / file.format(lang=arguments.get("lang", "en")) for file in need.files]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise ConfigError(
            f"{named} = {path!r}: {' and '.join(missing)} not found, which operator {name!r} reads: "
            f"set it to {FETCH[need.role]}"
        )
    return base, files


def local_fingerprint(name: str, need: Need, arguments: Mapping[str, Any], models: OperatorModels) -> str:
    """Hash the files that an operator loads."""
    return files_fingerprint(*local_files(name, need, arguments, models)[1])


def checked_paths(name: str, arguments: Mapping[str, Any], models: OperatorModels) -> tuple[tuple[str, str], ...]:
    """Check that an operator's packages are installed, and that its files exist and are readable.

    Returns:
        (role, path) of each local model that it loads, for ``loading_from``.

    Raises:
        ConfigError: something is missing, or a file is not a word list.
    """
    paths = []
    for need in needs_of(name, arguments):
        for module, package in need.packages:
            if find_spec(module) is None:
                fix = "pip install 'bettersynth-assets[operators]'"
                if package in TOO_NEW and sys.version_info >= TOO_NEW[package]:
                    fix = "it does not compile on Python {}.{} or newer, use an older one".format(*TOO_NEW[package])
                raise ConfigError(f"operator {name!r} needs the package {package!r}: {fix}, or remove the operator")
        base, files = local_files(name, need, arguments, models)
        if need.role == "words":
            word_lists = read_words(files[0])
            language = arguments.get("lang", "en")
            if language != "all" and language not in word_lists:
                raise ConfigError(
                    f"{name}: lang = {language!r}, but {files[0]} has words of {', '.join(sorted(word_lists))}: use "
                    "one of these, or all"
                )
        paths.append((need.role, str(base)))
    return tuple(paths)


def read_words(path: Path) -> dict[str, list[str]]:
    """Read a word list: a JSON object of languages, each with an array of words.

    Raises:
        ConfigError: the file has another format.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not a word list in JSON ({error}): use {FETCH['words']}") from None
    is_list = isinstance(lists, dict) and all(
        isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists.values()
    )
    if not is_list or not lists:
        raise ConfigError(
            f"{path} is not a word list (an object of languages, each an array of words): use {FETCH['words']}"
        )
    return dict(lists)


@contextmanager
def loading_from(paths: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Make an operator that is built in this context load the profile's models, also when it first processes a row.

    Args:
        paths: (role, path) of each model.
    """
    from data_juicer.ops.filter import flagged_words_filter, stopwords_filter
    from data_juicer.utils.model_utils import MODEL_FUNCTION_MAPPING

    originals, original_words = dict(MODEL_FUNCTION_MAPPING), flagged_words_filter.load_words_asset
    with ExitStack() as stack:
        stack.callback(MODEL_FUNCTION_MAPPING.update, originals)
        for role, path in paths:
            MODEL_FUNCTION_MAPPING.update(_loaders(role, Path(path)))
            if role == "nltk":
                stack.enter_context(_unmodified_nltk())
            if role == "words":
                for module in (flagged_words_filter, stopwords_filter):
                    stack.callback(setattr, module, "load_words_asset", original_words)
                    module.load_words_asset = lambda words_dir, words_type, base=Path(path): read_words(
                        base / f"{words_type}.json"
                    )
        yield


def _loaders(role: str, base: Path) -> dict[str, Callable[..., Any]]:
    """Return the loaders by Data-Juicer's model type; called with the device and, for some, the language."""
    if role == "language_id":
        return {"fasttext": lambda **_: _fasttext(str(base))}
    if role == "spacy":
        return {"spacy": lambda lang, **_: _spacy(str(base), lang)}
    if role == "nltk":
        return {"nltk_pos_tagger": lambda **_: _pos_tag(str(base))}
    if role == "tokenizer":
        return {"huggingface": lambda *_, **__: _tokenizer(str(base))}
    if role == "perplexity":
        return {
            "sentencepiece": lambda lang, **_: _sentencepiece(str(base / PIECES.format(lang=lang))),
            "kenlm": lambda lang, **_: _kenlm(str(base / f"{lang}.arpa.bin")),
        }
    return {}


@lru_cache(maxsize=1)
def _tokenizer(path: str) -> PreTrainedTokenizerBase:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)


@lru_cache(maxsize=1)
def _fasttext(path: str) -> _FastText:
    import fasttext

    return fasttext.load_model(path)


@lru_cache(maxsize=1)
def _spacy(path: str, lang: str) -> Callable[[str], Doc]:
    """Load one pipeline for both operators, without unused components; it caches the parses of recent captions.

    Raises:
        ValueError: the pipeline is for another language.
    """
    import spacy

    pipeline = spacy.load(path, exclude=["ner", "lemmatizer", "senter"])
    if pipeline.lang != lang:
        raise ValueError(f"models.spacy ({path}) is a pipeline for {pipeline.lang!r}, and lang = {lang!r}")
    return lru_cache(maxsize=PARSED)(pipeline)


@lru_cache(maxsize=1)
def _sentencepiece(path: str) -> SentencePieceProcessor:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=path)


@lru_cache(maxsize=1)
def _kenlm(path: str) -> kenlm.Model:
    import kenlm

    quiet = kenlm.Config()
    quiet.show_progress = False
    return kenlm.Model(path, quiet)


def _pos_tag(folder: str) -> Callable[..., list[tuple[str, str]]]:
    """Return NLTK's tagger; it and the tokenizer read their data from the folder."""
    import nltk

    if folder not in nltk.data.path:
        nltk.data.path.insert(0, folder)
    return nltk.pos_tag


@contextmanager
def _unmodified_nltk() -> Iterator[None]:
    """Prevent an operator from downloading NLTK data and from making NLTK load pickles while it is built."""
    import nltk

    download, load = nltk.download, nltk.data.restricted_pickle_load
    nltk.download = lambda *args, **kwargs: False
    try:
        yield
    finally:
        nltk.download, nltk.data.restricted_pickle_load = download, load
