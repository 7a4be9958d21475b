"""Galleries show extreme rows, never render captions as markup and never load images from another server."""

import base64
import io
import re
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from bettersynth_assets.reports.gallery import GALLERY_BYTES, NO_ROOM, SIDE, THUMBNAIL_BYTES, code, gallery, thumbnail


def opener(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def rows(scores: list[float]) -> pa.Table:
    ids = [f"r{index}" for index in range(len(scores))]
    return pa.table(
        {"id": ids, "image": [f"{name}.png" for name in ids], "caption": ids, "clip_score": pa.array(scores)}
    )


def test_a_gallery_shows_the_highest_the_lowest_and_the_rows_nearest_to_the_limit(tmp_path):
    shown = gallery(rows([0.1, 0.9, 0.5, 0.3, 0.2]), image_root=tmp_path, opener=opener, limit=0.31, per_kind=1)
    assert re.findall(r"\*\*(highest|borderline|lowest)\*\* \S+ `(r\d)`", shown) == [
        ("highest", "r1"),
        ("borderline", "r3"),
        ("lowest", "r0"),
    ]


def test_a_recaptioned_row_shows_both_captions(tmp_path):
    recaptioned = rows([0.5]).append_column("original_caption", pa.array(["the seed's"]))
    shown = gallery(recaptioned, image_root=tmp_path, opener=opener)
    assert shown.endswith("`r0`\n\nwas `the seed's`")


def test_a_row_is_shown_only_once_if_there_are_few_rows(tmp_path):
    shown = gallery(rows([0.1, 0.2, 0.3]), image_root=tmp_path, opener=opener, per_kind=2)
    assert [shown.count(f"`r{index}`\n\n`no image") for index in range(3)] == [1, 1, 1]
    assert gallery(rows([]), image_root=tmp_path, opener=opener) == "no rows"


def test_a_thumbnail_is_a_small_jpeg_embedded_in_the_page(tmp_path):
    path = tmp_path / "a.png"
    Image.effect_noise((400, 300), 90).convert("RGB").save(path)
    data = re.fullmatch(r"!\[image\]\(data:image/jpeg;base64,(.+)\)", thumbnail(path, opener)).group(1)
    raw = base64.b64decode(data)
    assert len(raw) <= THUMBNAIL_BYTES
    assert max(Image.open(io.BytesIO(raw)).size) == SIDE


def test_a_missing_image_does_not_stop_the_gallery(tmp_path):
    assert thumbnail(tmp_path / "gone.png", opener) == "`no image: FileNotFoundError`"


def test_a_caption_cannot_leave_its_code_span():
    shown = code("a`b ![x](http://evil/i.png)\n\n<script>www.evil.com</script>\x00")
    assert shown == "`aˋb ![x](http://evil/i.png) <script>www.evil.com</script>`"
    assert shown.count("`") == 2
    assert len(code("x" * 500)) == 122
    assert code("") == "` `"


TAGS = ("p", "code", "strong")
HOSTILE = (
    "![x](http://evil.test/i.png) <img src=http://evil.test/i.png onerror=alert(1)>",
    "<script>alert(1)</script> [click](javascript:alert(1)) `code` ``` fence",
    "a\n\n# heading\n\n- list\n\n| a | b |\n|---|---|\n",
    "https://evil.test/ <a href='https://evil.test'>x</a> &lt;b&gt; \u202egnp.exe\u2028 \x00\x1b[31m",
    "` <img src=x> `` <img src=x> ``` <img src=x>",
    "\\` <iframe src=//evil.test> \\",
)


def test_no_caption_or_id_of_a_gallery_is_read_as_markdown_html_or_a_link(tmp_path):
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    for caption in HOSTILE:
        table = pa.table({"id": [caption], "image": ["a.png"], "caption": [caption], "original_caption": [caption]})
        html = reader.render(gallery(table, image_root=tmp_path, opener=opener))
        assert set(re.findall(r"<(/?[a-zA-Z][a-zA-Z0-9]*)", html)) == {
            f"{end}{tag}" for end in ("", "/") for tag in TAGS
        }
        assert html.count("<code>") == 4


def test_a_gallery_has_a_byte_limit_for_any_images_and_captions(tmp_path):
    count = 9
    for number in range(count):
        Image.effect_noise((90, 90), 255).convert("RGB").save(tmp_path / f"r{number}.png")
    noise = rows([number / 10 for number in range(count)])
    for caption in ("x" * 999, "猫" * 999, "`" * 999):
        captions = pa.array([caption] * count)
        table = noise.set_column(2, "caption", captions).append_column("original_caption", captions)
        for each in (2, 3):
            shown = gallery(table, image_root=tmp_path, opener=opener, per_kind=each)
            images = re.findall(r"data:image/jpeg;base64,([^)]+)\)", shown)
            assert len(shown.encode()) <= GALLERY_BYTES and len(images) + shown.count(NO_ROOM) == 3 * each
            assert NO_ROOM in shown or each == 2
            assert len(images) >= 3 and all(len(base64.b64decode(data)) <= THUMBNAIL_BYTES for data in images)
