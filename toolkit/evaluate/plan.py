"""What an evaluation is given. In: options of the command, or a JSON file of the same names. Out: a checked plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from toolkit.evaluate.answer_files import AnswerError, one_line
from toolkit.settings_files import SettingsFileError, parse_json

_FILES = ("textvqa_questions", "textvqa_annotations", "mmbench")
_TEXTVQA = ("textvqa_questions", "textvqa_annotations", "textvqa_images")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What to evaluate, and how.

    Args:
        model: folder of a checkpoint.
        output: folder for answers and results.
        textvqa_questions, textvqa_annotations, textvqa_images: all three or none.
        mmbench: the benchmark's table, or None.
        cache_dir: where features of the frozen towers are kept; None keeps none.
        batch_size: prompts at a time; None is 128 on a GPU and 32 on the CPU.
        max_new_tokens: longest answer; the kit's 128.
        workers: processes that prepare pictures; None is one per core up to 16 beside a GPU, and none on the CPU.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto`` is bfloat16 on a GPU and float32 on the CPU.
        compiled: towers and prefixes through ``torch.compile`` on a GPU: half a minute first, which pays
            only for many thousands of questions.
    """

    model: Path
    output: Path
    textvqa_questions: Path | None = None
    textvqa_annotations: Path | None = None
    textvqa_images: Path | None = None
    mmbench: Path | None = None
    cache_dir: Path | None = None
    batch_size: int | None = None
    max_new_tokens: int = 128
    workers: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    compiled: bool = False

    def __post_init__(self) -> None:
        given = [name for name in _TEXTVQA if getattr(self, name) is not None]
        if given and len(given) < len(_TEXTVQA):
            raise AnswerError(f"TextVQA needs {', '.join(_TEXTVQA)}; only {', '.join(given)} is given")
        if not given and self.mmbench is None:
            raise AnswerError("nothing to evaluate; give the files of TextVQA or of MMBench, or of both")
        for name in _FILES:
            path = getattr(self, name)
            if path is not None and not path.is_file():
                found = "is a folder, not a file" if path.is_dir() else "is no file"
                raise AnswerError(f"{name}: {str(path)!r} {found}")
        if not (self.model / "config.json").is_file():
            raise AnswerError(f"model: {str(self.model)!r} holds no config.json; give an MGM checkpoint")
        for name, least in (("batch_size", 1), ("max_new_tokens", 1), ("workers", 0)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise AnswerError(f"{name} {number} is under {least}")
        for name, known in (("device", DEVICES), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise AnswerError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(known)}")

    def files(self) -> dict[str, Path]:
        """The benchmark files that are given, by field."""
        return {name: path for name in _FILES if (path := getattr(self, name)) is not None}


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


def make_plan(values: dict[str, Any]) -> EvaluationPlan:
    """Build a plan from plain values; null is as good as absent.

    Raises:
        AnswerError: an unknown or missing key, a value of another type, or a fault in the plan.
    """
    known = {field.name: str(field.type) for field in fields(EvaluationPlan)}
    given = {name: value for name, value in values.items() if value is not None}
    unknown, missing = sorted(set(values) - set(known)), sorted({"model", "output"} - set(given))
    if unknown or missing:
        raise AnswerError(f"unknown keys {unknown}, missing keys {missing}; known are {', '.join(known)}")
    return EvaluationPlan(**{name: _typed(name, value, known[name]) for name, value in given.items()})


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


def _typed(name: str, value: Any, kind: str) -> Any:
    if "Path" in kind:
        right = isinstance(value, str | Path) and str(value) != ""
    elif kind == "bool":
        right = isinstance(value, bool)
    elif kind.startswith("int"):
        right = isinstance(value, int) and not isinstance(value, bool)
    else:
        right = isinstance(value, str)
    if not right:
        expected = "a path" if "Path" in kind else kind.removesuffix(" | None")
        raise AnswerError(f"{name}: {value!r} is not {expected}")
    return Path(value) if "Path" in kind else value
