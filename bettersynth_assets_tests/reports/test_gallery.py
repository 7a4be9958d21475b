"""Galleries show extreme rows, never run what a caption says and never ask another server for a picture."""

import base64
import io
import re
from pathlib import Path

import pyarrow as pa
from PIL import Image

from bettersynth_assets.reports.gallery import SIDE, THUMBNAIL_BYTES, code, gallery, thumbnail


def opener(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def rows(scores: list[float]) -> pa.Table:
    ids = [f"r{index}" for index in range(len(scores))]
    return pa.table(
        {"id": ids, "image": [f"{name}.png" for name in ids], "caption": ids, "clip_score": pa.array(scores)}
    )


def test_gallery_picks_highest_lowest_and_nearest_to_the_limit(tmp_path):
    shown = gallery(rows([0.1, 0.9, 0.5, 0.3, 0.2]), image_root=tmp_path, opener=opener, limit=0.31, each=1)
    assert re.findall(r"\*\*(highest|borderline|lowest)\*\* \S+ `(r\d)`", shown) == [
        ("highest", "r1"),
        ("borderline", "r3"),
        ("lowest", "r0"),
    ]


def test_a_recaptioned_row_shows_both_captions(tmp_path):
    recaptioned = rows([0.5]).append_column("original_caption", pa.array(["the seed's"]))
    shown = gallery(recaptioned, image_root=tmp_path, opener=opener)
    assert shown.endswith("`r0`\n\nwas `the seed's`")


def test_a_row_is_shown_once_where_there_are_few(tmp_path):
    shown = gallery(rows([0.1, 0.2, 0.3]), image_root=tmp_path, opener=opener, each=2)
    assert [shown.count(f"`r{index}`\n\n`no picture") for index in range(3)] == [1, 1, 1]
    assert gallery(rows([]), image_root=tmp_path, opener=opener) == "no rows"


def test_thumbnail_is_a_small_jpeg_inside_the_page(tmp_path):
    path = tmp_path / "a.png"
    Image.effect_noise((400, 300), 90).convert("RGB").save(path)
    data = re.fullmatch(r"!\[picture\]\(data:image/jpeg;base64,(.+)\)", thumbnail(path, opener)).group(1)
    raw = base64.b64decode(data)
    assert len(raw) <= THUMBNAIL_BYTES
    assert max(Image.open(io.BytesIO(raw)).size) == SIDE


def test_a_missing_picture_does_not_stop_the_gallery(tmp_path):
    assert thumbnail(tmp_path / "gone.png", opener) == "`no picture: FileNotFoundError`"


def test_a_caption_cannot_leave_its_code_span():
    shown = code("a`b ![x](http://evil/i.png)\n\n<script>www.evil.com</script>\x00")
    assert shown == "`aˋb ![x](http://evil/i.png) <script>www.evil.com</script>`"
    assert shown.count("`") == 2
    assert len(code("x" * 500)) == 122
    assert code("") == "` `"
