"""The two splits of the evaluation sets. In: sizes and random seeds. Out: rows, images to draw and files.

``tune`` is for choosing settings by their scores, ``report`` for figures that are published. A scene of ``report`` has
a content that no scene of ``tune``, of the seed file, of the fine-tuning set or of the models' own training data has:
the content's hash rules out the last three (``world.Scene.split``), and the contents of ``tune`` are not drawn again.

There are only 87 evaluation contents with one thing and no sign, of which ``tune`` uses 62. They are 5.2% of its scenes
and 2.2% of those of ``report``, so ``report`` is a little harder, and scores of the two are not comparable.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Set
from dataclasses import asdict, dataclass, field
from typing import Any

from bettersynth_assets.config.world_paths import QuestionFiles
from bettersynth_assets.miniature.gqa_set import gqa_rows
from bettersynth_assets.miniature.question_sets import (
    mmbench_rows,
    textvqa_annotations,
    textvqa_rows,
    write_mmbench,
)
from bettersynth_assets.miniature.questions import Choice, Question
from bettersynth_assets.miniature.world import Scene
from bettersynth_assets.miniature.write_images import ImageJob
from bettersynth_assets.miniature.yes_no import Pair, mme_pairs, pope_rows, write_mme, write_pope

SEEDS_OF_REPORT = 1000
"""Distance between the random seeds of ``tune`` and of each ``report``."""


@dataclass(frozen=True, kw_only=True)
class QuestionSizes:
    """Rows of each evaluation set: ``mmbench`` counts questions before rotation, ``mme`` images per subtask, ``pope``
    images."""

    textvqa: int
    mmbench: int
    mme: int = 40
    pope: int = 100
    gqa: int


TUNE = QuestionSizes(textvqa=600, mmbench=400, gqa=400)
REPORT = QuestionSizes(textvqa=900, mmbench=600, gqa=600)
"""n independent questions of which a share p is right have a standard error of 100 √(p (1 − p) / n) points. At p = 0.5
these are 1.7 (900) and 2.0 (600) points, against 2.0 (600) and 2.5 (400) of ``tune``. More questions take time:
twice as many as in ``tune`` did not lower MMBench's spread over seeds (docs/results/miniature.md)."""


@dataclass(frozen=True, kw_only=True)
class SetSizes:
    """Rows of the fine-tuning set, and of both splits. Those of ``finetune_gqa`` are appended to ``finetune``."""

    finetune: int = 1600
    finetune_gqa: int = 800
    tune: QuestionSizes = TUNE
    report: QuestionSizes = REPORT

    def as_dict(self) -> dict[str, Any]:
        """Return the sizes by name, for the world's marker."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """Rows of one split's evaluation sets, with their scenes."""

    textvqa: list[tuple[dict[str, Any], Scene, Question]]
    mmbench: list[tuple[Choice, Scene]]
    mme: list[Pair]
    pope: tuple[dict[str, list[dict[str, Any]]], list[tuple[str, Scene]]]
    gqa: tuple[dict[str, dict[str, Any]], list[tuple[str, Scene]]]
    contents: frozenset[str] = field(init=False)
    """Of all scenes."""

    def __post_init__(self) -> None:
        scenes = [
            *(scene for _, scene, _ in self.textvqa),
            *(scene for _, scene in self.mmbench),
            *(pair.scene for pair in self.mme),
            *(scene for _, scene in (*self.pope[1], *self.gqa[1])),
        ]
        object.__setattr__(self, "contents", frozenset(scene.content() for scene in scenes))


def tune_rows(sizes: QuestionSizes, random_seed: int) -> SplitRows:
    """Draw ``tune``.

    Args:
        sizes: rows of each set.
        random_seed: of the whole world.
    """
    return _draw(sizes, random_seed, frozenset())


def report_rows(sizes: QuestionSizes, random_seed: int, number: int, tune: SplitRows) -> SplitRows:
    """Draw ``report``.

    Args:
        sizes: rows of each set.
        random_seed: of the whole world.
        number: 1 for the first ``report``; each further one shares no content with those before it.
        tune: whose contents are not drawn.
    """
    without = tune.contents
    for at in range(1, number):
        without |= _draw(sizes, random_seed + SEEDS_OF_REPORT * at, without).contents
    return _draw(sizes, random_seed + SEEDS_OF_REPORT * number, without)


def _draw(sizes: QuestionSizes, random_seed: int, without: Set[str]) -> SplitRows:
    return SplitRows(
        textvqa=textvqa_rows(sizes.textvqa, random_seed + 2, without),
        mmbench=mmbench_rows(sizes.mmbench, random_seed + 3, without),
        mme=mme_pairs(sizes.mme, random_seed + 4, without),
        pope=pope_rows(sizes.pope, random_seed + 5, without),
        gqa=gqa_rows(sizes.gqa, random_seed + 6, without),
    )


def start_split(rows: SplitRows, files: QuestionFiles) -> list[ImageJob]:
    """Create the folders of a split, write MME's text files, and return the images to draw."""
    for folder in (files.textvqa_images, files.pope_images, files.gqa_images, files.mmbench.parent):
        folder.mkdir(parents=True)
    return [
        *(ImageJob(path=files.textvqa_images / row["image"], scene=scene) for row, scene, _ in rows.textvqa),
        # MMBench embeds its images in the table: they are drawn to files like the others, read back and removed.
        *(ImageJob(path=files.drawn / f"{index}.jpg", scene=scene) for index, (_, scene) in enumerate(rows.mmbench)),
        *(ImageJob(path=path, scene=scene) for path, scene in write_mme(rows.mme, files.mme)),
        *(ImageJob(path=files.pope_images / name, scene=scene) for name, scene in rows.pope[1]),
        *(ImageJob(path=files.gqa_images / name, scene=scene) for name, scene in rows.gqa[1]),
    ]


def finish_split(rows: SplitRows, files: QuestionFiles) -> None:
    """Write the questions of a split whose images have been drawn."""
    lines = [json.dumps(row) for row, _, _ in rows.textvqa]
    files.textvqa_questions.write_text("\n".join(lines) + "\n")
    files.textvqa_annotations.write_text(json.dumps(textvqa_annotations(rows.textvqa)))
    write_mmbench(rows.mmbench, files.drawn, files.mmbench)
    write_pope(rows.pope[0], files.pope)
    files.gqa_questions.write_text(json.dumps(rows.gqa[0], indent=1))
    shutil.rmtree(files.drawn)
