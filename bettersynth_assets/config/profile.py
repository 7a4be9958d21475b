"""Profiles: machine, data, models and training settings of a run. In: a YAML file. Out: a frozen ``Profile``.

Paths in a profile are absolute or relative to the project root. A model is a local folder or a hub id. A profile can
extend another one: ``extends: mgm-2b`` and only the keys that differ. ``null`` for the seed file or the fine-tuning
set, and ``{}`` for a benchmark, select the generated miniature world under the data root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from bettersynth_assets.config.address import check_no_secrets, is_address
from bettersynth_assets.config.gpu import Gpu
from bettersynth_assets.config.model import PACKAGE_ROOT, PROJECT_ROOT, ConfigModel, merged, read_yaml
from bettersynth_assets.errors import ConfigError
from toolkit.evaluation.settings import EvaluationSettings
from toolkit.registry import load_extensions
from toolkit.settings import NotInKey
from toolkit.training.settings import PhaseSettings, RandomSeed, TrainingSettings

BY_OPERATOR = NotInKey("part of the key if an operator of the recipe uses it (operators_key)")
BY_FINGERPRINT = NotInKey("the fingerprint of the code in use is in the key (Registry.fingerprint)")
BY_CONTENT = NotInKey("the content of its files is in the key")
REFUSES = NotInKey("decides whether a shard is refused, and does not affect the rows of accepted shards")


class Models(ConfigModel):
    """Models by role: a local folder (relative to the project root) or a hub id; the last six must be local."""

    clip: str
    """Scores image-text similarity. An OpenCLIP folder or ``hf-hub:`` id, or a transformers CLIP folder or id."""
    watermark: str
    captioner: str
    """A ``Blip2ForConditionalGeneration`` or ``LlavaForConditionalGeneration`` checkpoint, according to its
    config.json. For a model behind a server: ``http://host:port/v1#name`` (``config/address.py``), without keys or
    passwords."""
    base: str
    """The model that is trained and evaluated: the folder of a checkpoint with language model, vision towers and
    processor. The old key `mgm` is accepted."""
    diffusion: str | None = None
    """A text-to-image pipeline of ``diffusers``; without one (None), recipes with a ``regenerate`` section are
    refused."""
    aesthetics: Annotated[str | None, BY_OPERATOR] = None
    """Model of ``image_aesthetics_filter``. None, here and for the next three, uses Data-Juicer's hub id."""
    nsfw: Annotated[str | None, BY_OPERATOR] = None
    matching: Annotated[str | None, BY_OPERATOR] = None
    """A ``BlipForImageTextRetrieval`` checkpoint."""
    grounding: Annotated[str | None, BY_OPERATOR] = None
    """An ``OwlViTForObjectDetection`` checkpoint."""
    language_id: Annotated[str | None, BY_OPERATOR] = None
    """A fastText file. Without it (None), here and for the next five, the operators that need it are refused."""
    perplexity: Annotated[str | None, BY_OPERATOR] = None
    """Folder with ``en.sp.model`` and ``en.arpa.bin``."""
    spacy: Annotated[str | None, BY_OPERATOR] = None
    """Folder of a spaCy pipeline."""
    nltk: Annotated[str | None, BY_OPERATOR] = None
    """Folder of NLTK data."""
    words: Annotated[str | None, BY_OPERATOR] = None
    """Folder with ``flagged_words.json`` and ``stopwords.json``."""
    tokenizer: Annotated[str | None, BY_OPERATOR] = None
    """Folder of a transformers tokenizer."""

    @model_validator(mode="before")
    @classmethod
    def _old_name_of_base(cls, values: Any) -> Any:
        return with_base(values)


def with_base(values: Any) -> Any:
    """Return a profile's ``models`` with the old key ``mgm`` renamed to ``base``.

    Raises:
        ValueError: both keys are given.
    """
    if not isinstance(values, dict) or "mgm" not in values:
        return values
    if "base" in values:
        raise ValueError("`mgm` is the old name of `base`: give only `base`")
    return {("base" if name == "mgm" else name): value for name, value in values.items()}


class Limits(ConfigModel):
    """Limits for the rows of a seed file; a row outside them is quarantined, not rejected."""

    max_pixels: int = Field(default=89_478_485, ge=1)
    min_side: int = Field(default=2, ge=1)
    max_metadata_bytes: int = Field(default=1_000_000, ge=0)
    max_bad_line_share: Annotated[float, REFUSES] = Field(default=0.2, ge=0, le=1)
    max_quarantined_share: Annotated[float, REFUSES] = Field(default=0.2, ge=0, le=1)
    max_failed_captions_share: Annotated[float, REFUSES] = Field(default=0.2, ge=0, le=1)
    """Maximum share of a shard's rows for which the captioner's server may fail. Such rows keep their captions and are
    flagged ``caption_failed``."""


