"""Plan of an evaluation. In: options of the command, or a JSON file with the same keys. Out: a checked plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from toolkit.evaluation.settings import ChosenBenchmark, choose, refuse_old_keys
from toolkit.models import ArchitectureError, model_type
from toolkit.questions.answer_files import AnswerError, one_line
from toolkit.registry import load_extensions
from toolkit.settings import SettingsModel
from toolkit.settings_files import SettingsFileError, parse_json


class UnitSettings(SettingsModel):
    """Where a caller with keys of its own keeps the answers to one benchmark."""

    error = AnswerError

    folder: Path
    """Folder of the unit (see ``units``)."""
    unit_key: str
    """Hash of everything that the answers depend on; a unit that has it is not answered again."""


class EvaluationPlan(SettingsModel):
    """What to evaluate and how."""

    error = AnswerError

    model: Path
    """Folder of a checkpoint."""
    output: Path
    """Folder for answers and results."""
    benchmarks: dict[str, dict[str, Any]] = Field(min_length=1)
    """Files (by role) and options of each benchmark, in the order in which they are answered."""
    units: dict[str, UnitSettings] = Field(default_factory=dict)
    """By benchmark; one without an entry is kept in ``<output>/<name>`` under a key computed from its files."""
    extensions: list[Path] = Field(default_factory=list)
    """Python files that register benchmarks or architectures."""
    cache_dir: Path | None = None
    """Folder for cached features of the frozen towers; None disables the cache."""
    batch_size: StrictInt | None = Field(default=None, ge=1)
    """Prompts per batch; None is 128 on a GPU and 32 on the CPU."""
    max_new_tokens: StrictInt = Field(default=128, ge=1)
    """Maximum tokens of an answer; 128 in the kit."""
    workers: StrictInt | None = Field(default=None, ge=0)
    """Processes that prepare images; None is one per core up to 16 with a GPU, and none on the CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto`` is bfloat16 on a GPU and float32 on the CPU."""
    compiled: StrictBool = False
    """Run towers and prefixes through ``torch.compile`` on a GPU. Compiling takes half a minute, so it pays only for
    many thousands of questions."""

    @model_validator(mode="after")
    def _all_there(self) -> Self:
        load_extensions(self.extensions)
        self.chosen()
        try:
            model_type(self.model)
        except ArchitectureError as error:
            raise ValueError(f"model: {error}") from error
        return self

    def chosen(self) -> list[ChosenBenchmark]:
        """The benchmarks with their checked files and options."""
        return [choose(name, values) for name, values in self.benchmarks.items()]

    def only(self, names: Sequence[str]) -> EvaluationPlan:
        """A copy of the plan with some of its benchmarks.

        Raises:
            AnswerError: a benchmark that the plan does not have.
        """
        if absent := [name for name in names if name not in self.benchmarks]:
            raise AnswerError(
                f"benchmarks: {absent[0]!r} is asked for, but none of its files is given; given are "
                f"{', '.join(self.benchmarks)}"
            )
        return self.changed(benchmarks={name: self.benchmarks[name] for name in names})


def read_plan(path: Path) -> EvaluationPlan:
    """Read a plan from a JSON file.

    Raises:
        AnswerError: not a JSON object, a duplicate, unknown or missing key, or an invalid value.
    """
    try:
        values = parse_json(path.read_bytes())
    except OSError as error:
        raise AnswerError(one_line(error)) from None
    except SettingsFileError as error:
        raise AnswerError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise AnswerError(f"{path}: a plan is an object of keys and values, not {type(values).__name__}")
    return make_plan(values)


def make_plan(values: Mapping[str, Any]) -> EvaluationPlan:
    """Build a plan from plain values; null counts as absent.

    Raises:
        AnswerError: an unknown or missing key, or an invalid value.
    """
    given = {name: value for name, value in values.items() if value is not None}
    refuse_old_keys(given)
    if not given.get("benchmarks"):
        raise AnswerError("nothing to evaluate: give the files of at least one benchmark, e.g. --textvqa-questions")
    return EvaluationPlan.parse(given)


def check_outputs(plans: Sequence[EvaluationPlan]) -> None:
    """Refuse plans that would overwrite each other's output.

    Raises:
        AnswerError: two plans write to one folder.
    """
    seen: set[Path] = set()
    for plan in plans:
        folder = plan.output.resolve()
        if folder in seen:
            raise AnswerError(f"output: two plans write to {str(plan.output)!r}; give each a folder of its own")
        seen.add(folder)
