"""Profile = where things run and with what models. In: a YAML of ``profiles/``. Out: a frozen ``Profile``.

Paths in a profile are relative to the project root unless absolute; a model is a local folder or a hub id. A profile
may start from another: ``extends: mgm-2b`` and only the keys that differ. ``null`` for the seed or the fine-tuning set,
and ``{}`` for a benchmark, mean the generated miniature world under the data root.
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
from toolkit.training.settings import Seed, StageSettings, TrainingSettings

BY_OPERATOR = NotInKey("counts where an operator of the recipe uses it (operators_key)")
BY_FINGERPRINT = NotInKey("the code behind a name that is used counts (Registry.fingerprint)")
BY_CONTENT = NotInKey("counts by the content of its files")
REFUSES = NotInKey("refuses a shard; the rows of one that is taken are the same")


class Models(ConfigModel):
    """Models by role: a local folder (relative to the project root) or a hub id; the last six are always local."""

    clip: str
    """Scores image-text similarity. An OpenCLIP folder, ``hf-hub:`` id, or a transformers CLIP folder or id."""
    watermark: str
    captioner: str
    """A ``Blip2ForConditionalGeneration`` or ``LlavaForConditionalGeneration`` checkpoint, as its config.json says; or
    any that is served: ``http://host:port/v1#name`` (see ``config/address.py``), without keys or passwords."""
    base: str
    """What is trained and evaluated: the folder of a checkpoint with language model, vision towers and processor. A
    profile may call it by its old name, `mgm`."""
    diffusion: str | None = None
    """A text-to-image pipeline of ``diffusers``; None refuses a recipe with a ``regenerate`` section."""
    aesthetics: Annotated[str | None, BY_OPERATOR] = None
    """Of ``image_aesthetics_filter``; None, here and for the next three, takes Data-Juicer's hub id."""
    nsfw: Annotated[str | None, BY_OPERATOR] = None
    matching: Annotated[str | None, BY_OPERATOR] = None
    """A ``BlipForImageTextRetrieval`` checkpoint."""
    grounding: Annotated[str | None, BY_OPERATOR] = None
    """An ``OwlViTForObjectDetection`` checkpoint."""
    language_id: Annotated[str | None, BY_OPERATOR] = None
    """A fastText file. None, here and for the next five, refuses the operators that need it."""
    perplexity: Annotated[str | None, BY_OPERATOR] = None
    """Folder of ``en.sp.model`` and ``en.arpa.bin``."""
    spacy: Annotated[str | None, BY_OPERATOR] = None
    """Folder of a spaCy pipeline."""
    nltk: Annotated[str | None, BY_OPERATOR] = None
    """Folder of NLTK data."""
    words: Annotated[str | None, BY_OPERATOR] = None
    """Folder of ``flagged_words.json`` and ``stopwords.json``."""
    tokenizer: Annotated[str | None, BY_OPERATOR] = None
    """Folder of a transformers tokenizer."""

    @model_validator(mode="before")
    @classmethod
    def _old_name_of_base(cls, values: Any) -> Any:
        return with_base(values)


def with_base(values: Any) -> Any:
    """A profile's ``models`` with ``base`` in place of ``mgm``, its old name.

    Raises:
        ValueError: both are given.
    """
    if not isinstance(values, dict) or "mgm" not in values:
        return values
    if "base" in values:
        raise ValueError("`mgm` is the old name of `base`: give `base` alone")
    return {("base" if name == "mgm" else name): value for name, value in values.items()}


class Limits(ConfigModel):
    """Bounds of what is accepted from a seed file; a row outside them is quarantined, not rejected."""

    max_pixels: int = Field(default=89_478_485, ge=1)
    min_side: int = Field(default=2, ge=1)
    max_metadata_bytes: int = Field(default=1_000_000, ge=0)
    max_bad_line_share: Annotated[float, REFUSES] = Field(default=0.2, ge=0, le=1)
    max_quarantined_share: Annotated[float, REFUSES] = Field(default=0.2, ge=0, le=1)
    max_failed_captions_share: Annotated[float, REFUSES] = Field(default=0.2, ge=0, le=1)
    """Rows of a shard for which a captioner's server may fail; they keep their captions, flagged ``caption_failed``."""


