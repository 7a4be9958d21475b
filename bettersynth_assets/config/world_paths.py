"""File layout of the generated miniature world. In: its root folder. Out: paths; see ``miniature.generate``.

A profile without a seed file, fine-tuning set or benchmark files uses them. They are generated once, at the start of a
run (``stages.world``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BENCHMARK_FILES = {
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
"""Paths relative to a split's folder, by benchmark and role."""


@dataclass(frozen=True, kw_only=True)
class QuestionFiles:
    """Paths of one split's evaluation sets."""

    root: Path

    @property
    def textvqa_questions(self) -> Path:
        return self.root / "textvqa" / "questions.jsonl"

    @property
    def textvqa_annotations(self) -> Path:
        return self.root / "textvqa" / "annotations.json"

    @property
    def textvqa_images(self) -> Path:
        return self.root / "textvqa" / "images"

    @property
    def mmbench(self) -> Path:
        return self.root / "mmbench" / "mmbench_dev.tsv"

    @property
    def mme(self) -> Path:
        """Folder with MME's subtasks."""
        return self.root / "mme"

    @property
    def pope(self) -> Path:
        """Folder with POPE's three question files."""
        return self.root / "pope"

    @property
    def pope_images(self) -> Path:
        return self.root / "pope" / "images"

    @property
    def gqa_questions(self) -> Path:
        return self.root / "gqa" / "testdev_balanced_questions.json"

    @property
    def gqa_images(self) -> Path:
        return self.root / "gqa" / "images"

    @property
    def drawn(self) -> Path:
        """Folder for MMBench's images until they are in its table."""
        return self.mmbench.parent / "drawn"


@dataclass(frozen=True, kw_only=True)
class WorldPaths:
    """Paths of a world's files."""

    root: Path

    @property
    def seed_file(self) -> Path:
        return self.root / "seed" / "mgm_pretrain_stage_1.jsonl"

    @property
    def seed_images(self) -> Path:
        """Folder to which image paths in the seed file are relative."""
        return self.root / "seed"

    @property
    def questions(self) -> Path:
        return self.root / "seed" / "stage_1.json"

    @property
    def truth(self) -> Path:
        return self.root / "seed" / "truth.parquet"

    @property
    def finetune_json(self) -> Path:
        return self.root / "finetune" / "finetune.json"

    @property
    def finetune_images(self) -> Path:
        """Folder to which image paths in the fine-tuning set are relative."""
        return self.root / "finetune" / "images"

    def split(self, name: str) -> QuestionFiles:
        """Return the paths of ``tune`` or ``report``."""
        return QuestionFiles(root=self.root / name)

    def benchmark(self, name: str, split: str) -> dict[str, Path] | None:
        """Return the files of a benchmark by role; None if the world has no files for it."""
        roles = BENCHMARK_FILES.get(name)
        return None if roles is None else {role: self.split(split).root / path for role, path in roles.items()}
