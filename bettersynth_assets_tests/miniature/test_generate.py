"""The generated files: formats, faults, and the same bytes from the same arguments."""

from __future__ import annotations

import base64
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from bettersynth_assets.config.world_paths import WorldPaths
from bettersynth_assets.miniature.generate import MARKER, generate_world
from bettersynth_assets.miniature.question_sets import finetune_rows, mmbench_rows, textvqa_rows
from bettersynth_assets.miniature.seed_rows import BROKEN_RATES, RATES, plan_rows
from bettersynth_assets.miniature.world import scene_from_json
from bettersynth_assets_tests.helpers.small_world import ROWS, SIZES
from toolkit.preprocess.dj_to_llava import QUESTIONS

csv.field_size_limit(sys.maxsize)


def all_bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_equal_arguments_give_equal_bytes_for_any_number_of_workers(small_world: WorldPaths, tmp_path: Path) -> None:
    again = generate_world(tmp_path / "again", rows=ROWS, random_seed=3, sizes=SIZES, workers=2)
    assert all_bytes(again.root) == all_bytes(small_world.root)


@pytest.mark.slow
def test_a_finished_world_is_kept_and_one_with_other_arguments_replaces_it(tmp_path: Path) -> None:
    paths = generate_world(tmp_path / "world", rows=50, random_seed=1, sizes=SIZES, workers=1)
    paths.seed_file.write_text("touched")
    generate_world(tmp_path / "world", rows=50, random_seed=1, sizes=SIZES, workers=1)
    assert paths.seed_file.read_text() == "touched"
    generate_world(tmp_path / "world", rows=51, random_seed=1, sizes=SIZES, workers=1)
    assert len(paths.seed_file.read_text().splitlines()) == 51
    assert [p.name for p in tmp_path.iterdir()] == ["world"]