class Training(TrainingSettings):
    """The fixed training of both arms."""

    seeds: list[Seed] = Field(min_length=1)
    stage_1: StageSettings
    stage_2: StageSettings
    finetune_json: Annotated[str | None, BY_CONTENT] = None
    finetune_images: Annotated[str | None, BY_CONTENT] = None
    launcher: Annotated[list[str], NotInKey("how many processes train: only rounding")] = Field(default_factory=list)
    """Takes the place of ``python -m`` before ``toolkit.training.run``, e.g. ``[torchrun, --nproc_per_node=8, -m]`` or
    ``[deepspeed, --module]``; empty is one process. DeepSpeed's launcher takes all GPUs that the step holds; with
    ``--num_gpus`` it would ignore which these are."""
    feature_cache: bool = False
    """Keep the frozen towers' features on disk for all seeds and both arms: much less work where the towers are most of
    it, but tens of megabytes a picture at full size."""

    def of_the_plan(self) -> dict[str, Any]:
        """Those settings that a training plan has under the same name."""
        return self.model_dump(mode="json", include={*TrainingSettings.model_fields})


class Profile(ConfigModel):
    """One place to run."""

    name: Annotated[str, NotInKey("a folder's name")]
    description: Annotated[str, NotInKey("for readers")] = ""
    extensions: Annotated[list[str], BY_FINGERPRINT] = Field(default_factory=list)
    """Python files, relative to the project root, that register benchmarks, architectures, scorers or captioners
    (docs/extending.md). Every process that uses the profile imports them; trainings and evaluations do too."""
    seed: Annotated[str | None, BY_CONTENT] = None
    """The seed file, kit JSONL or LLaVA JSON; images are relative to its folder."""
    image_roots: list[str] = Field(default_factory=list)
    """Folders, besides the seed's, that links to images may lead to, e.g. the blobs of a hub cache or a shared disk."""
    questions: Annotated[str | None, BY_CONTENT] = None
    """LLaVA JSON with the original question of each id; None looks for ``stage_1.json`` beside the seed file."""
    world_rows: Annotated[int, NotInKey("the generated files count")] = Field(default=3000, ge=50)
    """Rows of the miniature world, used only where ``seed`` is None."""
    shards: int = Field(ge=1, le=100_000)
    budget: int
    trusted_code: Annotated[bool, NotInKey("permission; operators do the same")] = False
    """Allow operators that run code, call addresses, download or upload (docs/security.md)."""
    models: Models
    gpu: Gpu = Field(default_factory=Gpu)
    limits: Limits = Field(default_factory=Limits)
    training: Training
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    schedule: Annotated[str, NotInKey("when a run starts")] = "0 3 * * *"

    @field_validator("extensions")
    @classmethod
    def _are_loaded(cls, files: list[str]) -> list[str]:
        load_extensions(map(_absolute, files))  # before the other sections look for names that these register
        return files

    @classmethod
    def extra_keys(cls) -> tuple[str, ...]:
        return ("extends",)

    def extension_files(self) -> list[str]:
        """``extensions`` with their paths made absolute."""
        return [_absolute(file) for file in self.extensions]

    def shard_names(self) -> list[str]:
        """Partition keys, in order: ``shard-00000`` and so on."""
        return [f"shard-{index:05d}" for index in range(self.shards)]


def resolve(path: str) -> str:
    """Make a profile's local path absolute; a hub id (no such file under the project) comes back unchanged."""
    # The miniature's models are in the package, also where that is installed and no project is near (a Ray node).
    places = (PROJECT_ROOT / path, PACKAGE_ROOT / path)
    return next((str(place) for place in places if place.exists()), path)


def _absolute(file: str) -> str:
    return str(Path(resolve(file)).expanduser().absolute())


def load_profile(name: str) -> Profile:
    """Load a shipped profile by name or the user's own by path; ``extends: NAME`` takes what it leaves out from there.

    Raises:
        ConfigError: unknown file or key (with the nearest valid one), a value out of range, or an extension that cannot
            be imported.
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
        raise ConfigError(f"{path} extends itself: take `extends` out of one of {', '.join(map(str, above))}")
    base = values.pop("extends", None)
    if base is None:
        return values, path
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends = {base!r}: give the name or the path of one profile")
    return merged(_values(base, (*above, path))[0], values), path
