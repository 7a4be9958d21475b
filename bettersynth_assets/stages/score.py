"""clip_scores: one similarity per row. In: a shard of seed_dataset. Out: the same rows + clip_score, text_truncated.

The image embeddings from which scores are computed are stored next to the rows, for operators that compare images. Rows
whose image cannot be decoded are quarantined; nothing is rejected here. Limits belong to a later stage, so that they
can change without scoring again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bettersynth_assets.engine.resolved_run import ResolvedRun
from bettersynth_assets.engine.stage import Inputs, Result, Stage, Work
from bettersynth_assets.engine.store import Manifest
from bettersynth_assets.images.opening import check_unchanged
from bettersynth_assets.models.scorers.clip_files import Scored, score_files
from bettersynth_assets.models.scorers.clip_score import scorer_key
from bettersynth_assets.records.schema import QUARANTINE, SCORED, rows_table
from bettersynth_assets.stages.rules import EVERY_ROW_SET
from bettersynth_assets.stages.run_models import RunModels
from toolkit.files import write_atomically
from toolkit.progress import Progress

NAME = "clip_scores"
EMBEDDINGS_FILE = "embeddings.npy"
"""(kept rows, D) float32, normalised, in the order of the kept rows."""


def add_scores(table: pa.Table, scored: Scored) -> Result:
    """Add scores to rows.

    Args:
        table: rows of schema ``SEED``.
        scored: one score per row, in the same order.

    Returns:
        Kept rows of schema ``SCORED``; rows without a score in the quarantine.
    """
    columns = {"clip_score": pa.array(scored.scores), "text_truncated": pa.array(scored.truncated, pa.bool_())}
    for name, column in columns.items():
        table = table.append_column(name, column)
    is_decoded = np.ones(table.num_rows, bool)
    is_decoded[list(scored.errors)] = False
    kept = table.filter(pa.array(is_decoded)).cast(SCORED)
    rows = table.select(["id", "line"]).to_pylist()
    quarantine: list[dict[str, object]] = [
        {**rows[index], "stage": NAME, "reason": error.reason, "detail": error.detail}
        for index, error in sorted(scored.errors.items())
    ]
    values = kept.column("clip_score").to_numpy()
    stats = {
        "mean": float(values.mean(dtype=np.float64)) if values.size else None,
        "sd": float(values.std(dtype=np.float64)) if values.size else None,
        "truncated": int(np.count_nonzero(kept.column("text_truncated").to_numpy(zero_copy_only=False))),
    }
    return Result(rows_in=table.num_rows, kept=kept, quarantine=rows_table(quarantine, QUARANTINE), stats=stats)


def run(work: Work) -> Result:
    """Score one shard."""
    table = work.rows("seed_dataset")
    scorer = RunModels(work.run).scorer
    paths = [Path(work.run.seed.images, image) for image in table.column("image").to_pylist()]
    scored = score_files(
        scorer,
        paths,
        table.column("caption").to_pylist(),
        Progress(work.log, f"{NAME} {work.shard}", table.num_rows),
    )
    for at in scored.errors:
        check_unchanged(paths[at], table.column("image_hash")[at].as_py())
    result = add_scores(table, scored)
    content = BytesIO()  # numpy's write to a file hides errors, e.g. a full disk
    np.save(content, scored.embeddings, allow_pickle=False)
    write_atomically(work.folder / EMBEDDINGS_FILE, content.getvalue())
    return replace(result, files=(EMBEDDINGS_FILE,))


def read_embeddings(manifests: Sequence[Manifest]) -> NDArray[np.float32]:
    """Read the embeddings of the kept rows of some shards, in their order."""
    arrays = [np.load(manifest.file(EMBEDDINGS_FILE), allow_pickle=False) for manifest in manifests]
    return np.concatenate([array for array in arrays if len(array)] or arrays[:1])


def embeddings_of(work: Work, rows: pa.Table) -> list[NDArray[np.float32] | None]:
    """Return each row's embedding by this stage; None if its image has been replaced.

    Args:
        work: work of a stage with clip_scores as an input.
        rows: rows with ``id`` and ``image_hash``.
    """
    scored = work.rows(NAME)
    positions = {pair: position for position, pair in enumerate(_images(scored))}
    embeddings = read_embeddings(work.inputs[NAME])
    return [None if (position := positions.get(pair)) is None else embeddings[position] for pair in _images(rows)]


def _images(rows: pa.Table) -> zip[tuple[str, str]]:
    return zip(rows["id"].to_pylist(), rows["image_hash"].to_pylist(), strict=True)


def depends(run: ResolvedRun, shard: str, inputs: Inputs) -> object:
    return scorer_key(run.scorer, run.gpu)


CLIP_SCORES = Stage(
    name=NAME,
    version=2,
    columns=SCORED,
    rules=EVERY_ROW_SET,
    run=run,
    depends=depends,
    sharded=True,
    inputs=("seed_dataset",),
    scope="seed",
    libraries=("torch", "transformers", "open_clip_torch", "pillow"),
)