class Training(TrainingSettings):
    """Training settings, the same for both arms."""

    seeds: list[RandomSeed] = Field(min_length=1)
    stage_1: PhaseSettings
    stage_2: PhaseSettings
    finetune_json: Annotated[str | None, BY_CONTENT] = None
    finetune_images: Annotated[str | None, BY_CONTENT] = None
    launcher: Annotated[list[str], NotInKey("the number of processes affects only rounding")] = Field(
        default_factory=list
    )
    """Command that replaces ``python -m`` before ``toolkit.training.run``, e.g. ``[torchrun, --nproc_per_node=8, -m]``
    or ``[deepspeed, --module]``; empty starts one process. DeepSpeed's launcher uses all GPUs that the step holds; do
    not pass ``--num_gpus``, with which it ignores which GPUs these are."""
    feature_cache: bool = False
    """Cache the frozen towers' features on disk for all training seeds and both arms. This saves much time if the
    towers dominate the training, and takes tens of megabytes per image at full size."""

    def of_the_plan(self) -> dict[str, Any]:
        """Return the settings that a training plan has under the same names."""
        return self.model_dump(mode="json", include={*TrainingSettings.model_fields})


class Profile(ConfigModel):
    """Machine, data, models and training settings of a run."""

    name: Annotated[str, NotInKey("a folder's name")]
    description: Annotated[str, NotInKey("for readers")] = ""
    extensions: Annotated[list[str], BY_FINGERPRINT] = Field(default_factory=list)
    """Python files, relative to the project root, that register benchmarks, architectures, scorers or captioners
    (docs/extending.md). Every process that uses the profile imports them; trainings and evaluations do too."""
    seed: Annotated[str | None, BY_CONTENT] = None
    """The seed file, kit JSONL or LLaVA JSON; image paths are relative to its folder."""
    image_roots: list[str] = Field(default_factory=list)
    """Additional folders to which symbolic links to images may point, e.g. the blobs of a hub cache or a shared
    disk."""
    questions: Annotated[str | None, BY_CONTENT] = None
    """LLaVA JSON with the original question of each id; None uses ``stage_1.json`` next to the seed file if it
    exists."""
    world_rows: Annotated[int, NotInKey("the generated files are in the key")] = Field(default=3000, ge=50)
    """Rows of the miniature world; used only if ``seed`` is None."""
    world_report: Annotated[int, NotInKey("the generated files are in the key")] = Field(default=1, ge=1, le=100)
    """Number of the miniature world's questions for reports (``evaluation.split``). Another number gives questions
    about scenes that those of smaller numbers do not have: use the next one after settings were chosen by the scores of
    a report."""
    shards: int = Field(ge=1, le=100_000)
    budget: int
    trusted_code: Annotated[bool, NotInKey("a permission that does not change what operators do")] = False
    """Allow operators that execute code, send requests, download or upload (docs/security.md)."""
    default_recipe: Annotated[str, NotInKey("a recipe's own sections count")] = "third_place"
    """The recipe whose assets have plain names in Dagster, and that schedule and sensor build: its name, or the path of
    its file. The assets of every other recipe are named ``<recipe>/<set>``."""
    models: Models
    gpu: Gpu = Field(default_factory=Gpu)
    limits: Limits = Field(default_factory=Limits)
    training: Training
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    schedule: Annotated[str, NotInKey("determines when a run starts")] = "0 3 * * *"

    @field_validator("extensions")
    @classmethod
    def _are_loaded(cls, files: list[str]) -> list[str]:
        load_extensions(map(str, map(absolute, files)))  # before the other sections look up the registered names
        return files

    @classmethod
    def extra_keys(cls) -> tuple[str, ...]:
        return ("extends",)

    def extension_files(self) -> list[str]:
        """Return ``extensions`` as absolute paths."""
        return [str(absolute(file)) for file in self.extensions]

    def shard_names(self) -> list[str]:
        """Return the partition keys in order: ``shard-00000``, ``shard-00001``, …"""
        return [f"shard-{index:05d}" for index in range(self.shards)]


def resolve(path: str) -> str:
    """Make a profile's local path absolute; return it unchanged, e.g. a hub id, if no such file exists."""
    # The miniature's models are in the package, which may be installed without a project folder (e.g. on a Ray node).
    places = (PROJECT_ROOT / path, PACKAGE_ROOT / path)
    return next((str(place) for place in places if place.exists()), path)


def absolute(path: str) -> Path:
    """Return a local path of a profile as an absolute path."""
    return Path(resolve(path)).expanduser().absolute()


def load_profile(name: str) -> Profile:
    """Load a profile by name (shipped) or by path; keys that it leaves out come from the profile that it ``extends``.

    Raises:
        ConfigError: an unknown file or key (the message suggests the nearest valid one), a value out of range, or an
            extension that cannot be imported.
    """
    values, path = _values(name)
    profile = Profile.parse(values, where=str(path))
    if is_address(profile.models.captioner):
        check_no_secrets(profile.models.captioner)
    return profile


def _values(name: str, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Path]:
    values, path = read_yaml(name, "profiles")
    try:
        values |= {"models": with_base(values["models"])} if "models" in values else {}
    except ValueError as error:
        raise ConfigError(f"{path}: models: {error}") from None
    if path in above:
        raise ConfigError(f"{path} extends itself: remove `extends` from one of {', '.join(map(str, above))}")
    base = values.pop("extends", None)
    if base is None:
        return values, path
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends = {base!r}: give the name or the path of one profile")
    return merged(_values(base, (*above, path))[0], values), path
