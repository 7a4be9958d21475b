from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.operators.clip_score import ClipScorer, score_files
from bettersynth_assets.operators.data_juicer import build_operators, resolve_limits
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.records.schema import kit_text
from bettersynth_assets_tests.operators.rows import scored_table, tiny_profile

WORDS = {"words_num_filter": {"min_num": 5, "max_num": 24}}
SCORES = {"clip_score_filter": {"method": "min", "min_score": -0.13}}


def plain_dj_process(folder, table, process, own):
    """Ids that ``dj-process`` keeps of a table's rows, with the files of our operators ``own`` beside its own."""
    lines = [
        json.dumps({"id": row["id"], "text": kit_text(row["caption"]), "images": [str(folder / row["image"])]}) + "\n"
        for row in table.to_pylist()
    ]
    (folder / "rows.jsonl").write_text("".join(lines))
    operators = PROJECT_ROOT / "bettersynth_assets" / "operators"
    config = {
        "project_name": "parity", "dataset_path": str(folder / "rows.jsonl"), "np": 1, "skip_op_error": False,
        "export_path": str(folder / "out" / "kept.jsonl"), "work_dir": str(folder / "out"), "open_tracer": False,
        "custom_operator_paths": [str(operators / f"{name}.py") for name in own],
        "process": process,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "dj-process"), "--config", str(folder / "config.yaml")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "HF_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line)["id"] for line in (folder / "out" / "kept.jsonl").read_text().splitlines()]


def test_plain_dj_process_keeps_the_rows_that_the_same_recipe_keeps_here(tmp_path, tiny_models):
    table = scored_table(tmp_path, 20)
    paths = [tmp_path / name for name in table["image"].to_pylist()]
    scored = score_files(ClipScorer(str(tiny_models.clip)), paths, table["caption"].to_pylist())
    table = table.set_column(table.schema.get_field_index("clip_score"), "clip_score", [scored.scores])
    theirs = {"clip_model": str(tiny_models.clip), "accelerator": "cpu"} | SCORES["clip_score_filter"]
    kept = plain_dj_process(tmp_path, table, [WORDS, {"clip_score_filter": theirs}], ["clip_score_filter"])
    limits = resolve_limits([WORDS, SCORES], np.asarray(scored.scores), table["id"].to_pylist())
    built = build_operators(limits, tiny_profile(tiny_models))
    ours = run_process(table, built, stage="filtered_set", image_root=tmp_path, rescore=len)
    assert 0 < len(kept) < 20
    assert kept == ours.kept["id"].to_pylist()


def test_plain_dj_process_runs_our_whole_set_operators_and_keeps_the_same_rows(tmp_path, tiny_models):
    table = scored_table(tmp_path, 20)
    images = {"image_near_duplicate_deduplicator": {"max_distance": 4}}
    arguments = {"clip_model": str(tiny_models.clip), "clusters": 4, "count": 9, "prefer": "centre"}
    entries = [images, {"kmeans_diversity_selector": {**arguments, "accelerator": "cpu"}}]
    kept = plain_dj_process(
        tmp_path, table, entries, ["image_near_duplicate_deduplicator", "kmeans_diversity_selector"]
    )
    built = build_operators(
        [images, {"kmeans_diversity_selector": arguments}], tiny_profile(tiny_models), has_whole_set=True
    )
    ours = run_process(table, built, stage="filtered_set", image_root=tmp_path, rescore=len)
    assert len(kept) == 9
    assert kept == ours.kept["id"].to_pylist()
