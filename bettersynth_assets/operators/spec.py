"""Specification of an operator for the engine, besides its class. In: nothing. Out: ``OperatorSpec``.

All fields have defaults, which apply to unknown operators: Data-Juicer's calls, row by row or in the operator's
batches. Does not import Data-Juicer, so keys and shipped recipes need not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from data_juicer.ops.base_op import OP
    from torch import Tensor

Arguments = Mapping[str, Any]
"""An operator's arguments as a recipe writes them."""
PIECES = "{lang}.sp.model"


@dataclass(frozen=True, kw_only=True)
class ModelRole:
    """A model argument of an operator, which defaults to a model of the profile."""

    argument: str
    role: str
    """Key of the profile's ``models``."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Packages that an operator imports, and files that it loads from a local model of the profile."""

    role: str
    """Key of the profile's ``models``."""
    packages: tuple[tuple[str, str], ...] = ()
    """Modules and the packages that provide them."""
    files: tuple[str, ...] = ("",)
    """Required files, relative to the role's path; ``{lang}`` is the operator's language."""
    argument: str | None = None
    """Argument of the operator that overrides the profile's path."""


WORD_PIECES = Need(role="perplexity", packages=(("sentencepiece", "sentencepiece"),), files=(PIECES,))


@dataclass(frozen=True, kw_only=True)
class ClassifierHead:
    """How an image classifier of Data-Juicer runs in batches."""

    stat: str
    output: str
    """Attribute of the model's output, shape (B, ...)."""
    score: Callable[[Tensor, OP], Tensor]
    """Maps (that output in float32, the operator) to the stat's values, shape (B,)."""
    reads_caption: bool = False


@dataclass(frozen=True, kw_only=True)
class OperatorSpec:
    """Specification of one operator."""

    name: str
    """Name of its class in Data-Juicer's registry."""

    # Whether a recipe may use it. External operators run with a warning.
    pure: bool = False
    """Reviewed: runs no code of the recipe, contacts no address, writes no file. For operators of the catalogue."""
    needs_trust: str | None = None
    """Why it needs ``trusted_code: true``; continues the sentence "operator 'x' …"."""
    unusable: str | None = None
    """Why it cannot be used on image-text pairs; continues the same sentence."""
    synthesises: bool = False
    """Writes captions or images, which is done by the recipe's ``caption`` and ``regenerate`` sections."""
    code_arguments: Mapping[str, str] = field(default_factory=dict)
    """Arguments that need ``trusted_code``, with the reason."""

    # Arguments, beyond its signature.
    required: tuple[str, ...] = ()
    """Arguments without which it fails, or keeps every row."""
    not_zero: tuple[str, ...] = ()
    """Arguments whose value 0 the operator treats as unset: it would fail, or keep every row."""
    check: Callable[[Arguments], object] | None = None
    """Raises ConfigError for unusable arguments; called again after the profile's model is filled in."""
    fields: Callable[[Arguments], Iterable[str]] | None = None
    """Fields of a row that it reads, besides those named by ``field_key`` and similar arguments."""
    limits: Callable[[Arguments, NDArray[np.float32], Sequence[str]], Arguments] | None = None
    """Maps its arguments, all scores of the seed file (n,) and their ids to arguments with numeric limits. If set,
    ``check`` is the only check of the recipe's arguments."""
    known_values: Mapping[str, Callable[[object], bool]] | None = None
    """Tests for valid values, by argument; avoids the import of Data-Juicer, which takes seconds."""

    # Models and packages.
    model: ModelRole | None = None
    needs: tuple[Need, ...] = ()
    word_splitter: Need = WORD_PIECES
    """Loaded with ``tokenization: true``."""

    # Execution.
    header_stats: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """Maps a row of schema ``SCORED`` to its stats: no image is opened, and the operator measures nothing."""
    classifier: ClassifierHead | None = None
    measures_similarity_with: frozenset[str] = frozenset()
    """Arguments with which it computes image-text similarity itself, differently from ``clip_scores``."""
    embeddings_unless: frozenset[str] | None = None
    """Uses the embeddings of ``clip_scores``, unless one of these arguments is set; None: uses no embeddings."""
    execution: str | None = None
    """How it runs if that has changed since an earlier version; part of the keys of lists with this operator."""
    stats: tuple[str, ...] | None = None
    """Stats that it writes; None: parsed from its source for Data-Juicer's operators, else unknown."""
    cost: Literal["caption", "header", "image"] = "image"
    """What it reads of a row: a thousand rows of the first two cost less than a few images."""
