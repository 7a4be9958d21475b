"""Settings of an evaluation's benchmarks. In: ``{name: {role: path, option: value}}``. Out: checked files and options.

A settings class is created from each benchmark's roles and options; an unknown key is refused and the nearest valid key
named.

A benchmark can have two splits: questions for choosing settings by their scores (``tune``), and questions for figures
that are published (``report``). ``{questions: q, images: i, tune: {questions: t}}`` names the files of ``report``, and
those that ``tune`` replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, create_model, field_validator, model_validator

from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.benchmarks.protocol import Benchmark, File, Options
from toolkit.questions.answer_files import AnswerError
from toolkit.settings import NotInKey, SettingsModel

OLD_KEYS = {
    "textvqa_questions": "benchmarks: {textvqa: {questions: …}}",
    "textvqa_annotations": "benchmarks: {textvqa: {annotations: …}}",
    "textvqa_images": "benchmarks: {textvqa: {images: …}}",
    "mmbench": "benchmarks: {mmbench: {table: …}}",
}
"""Keys that plans and profiles had before benchmarks became a mapping, and their replacements."""
Split = Literal["report", "tune"]
TUNE = "tune"
"""Value of ``split``, and the key of a benchmark's files for it."""


class EvaluationSettings(SettingsModel):
    """The section ``evaluation`` of a profile."""

    benchmarks: Annotated[dict[str, dict[str, Any] | None], NotInKey("keys have what the files hold")] = Field(
        default={"textvqa": {}, "mmbench": {}}
    )
    """Files (by role) and options of each benchmark, e.g. ``{mmbench: {table: m.tsv}}``; ``{}`` selects the miniature
    world's files, null removes a benchmark that the extended profile has. Below ``tune``, files of the split of this
    name; the other files are used for both."""
    split: Annotated[Split, NotInKey("the contents of its files are in the key")] = "report"
    """Which questions are asked. ``tune``: those for choosing settings by their scores, which are not to be published.
    Needs the miniature world's files, or files below ``tune``."""
    batch: Annotated[int, NotInKey("rounding only")] = Field(default=32, ge=1)
    """Questions per batch."""

    @model_validator(mode="before")
    @classmethod
    def _no_old_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            refuse_old_keys(values)
        return values

    @field_validator("benchmarks")
    @classmethod
    def _known(cls, benchmarks: dict[str, dict[str, Any] | None]) -> dict[str, dict[str, Any] | None]:
        for name, values in benchmarks.items():
            benchmark = BENCHMARKS.get(name)
            for split in ("report", "tune") if values else ():
                asked = of_split(values or {}, split)
                if _named(benchmark, asked):
                    parse(benchmark, asked)
                else:
                    check_options(benchmark, asked)
            if values and TUNE in values and of_split(values, "tune") == of_split(values, "report"):
                raise ValueError(f"{name}: the files of `tune` are those of `report`: name others, or remove `tune`")
        if not any(values is not None for values in benchmarks.values()):
            raise ValueError("no benchmark is left: name at least one")
        return benchmarks

    @model_validator(mode="after")
    def _has_files_of_the_split(self) -> Self:
        if self.split == TUNE and (without := [name for name in self._given() if not self.can_tune(name)]):
            raise ValueError(
                f"split: tune has no files of {', '.join(without)}: name questions that are asked in no report below "
                f"benchmarks.{without[0]}.tune, or remove the benchmark"
            )
        return self

    def _given(self) -> dict[str, dict[str, Any]]:
        return {name: values for name, values in self.benchmarks.items() if values is not None}

    def chosen(self) -> dict[str, dict[str, Any]]:
        """Settings of the evaluated benchmarks, by name, with the files of the split."""
        return {name: of_split(values, self.split) for name, values in self._given().items()}

    def can_tune(self, name: str) -> bool:
        """Tell whether an evaluated benchmark has the split ``tune``."""
        values = self._given()[name]
        return TUNE in values or not _named(BENCHMARKS.get(name), values)

    def only(self, names: Sequence[str]) -> EvaluationSettings:
        """A copy with some of the evaluated benchmarks, in the profile's order.

        Raises:
            AnswerError: a name that is not evaluated, or no name.
        """
        chosen = self.chosen()
        if unknown := [name for name in names if name not in chosen]:
            raise AnswerError(f"benchmarks: {unknown[0]!r} is not evaluated; the profile has {', '.join(chosen)}")
        if not names:
            raise AnswerError(f"benchmarks: name at least one of {', '.join(chosen)}")
        kept = {name: values for name, values in self._given().items() if name in names}
        return self.model_copy(update={"benchmarks": kept})


