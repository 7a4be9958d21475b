"""Options of ``toolkit.evaluation.run``. In: the command line. Out: plans.

A benchmark's options are generated from its class: ``--<name>-<role>`` for files, ``--<name>-<option>`` for the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.plan import EvaluationPlan, make_plan, read_plan
from toolkit.questions.answer_files import AnswerError
from toolkit.registry import load_extensions

_OF_THE_PLAN = ("model", "output", "cache_dir", "batch_size", "max_new_tokens", "workers", "device", "dtype")


def given_plans(arguments: Sequence[str] | None) -> tuple[list[EvaluationPlan], int]:
    """Parse the command line into plans and the number of plans to run at once (0: not given).

    Raises:
        AnswerError: a plan that cannot be used.
        RegistryError: an unknown benchmark, or an extension that cannot be loaded.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--extension", type=Path, action="append", default=[])
    extensions = first.parse_known_args(arguments)[0].extension
    load_extensions(extensions)
    given = vars(_parser().parse_args(arguments))
    paths, jobs, names = given.pop("plans"), given.pop("jobs"), given.pop("only")
    plans = [read_plan(path) for path in paths] if paths else [make_plan(_values(given, extensions))]
    if names is not None:
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        for name in wanted:
            BENCHMARKS.get(name)
        plans = [plan.only(wanted) for plan in plans]
    return plans, jobs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.evaluation.run", description="Answer and score benchmarks."
    )
    parser.add_argument("plans", type=Path, nargs="*", help="JSON files; replace the options")
    for name in _OF_THE_PLAN:
        kind = int if name in ("batch_size", "max_new_tokens", "workers") else str
        about = EvaluationPlan.model_fields[name].description
        parser.add_argument(_option(name), type=kind, default=argparse.SUPPRESS, help=about)
    parser.add_argument("--compiled", action="store_true", default=argparse.SUPPRESS)
    parser.add_argument(
        "--extension", type=Path, action="append", help="Python file that registers a benchmark; may be repeated"
    )
    parser.add_argument(
        "--jobs", type=int, default=0, help="plans to run at once; one per core when all run on the CPU"
    )
    parser.add_argument("--benchmarks", dest="only", metavar="A,B", help="answer only these benchmarks")
    for benchmark in map(BENCHMARKS.get, BENCHMARKS.names()):
        group = parser.add_argument_group(benchmark.title)
        for file in benchmark.files:
            group.add_argument(_option(benchmark.name, file.role), default=argparse.SUPPRESS, help=file.about)
        for name, field in benchmark.options.model_fields.items():
            group.add_argument(_option(benchmark.name, name), default=argparse.SUPPRESS, help=field.description)
    return parser


def _values(given: Mapping[str, Any], extensions: Sequence[Path]) -> dict[str, Any]:
    """The values of a plan, from those of the options."""
    values = {name: given[name] for name in (*_OF_THE_PLAN, "compiled") if name in given}
    if missing := [name for name in ("model", "output") if name not in values]:
        raise AnswerError(f"--{missing[0]} is missing: give --model and --output, or a plan file")
    benchmarks: dict[str, dict[str, Any]] = {}
    for benchmark in map(BENCHMARKS.get, BENCHMARKS.names()):
        for key in (*(file.role for file in benchmark.files), *benchmark.options.model_fields):
            if (name := _option(benchmark.name, key).removeprefix("--").replace("-", "_")) in given:
                benchmarks.setdefault(benchmark.name, {})[key] = given[name]
    return {**values, "benchmarks": benchmarks, "extensions": list(extensions)}


def _option(*names: str) -> str:
    return f"--{'-'.join(names).replace('_', '-')}"