@pytest.mark.slow
def test_files_of_a_killed_process_are_removed_and_a_damaged_marker_is_not_a_world(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / f".world.{int(done.stdout)}.partial"
    (left / "seed").mkdir(parents=True)
    marker = generate_world(tmp_path / "world", rows=50, random_seed=1, sizes=SIZES, workers=1).root / MARKER
    whole = marker.read_bytes()
    marker.write_bytes(whole[:9])
    generate_world(tmp_path / "world", rows=50, random_seed=1, sizes=SIZES, workers=1)
    assert marker.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_every_line_of_the_seed_file_has_a_truth_record(small_world: WorldPaths) -> None:
    truth = pq.read_table(small_world.truth).to_pylist()
    lines = small_world.seed_file.read_text().split("\n")[:-1]
    assert [row["line"] for row in truth] == list(range(1, ROWS + 1))
    assert len({row["id"] for row in truth}) == len(lines) == ROWS
    for row, line in zip(truth, lines, strict=True):
        if row["broken"] == "bad_json":
            with pytest.raises(json.JSONDecodeError):
                json.loads(line)
            continue
        record = json.loads(line)
        assert record["id"] == row["id"]
        assert record["text"] == f"<__dj__image>\n{row['caption']} <|__dj__eoc|>"
        if row["broken"] != "path_escape":
            assert record["images"] == [f"images/{row['id'][:5]}/{row['id']}.jpg"]


def test_images_match_the_truth(small_world: WorldPaths) -> None:
    for row in pq.read_table(small_world.truth).to_pylist():
        path = small_world.seed_images / f"images/{row['id'][:5]}/{row['id']}.jpg"
        if row["broken"] == "missing_image":
            assert not path.exists()
            continue
        with Image.open(path) as image:
            turned = row["variant"] == "exif_rotated"
            assert image.size == ((row["height"], row["width"]) if turned else (row["width"], row["height"]))
            assert image.mode == ("L" if row["variant"] == "grey" else "RGB")
            if row["broken"] == "truncated_image":
                with pytest.raises(OSError, match="truncated"):
                    image.load()
            else:
                image.load()


def test_each_kind_of_fault_occurs_and_duplicates_repeat_their_original(small_world: WorldPaths) -> None:
    truth = {row["id"]: row for row in pq.read_table(small_world.truth).to_pylist()}
    assert set(BROKEN_RATES) <= {row["broken"] for row in truth.values()}
    planned = [row for row in plan_rows(2000, 5) if row.duplicate_of]
    assert planned and not any(row.broken for row in planned)
    duplicates = [row for row in truth.values() if row["duplicate_of"]]
    assert duplicates
    for row in duplicates:
        original = truth[row["duplicate_of"]]
        paths = [small_world.seed_images / f"images/{i[:5]}/{i}.jpg" for i in (row["id"], original["id"])]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert row["caption"] == original["caption"]


@pytest.mark.slow
def test_faults_occur_at_their_rates() -> None:
    planned = plan_rows(4000, 11)
    counts = {name: sum(name in row.faults for row in planned) / len(planned) for name in RATES}
    for name, rate in RATES.items():
        # Four standard deviations of a binomial with 4,000 draws.
        assert abs(counts[name] - rate) < 4 * (rate * (1 - rate) / 4000) ** 0.5 + 0.002, (name, counts[name])


def test_a_seed_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 50"):
        plan_rows(49, 0)


def test_questions_of_the_seed_file_are_those_of_the_contest(small_world: WorldPaths) -> None:
    rows = json.loads(small_world.questions.read_text())
    assert len(rows) == ROWS
    asked = {row["conversations"][0]["value"].removeprefix("<image>\n") for row in rows}
    assert asked <= set(QUESTIONS) and len(asked) > 5


@pytest.mark.slow
def test_no_evaluation_scene_is_in_the_training_data(small_world: WorldPaths) -> None:
    seed = {scene_from_json(row["scene"]).content() for row in pq.read_table(small_world.truth).to_pylist()}
    finetune = {scene.content() for _, scene in finetune_rows(300, 1)}
    evaluation = {scene.content() for _, scene, _ in textvqa_rows(300, 2)} | {
        s.content() for _, s in mmbench_rows(300, 3)
    }
    assert not evaluation & seed and not evaluation & finetune and not seed & finetune


def test_textvqa_rows_match_their_annotations(small_world: WorldPaths) -> None:
    questions = [json.loads(line) for line in small_world.split("tune").textvqa_questions.read_text().splitlines()]
    annotated = {
        (a["image_id"], a["question"].lower()): a["answers"]
        for a in json.loads(small_world.split("tune").textvqa_annotations.read_text())["data"]
    }
    assert len(questions) == SIZES.tune.textvqa
    for row in questions:
        text, ocr, suffix = row["text"].split("\n")
        assert ocr.startswith("Reference OCR token: ")
        assert suffix == "Answer the question using a single word or phrase."
        assert len(annotated[row["question_id"], text.lower()]) == 10
        assert (small_world.split("tune").textvqa_images / row["image"]).is_file()


def test_mmbench_rotations_share_their_index_and_move_the_answer(small_world: WorldPaths) -> None:
    groups: dict[int, list[dict[str, str]]] = {}
    with small_world.split("tune").mmbench.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            groups.setdefault(int(row["index"]) % 1_000_000, []).append(row)
    assert len(groups) == SIZES.tune.mmbench
    for rows in groups.values():
        options = [row[letter] for letter in "ABCD" if (row := rows[0])[letter]]
        assert len(rows) == len(options)
        assert len({row[row["answer"]] for row in rows}) == 1
        assert {row["answer"] for row in rows} == set("ABCD"[: len(options)])
        with Image.open(io.BytesIO(base64.b64decode(rows[0]["image"]))) as image:
            assert image.size == (336, 336)


def test_fine_tuning_rows_are_llava_rows_with_existing_images(small_world: WorldPaths) -> None:
    rows = json.loads(small_world.finetune_json.read_text())
    assert len(rows) == SIZES.finetune
    for row in rows:
        human, gpt = row["conversations"]
        assert human["value"].startswith("<image>\n") and gpt["value"]
        assert (small_world.finetune_images / row["image"]).is_file()
