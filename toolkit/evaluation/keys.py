"""Keys of answers. In: a plan, benchmarks with their questions. Out: a hash that changes when answers would.

::

    checkpoint files, generation settings, code, libraries  ─► run_key
    run_key, one benchmark's version, options, files,
    questions and pictures                                  ─► unit_key

Nothing of one benchmark is in another one's key. Keys hold no path, device, batch size or other setting that only
rounds.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from toolkit.evaluation.benchmarks import BENCHMARKS
from toolkit.evaluation.benchmarks.protocol import Questions
from toolkit.evaluation.inputs import BenchmarkQuestions
from toolkit.evaluation.plan import EvaluationPlan
from toolkit.evaluation.question_rows import cluster_id
from toolkit.evaluation.settings import ChosenBenchmark
from toolkit.files import json_sha256, sha256_once
from toolkit.models import ARCHITECTURES, model_type

VERSION = 1
"""Of the code that answers. Raise it when the same checkpoint and questions would give other answers; what concerns one
benchmark is its own ``version``."""
LIBRARIES = ("torch", "transformers")
_LOADED = (".bin", ".jinja", ".json", ".model", ".py", ".safetensors", ".txt")
_RECORDS = ("manifest.json", "run.json", "trainer_state.json", "training_args.bin")
"""Files that training writes next to a checkpoint and that no loader reads; they hold seconds."""


def run_key(plan: EvaluationPlan) -> str:
    """Hash of what all answers of one run depend on."""
    return json_sha256({
        "version": VERSION,
        "checkpoint": checkpoint_hashes(plan.model),
        "architecture": ARCHITECTURES.fingerprint(model_type(plan.model)),
        "dtype": plan.dtype,
        "max_new_tokens": plan.max_new_tokens,
        "libraries": {name: version(name).partition("+")[0] for name in LIBRARIES},
    })  # fmt: skip


def unit_key(run: str, asked: BenchmarkQuestions) -> str:
    """Hash of what the answers to one benchmark depend on."""
    chosen = asked.chosen
    folders = [path for path in chosen.files.values() if path.is_dir()]
    images = {row.image for row in asked.questions.rows if isinstance(row.image, Path)}
    return json_sha256({
        "run": run,
        "benchmark": chosen.name,
        **benchmark_key(chosen),
        "questions": questions_hash(asked.questions),
        "pictures": sorted((cluster_id(image, folders), sha256_once(image)) for image in images),
    })  # fmt: skip


def benchmark_key(chosen: ChosenBenchmark) -> dict[str, Any]:
    """What the answers to a benchmark depend on besides the model and the content of folders."""
    return {
        "files": {role: sha256_once(path) for role, path in chosen.given_files().items()},
        "version": chosen.benchmark.version,
        "options": chosen.options.key(),
        "code": BENCHMARKS.fingerprint(chosen.name),
    }


def checkpoint_hashes(folder: Path) -> dict[str, str]:
    """Hashes of the files of a checkpoint that loading may read, by name."""
    found = (path for path in sorted(folder.iterdir()) if path.suffix in _LOADED and path.name not in _RECORDS)
    return {path.name: sha256_once(path) for path in found if path.is_file() and not path.name.startswith(".")}


def questions_hash(questions: Questions) -> str:
    """Hash of ids, texts, right answers, options, ``fields`` and the bytes of pictures that are no files."""
    rows = [_row(row.id, row.text, row.right, row.options, row.fields, row.image) for row in questions.rows]
    return json_sha256([questions.protocol, rows])


def _row(*values: Any) -> list[Any]:
    *rest, image = values
    plain = json.loads(json.dumps(rest, default=str))
    return [*plain, cluster_id(image, []) if isinstance(image, bytes) else ""]
