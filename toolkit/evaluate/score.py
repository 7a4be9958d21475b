"""Scores answers that exist already; prints one JSON line.

    python -m toolkit.evaluate.score textvqa --annotations TextVQA_0.5.1_val.json --answers answers.jsonl
    python -m toolkit.evaluate.score mmbench --predictions upload.xlsx [--questions mmbench_dev.tsv]

Answer files of LLaVA's layout are accepted. Exit code 2 when something is missing; there is no score over a part.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.evaluate import mmbench, textvqa


def score_textvqa(annotations: Path, answers: Path) -> dict[str, Any]:
    """Metric of an answers file; see :func:`textvqa.evaluate`."""
    rows = [json.loads(line) for line in answers.read_bytes().split(b"\n") if line.strip()]
    result = textvqa.evaluate(annotations, rows)
    return {key: value for key, value in result.items() if key != "scores"}


def score_mmbench(predictions: Path, questions: Path | None) -> dict[str, Any]:
    """Metric of an upload table; see :func:`mmbench.evaluate`."""
    return mmbench.evaluate(mmbench.read_table(predictions), mmbench.read_table(questions) if questions else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.evaluate.score", description="Score existing answers.")
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    text = benchmarks.add_parser("textvqa")
    text.add_argument("--annotations", type=Path, required=True)
    text.add_argument("--answers", type=Path, required=True)
    choice = benchmarks.add_parser("mmbench")
    choice.add_argument("--predictions", type=Path, required=True, help=".xlsx or .tsv")
    choice.add_argument(
        "--questions", type=Path, help="the benchmark, when predictions hold no answers or may be incomplete"
    )
    given = parser.parse_args(arguments)
    try:
        if given.benchmark == "textvqa":
            result = score_textvqa(given.annotations, given.answers)
        else:
            result = score_mmbench(given.predictions, given.questions)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        parser.exit(2, f"error: {error}\n")
    print(json.dumps({"benchmark": given.benchmark, **result}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
