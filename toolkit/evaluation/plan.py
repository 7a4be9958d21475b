"""What an evaluation is given. In: options of the command, or a JSON file of the same names. Out: a checked plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from toolkit.evaluation.answer_files import AnswerError, one_line
from toolkit.evaluation.settings import Chosen, choose, refuse_old_keys
from toolkit.models import ArchitectureError, model_type
from toolkit.registry import load_extensions
from toolkit.settings import SettingsModel
from toolkit.settings_files import SettingsFileError, parse_json


class EvaluationPlan(SettingsModel):
    """What to evaluate, and how."""

    error = AnswerError

    model: Path
    """Folder of a checkpoint."""
    output: Path
    """Folder for answers and results."""
    benchmarks: dict[str, dict[str, Any]] = Field(min_length=1)
    """Files (by role) and options of each benchmark, in the order in which they are answered."""
    extensions: list[Path] = Field(default_factory=list)
    """Python files that register benchmarks or architectures from outside."""
    cache_dir: Path | None = None
    """Where features of the frozen towers are kept; None keeps none."""
    batch_size: StrictInt | None = Field(default=None, ge=1)
    """Prompts at a time; None is 128 on a GPU and 32 on the CPU."""
    max_new_tokens: StrictInt = Field(default=128, ge=1)
    """Longest answer; the kit's 128."""
    workers: StrictInt | None = Field(default=None, ge=0)
    """Processes that prepare pictures; None is one per core up to 16 beside a GPU, and none on the CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto`` is bfloat16 on a GPU and float32 on the CPU."""
    compiled: StrictBool = False
    """Towers and prefixes through ``torch.compile`` on a GPU: half a minute first, which pays only for many thousands
    of questions."""

    @model_validator(mode="after")
    def _all_there(self) -> Self:
        load_extensions(self.extensions)
        self.chosen()
        try:
            model_type(self.model)
        except ArchitectureError as error:
            raise ValueError(f"model: {error}") from error
        return self

    def chosen(self) -> list[Chosen]:
        """The benchmarks with their checked files and options."""
        return [choose(name, values) for name, values in self.benchmarks.items()]

    def only(self, names: Sequence[str]) -> EvaluationPlan:
        """The same with some of the benchmarks.

        Raises:
            AnswerError: one that the plan does not have.
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
        AnswerError: no JSON object, a key twice, unknown or missing, or a fault in the plan.
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
    """Build a plan from plain values; null is as good as absent.

    Raises:
        AnswerError: an unknown or missing key, a value of another type, or a fault in the plan.
    """
    given = {name: value for name, value in values.items() if value is not None}
    refuse_old_keys(given)
    if not given.get("benchmarks"):
        raise AnswerError("nothing to evaluate: give the files of at least one benchmark, e.g. --textvqa-questions")
    return EvaluationPlan.parse(given)


def check_outputs(plans: Sequence[EvaluationPlan]) -> None:
    """Refuse plans that would replace each other's output.

    Raises:
        AnswerError: two plans write to one folder.
    """
    seen: set[Path] = set()
    for plan in plans:
        folder = plan.output.resolve()
        if folder in seen:
            raise AnswerError(f"output: two plans write to {str(plan.output)!r}; give each a folder of its own")
        seen.add(folder)
