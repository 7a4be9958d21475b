"""Which of the miniature world's files are a benchmark's. In: a world and a benchmark. Out: paths by role."""

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
"""Relative to the world's folder, by benchmark and role."""


def world_files(root: Path, benchmark: str) -> dict[str, Path] | None:
    """Files of a benchmark in a world; None where the world has none for it.

    Args:
        root: the world's folder.
        benchmark: its name.
    """
    roles = WORLD_FILES.get(benchmark)
    return None if roles is None else {role: root / path for role, path in roles.items()}
