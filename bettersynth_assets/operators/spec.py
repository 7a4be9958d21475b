"""What the engine knows of an operator besides its class. In: nothing. Out: ``OperatorSpec``, one per operator.

Everything has a default, which is what an operator gets that nothing is known of: it is called as Data-Juicer calls it,
row by row or in its own batches. Imports no Data-Juicer, so that keys and shipped recipes need not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Arguments = Mapping[str, Any]
"""An operator's arguments as a recipe writes them."""
PIECES = "{lang}.sp.model"


@dataclass(frozen=True, kw_only=True)
class ModelRole:
    """A model that an operator takes as an argument, from the profile where the recipe leaves it out."""

    argument: str
    role: str
    """Key of the profile's ``models``."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Packages that an operator imports, and files that it loads from a local model of the profile."""

    role: str
    """Key of the profile's ``models``."""
    packages: tuple[tuple[str, str], ...] = ()
    """Module and the package that holds it."""
    files: tuple[str, ...] = ("",)
    """What has to be there, relative to the role's path; ``{lang}`` is the operator's language."""
    argument: str | None = None
    """The operator's argument that names another path than the profile's."""


WORD_PIECES = Need(role="perplexity", packages=(("sentencepiece", "sentencepiece"),), files=(PIECES,))


@dataclass(frozen=True, kw_only=True)
class ClassifierHead:
    """How an image classifier of Data-Juicer is run in batches."""

    stat: str
    output: str
    """Attribute of the model's output, shape (B, ...)."""
    score: Callable[[Any, Any], Any]
    """From (that output in float32, the operator) to the stat's values, shape (B,)."""
    reads_caption: bool = False


@dataclass(frozen=True, kw_only=True)
class OperatorSpec:
    """One operator."""

    name: str
    """Under which its class is in Data-Juicer's registry."""

    # Whether a recipe may name it. An operator from outside is called and named in a warning.
    pure: bool = False
    """Reviewed: runs no code of the recipe, calls no address, writes no file. Counts for operators of the catalog."""
    needs_trust: str | None = None
    """Why it needs ``trusted_code: true``, as the end of "operator 'x' …"."""
    unusable: str | None = None
    """Why it cannot be used on image-text pairs, likewise."""
    synthesises: bool = False
    """Writes captions or images, which the recipe's ``caption`` and ``regenerate`` sections do."""
    code_arguments: Mapping[str, str] = field(default_factory=dict)
    """Arguments that need ``trusted_code``, with the reason."""

    # Its arguments, besides what its signature says.
    required: tuple[str, ...] = ()
    """Arguments without which it fails, or keeps every row."""
    not_zero: tuple[str, ...] = ()
    """Arguments of which it takes 0 for "not given": it fails, or keeps every row."""
    check: Callable[[Arguments], object] | None = None
    """Raises ConfigError for arguments that cannot be used; called again once the profile's model is among them."""
    fields: Callable[[Arguments], Iterable[str]] | None = None
    """Fields of a row that it reads, besides those that ``field_key`` and the like name."""
    limits: Callable[[Arguments, Any, Sequence[str]], Arguments] | None = None
    """From its arguments, all scores of the seed (n,) and their ids to arguments with numbers for limits. ``check`` is
    then the only check of what the recipe says."""
    known_values: Mapping[str, Callable[[object], bool]] | None = None
    """Tests for values that are valid, by argument: spares the import of Data-Juicer, which takes seconds."""

    # What it loads.
    model: ModelRole | None = None
    needs: tuple[Need, ...] = ()
    word_splitter: Need = WORD_PIECES
    """Loaded with ``tokenization: true``."""

    # How it is run.
    header_stats: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """From a row of schema ``SCORED`` to its stats: no image is opened, and the operator measures nothing."""
    classifier: ClassifierHead | None = None
    measures_similarity_with: frozenset[str] = frozenset()
    """Arguments with which it scores image and caption by itself, and not as ``clip_scores`` did."""
    embeddings_unless: frozenset[str] | None = None
    """It takes the embeddings that ``clip_scores`` keeps, unless one of these arguments is given; None takes none."""
    way: str | None = None
    """How it is run now where it was run otherwise before; part of the keys of lists that hold it."""
    stats: tuple[str, ...] | None = None
    """Stats that it writes; None: those that its source names where it is Data-Juicer's, else unknown."""
    cost: Literal["caption", "header", "image"] = "image"
    """What it has to look at of a row: a thousand rows of the first two cost less than a few images."""
