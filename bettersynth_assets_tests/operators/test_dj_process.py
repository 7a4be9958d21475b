from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import yaml

from bettersynth_assets.config.model import PROJECT_ROOT
from bettersynth_assets.config.recipe import RegenerateSection, Sampling
from bettersynth_assets.images.opening import open_rgb
from bettersynth_assets.models.captioners.blip2 import Blip2Captioner
from bettersynth_assets.models.captioners.caption_cleaning import clean
from bettersynth_assets.models.diffusion import ImageMaker, save_image
from bettersynth_assets.models.scorers.clip_files import score_files
from bettersynth_assets.models.scorers.clip_score import ClipScorer
from bettersynth_assets.operators.limits import resolve_limits
from bettersynth_assets.operators.process import run_process
from bettersynth_assets_tests.helpers.operators import build_operators
from bettersynth_assets_tests.helpers.rows import scored_table, tiny_profile
from tiny_models.synthesis import make_stable_diffusion
from toolkit.tokens import kit_text

pytestmark = pytest.mark.e2e

WORDS = {"words_num_filter": {"min_num": 5, "max_num": 24}}
SCORES = {"clip_score_filter": {"method": "min", "min_score": -0.13}}


def write_config(folder, table, process, **more):
    """Write rows and configuration of a run; only the entry point makes this package known to it."""
    lines = [
        json.dumps({"id": row["id"], "text": kit_text(row["caption"]), "images": [str(folder / row["image"])]}) + "\n"
        for row in table.to_pylist()
    ]
    (folder / "rows.jsonl").write_text("".join(lines))
    config = {
        "project_name": "parity", "dataset_path": str(folder / "rows.jsonl"), "np": 1, "skip_op_error": False,
        "export_path": str(folder / "out" / "kept.jsonl"), "work_dir": str(folder / "out"), "open_tracer": False,
        "process": process, **more,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return str(folder / "config.yaml")


def run(folder, *command):
    env = {**os.environ, "HF_HOME": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def kept_in(folder):
    return [json.loads(line) for line in (folder / "out" / "kept.jsonl").read_text().splitlines()]


IMAGES = {"image_near_duplicate_deduplicator": {"max_distance": 4}}
CLUSTERS = {"clusters": 4, "count": 9, "prefer": "centre"}
SAMPLING = {"temperature": 1.5, "seed": 3}
SEVERAL = """
import sys
from data_juicer.tools.process_data import main
for config in sys.argv[1:]:
    sys.argv = ["dj-process", "--config", config]
    main()
"""
"""What the command does, once per configuration: it takes many seconds to start."""


@pytest.fixture(scope="module")
def done(tiny_models):
    """Folder and table of each run by name; one process does all runs.

    The folder has no spaces: Data-Juicer's command splits a dataset's path there and reads sampling weights.
    """
    clip = {"clip_model": str(tiny_models.clip), "accelerator": "cpu"}
    captioner = {"captioner": str(tiny_models.captioner), "accelerator": "cpu"}
    with tempfile.TemporaryDirectory(prefix="dj-process-") as place:
        root = Path(place)
        diffusion = make_stable_diffusion(root / "sd", tiny_models.clip)
        images = {"diffusion": str(diffusion), "image_dir": str(root / "new"), "steps": 2, "accelerator": "cpu"}
        scores = {"clip_score_filter": clip | SCORES["clip_score_filter"]}
        page = (PROJECT_ROOT / "docs" / "extending.md").read_text("utf-8").partition("## Add an operator")[2]
        (root / "word_length_filter.py").write_text(page.split("```python\n")[1].split("```")[0])
        runs = {
            "rows": (20, [WORDS, scores], {}),
            "sets": (20, [IMAGES, {"kmeans_diversity_selector": CLUSTERS | clip}], {}),
            "captions": (12, [{"caption_mapper": {"max_new_tokens": 8, "sampling": SAMPLING} | captioner}], {}),
            "images": (5, [{"regenerate_image_mapper": images}], {}),
            "documented": (10, [{"word_length_filter": {"max_length": 3.9}}],
                           {"custom_operator_paths": [str(root / "word_length_filter.py")]}),
        }  # fmt: skip
        found, configs = {}, []
        for name, (rows, process, more) in runs.items():
            found[name] = (root / name, scored_table(root / name, rows))
            configs.append(write_config(*found[name], process, **more))
        run(root, sys.executable, "-c", SEVERAL, *configs)
        yield found


def ids(rows):
    return [row["id"] for row in rows]


def test_the_command_is_the_function_that_these_tests_call():
    (command,) = entry_points(group="console_scripts", name="dj-process")
    module, function = "data_juicer.tools.process_data", "main"
    assert (command.module, command.attr) == (module, function)
    assert f"from {module} import {function}\n" in SEVERAL


def test_plain_dj_process_keeps_the_same_rows_as_the_pipeline_for_the_same_recipe(done, tiny_models):
    folder, table = done["rows"]
    paths = [folder / name for name in table["image"].to_pylist()]
    scored = score_files(ClipScorer(str(tiny_models.clip)), paths, table["caption"].to_pylist())
    table = table.set_column(table.schema.get_field_index("clip_score"), "clip_score", [scored.scores])
    kept = kept_in(folder)
    limits = resolve_limits([WORDS, SCORES], np.asarray(scored.scores), table["id"].to_pylist())
    built = build_operators(limits, tiny_profile(tiny_models))
    ours = run_process(table, built, stage="filtered_set", image_root=folder, rescore=len)
    assert 0 < len(kept) < 20
    assert ids(kept) == ours.kept["id"].to_pylist()


def test_plain_dj_process_runs_our_dataset_operators_and_keeps_the_same_rows(done, tiny_models):
    folder, table = done["sets"]
    kept = kept_in(folder)
    entries = [IMAGES, {"kmeans_diversity_selector": CLUSTERS | {"clip_model": str(tiny_models.clip)}}]
    built = build_operators(entries, tiny_profile(tiny_models), has_all_rows=True)
    ours = run_process(table, built, stage="filtered_set", image_root=folder, rescore=len)
    assert len(kept) == 9
    assert ids(kept) == ours.kept["id"].to_pylist()


def test_plain_dj_process_runs_our_captioner_and_writes_the_same_captions(done, tiny_models):
    folder, table = done["captions"]
    images = [open_rgb(folder / name) for name in table["image"].to_pylist()]
    how = {"max_new_tokens": 8, "sampling": Sampling(**SAMPLING), "keys": table["id"].to_pylist()}
    cleaned = [clean(text)[0] for text in Blip2Captioner(str(tiny_models.captioner)).captions(images, **how)]
    expected = [text or caption for text, caption in zip(cleaned, table["caption"].to_pylist(), strict=True)]
    assert sum(map(bool, cleaned)) > 5
    assert [row["text"] for row in kept_in(folder)] == [kit_text(text) for text in expected]


def test_plain_dj_process_writes_images_outside_the_seed_folder_and_names_their_parents(done):
    folder, table = done["images"]
    rows, captions = kept_in(folder), table["caption"].to_pylist()
    assert [row["text"] for row in rows] == [kit_text(caption) for caption in captions]
    assert [row["parent_images"] for row in rows] == [[str(folder / name)] for name in table["image"].to_pylist()]
    maker = ImageMaker(str(folder.parent / "sd"))
    expected = dict(maker.images(captions, table["id"].to_pylist(), RegenerateSection(steps=2)))
    for at, row in enumerate(rows):
        assert Path(row["images"][0]).parent == folder.parent / "new"
        save_image(expected[at], folder / "expected.jpg")
        assert Path(row["images"][0]).read_bytes() == (folder / "expected.jpg").read_bytes()


def test_the_documented_filter_keeps_the_same_rows_in_plain_dj_process(done):
    folder, table = done["documented"]
    rows = kept_in(folder)
    assert ids(rows) == [row["id"] for row in table.to_pylist() if not row["caption"].startswith("a small green")]
    assert len(rows) == 8