def of_split(values: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """Return a benchmark's files and options for a split.

    Raises:
        ValueError: ``tune`` is no mapping.
    """
    own = values.get(TUNE) or {}
    if not isinstance(own, Mapping):
        raise ValueError(f"tune = {own!r}: give files by role, e.g. tune: {{questions: q.jsonl}}")
    common = {key: value for key, value in values.items() if key != TUNE}
    return {**common, **own} if split == TUNE else common


def _named(benchmark: Benchmark, values: Mapping[str, Any]) -> bool:
    """Tell whether values name a file of the benchmark."""
    return any(values.get(file.role) is not None for file in benchmark.files)


@dataclass(frozen=True, kw_only=True)
class ChosenBenchmark:
    """A benchmark with its options and its files by role."""

    benchmark: Benchmark
    files: Mapping[str, Path]
    options: Options

    @property
    def name(self) -> str:
        return self.benchmark.name

    def given_files(self) -> dict[str, Path]:
        """The entries that are files and not folders, by role."""
        return {role: path for role, path in self.files.items() if path.is_file()}


def choose(name: str, values: object) -> ChosenBenchmark:
    """Check a benchmark's settings and that its files exist.

    Raises:
        RegistryError: no such benchmark.
        AnswerError: an unknown or missing key, a value of the wrong type, or a file that does not exist.
    """
    benchmark = BENCHMARKS.get(name)
    files, options = parse(benchmark, values)
    for file in benchmark.files:
        if file.role in files:
            _check_there(file, files[file.role], f"{name}.{file.role}")
    return ChosenBenchmark(benchmark=benchmark, files=files, options=options)


def parse(benchmark: Benchmark, values: object) -> tuple[dict[str, Path], Options]:
    """Parse plain values into files by role and options; null counts as absent.

    Raises:
        AnswerError: an unknown or missing key, or a value of the wrong type.
    """
    if isinstance(values, Mapping):
        values = {key: value for key, value in values.items() if value is not None}
    settings = _class_of(benchmark).parse(values, where=f"benchmarks.{benchmark.name}")
    given = {file.role: getattr(settings, file.role) for file in benchmark.files}
    options = {name: getattr(settings, name) for name in benchmark.options.model_fields}
    return {role: path for role, path in given.items() if path is not None}, benchmark.options.parse(options)


def check_options(benchmark: Benchmark, values: Mapping[str, Any]) -> None:
    """Check options given without files.

    Raises:
        AnswerError: an unknown key, or a value of the wrong type.
    """
    parse(benchmark, {file.role: "." for file in benchmark.files if file.required} | dict(values))


def refuse_old_keys(values: Mapping[str, Any]) -> None:
    """Refuse keys of the format before benchmarks became a mapping.

    Raises:
        AnswerError: names the key and its replacement.
    """
    for key, instead in OLD_KEYS.items():
        if key in values:
            raise AnswerError(f"{key} has moved: write {instead}")


def _class_of(benchmark: Benchmark) -> type[Options]:
    fields: dict[str, Any] = {
        file.role: (Path, ...) if file.required else (Path | None, Field(default=None)) for file in benchmark.files
    }
    return create_model(f"{type(benchmark).__name__}Settings", __base__=benchmark.options, **fields)


def _check_there(file: File, path: Path, where: str) -> None:
    if file.kind == "file" and not path.is_file():
        raise AnswerError(f"{where}: {str(path)!r} {'is a folder, not a file' if path.is_dir() else 'is no file'}")
    if file.kind != "file" and not path.is_dir():
        raise AnswerError(f"{where}: {str(path)!r} {'is a file, not a folder' if path.is_file() else 'is no folder'}")
