"""Scores existing answers; prints one JSON line with the metrics, n, unparsed and protocol.

    python -m toolkit.evaluation.score textvqa --annotations TextVQA_0.5.1_val.json --answers merge.jsonl
    python -m toolkit.evaluation.score mmbench --predictions upload.xlsx [--questions mmbench_dev.tsv]
    python -m toolkit.evaluation.score mmbench --predictions answers.jsonl --questions mmbench_dev.tsv
    python -m toolkit.evaluation.score [--extension FILE.py] NAME … --answers answers.jsonl      (any other benchmark)

Accepts answers of other models in LLaVA's and MGM's layouts: TextVQA's answers file; MMBench's answers file, with one
answer per row or one per rotation of a row's options; the table for MMBench's server; for other benchmarks JSON lines
of ``question_id`` and ``text``. Exit code 2 if something is missing: no benchmark is scored in part. LLaVA leaves
MMBench's answers to the benchmark's server, which may interpret a sentence; here an answer must begin with its letter,
otherwise it is counted as ``unparsed`` and wrong.

Without ``--questions`` an upload table may be truncated. If questions have fewer rows than rotations, they are counted,
the protocol begins with ``incomplete``, and the exit code is 3 unless ``--allow-incomplete`` is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.file_errors import EnvironmentFault
from toolkit.questions.answer_files import one_line
from toolkit.registry import load_extensions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.evaluation.score", description="Score existing answers.")
    parser.add_argument(
        "--extension", type=Path, action="append", default=[], help="Python file that registers a benchmark"
    )
    try:
        load_extensions(_extensions(arguments))
        choice = parser.add_subparsers(dest="benchmark", required=True)
        for benchmark in map(BENCHMARKS.get, BENCHMARKS.names()):
            benchmark.add_score_options(choice.add_parser(benchmark.name, help=benchmark.title))
        options = parser.parse_args(arguments)
        result = BENCHMARKS.get(options.benchmark).score_existing(options)
    except (ValueError, OSError, EnvironmentFault) as error:
        parser.exit(2, f"error: {one_line(error)}\n")
    print(json.dumps({"benchmark": options.benchmark, **result}))
    if "incomplete" not in result:
        return 0
    print(
        f"incomplete: {result['incomplete']} of {result['n']} questions have fewer rows than rotations "
        f"({result['missing']} rows are missing), so this is no CircularEval figure; was the file cut off?",
        file=sys.stderr,
    )
    return 0 if getattr(options, "allow_incomplete", False) else 3


def _extensions(arguments: Sequence[str] | None) -> list[Path]:
    """Extension files of the command line, parsed first because an extension's benchmark is a subcommand."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--extension", type=Path, action="append", default=[])
    found: list[Path] = first.parse_known_args(arguments)[0].extension
    return found


if __name__ == "__main__":
    raise SystemExit(main())
