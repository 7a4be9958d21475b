"""Benchmark files of the miniature world. In: a world and a benchmark's name. Out: paths by role."""

from __future__ import annotations

from pathlib import Path

WORLD_FILES = {
    "textvqa": {
        "questions": "textvqa/questions.jsonl",
        "annotations": "textvqa/annotations.json",
        "images": "textvqa/images",
    },
    "mmbench": {"table": "mmbench/mmbench_dev.tsv"},
    "mme": {"root": "mme"},
    "pope": {"questions": "pope", "images": "pope/images"},
    "gqa": {"questions": "gqa/testdev_balanced_questions.json", "images": "gqa/images"},
}
"""Paths relative to the world's folder, by benchmark and role."""


def world_files(root: Path, benchmark: str) -> dict[str, Path] | None:
    """Return the files of a benchmark, or None if the world has no such benchmark.

    Args:
        root: the world's folder.
        benchmark: the benchmark's name.
    """
    roles = WORLD_FILES.get(benchmark)
    return None if roles is None else {role: root / path for role, path in roles.items()}
