"""Pixels and headers of good, odd and broken image files."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from bettersynth_assets.config.profile import Limits
from bettersynth_assets.images import headers
from bettersynth_assets.images.headers import read_header
from bettersynth_assets.images.opening import ImageError, check_unchanged, content_hash, open_rgb
from bettersynth_assets.images.reading import plain_size
from bettersynth_assets.images.structure import inspect_file
from bettersynth_assets_tests.helpers.seeds import encoded, picture
from toolkit.file_errors import EnvironmentFault
from toolkit.image_decoding import strict_decoding
from toolkit.images.reading import read_image

LIMITS = Limits()
SIDEWAYS_EXIF = Image.Exif()
SIDEWAYS_EXIF[0x0112] = 6


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(chunk: bytes, *, before: bytes = b"IDAT") -> bytes:
    data = encoded(picture(), "PNG")
    place = data.index(before) - 4
    return data[:place] + chunk + data[place:]


def png_of_size(width: int, height: int) -> bytes:
    data = encoded(picture(), "PNG")
    return data[:8] + png_chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[33:]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(data: bytes) -> Path:
        path = tmp_path / "image"
        path.write_bytes(data)
        return path

    return write


BOMB = zlib.compress(b"A" * 5_000_000)
REFUSED = {
    "truncated jpeg": (encoded(picture())[:600], "decode_error"),
    "truncated png": (encoded(picture(), "PNG")[:600], "decode_error"),
    "truncated webp": (encoded(picture(), "WEBP")[:300], "decode_error"),
    "empty file": (b"", "decode_error"),
    "web page named jpg": (b"<html>not found</html>", "decode_error"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "decode_error"),
    "floating point tiff": (encoded(Image.new("F", (9, 9)), "TIFF"), "decode_error"),
    "pixel bomb": (png_of_size(50_000, 50_000), "too_many_pixels"),
    "pixels over the limit alone": (png_of_size(10_000, 10_000), "too_many_pixels"),
    "1x1": (encoded(picture(1, 1), "PNG"), "too_small"),
    "1xN": (encoded(picture(1, 300), "PNG"), "too_small"),
    "compressed text bomb": (png_with(png_chunk(b"zTXt", b"k\0\0" + BOMB)), "metadata_bomb"),
    "text bomb behind the pixels": (png_with(png_chunk(b"zTXt", b"k\0\0" + BOMB), before=b"IEND"), "metadata_bomb"),
    "colour profile bomb": (png_with(png_chunk(b"iCCP", b"k\0\0" + BOMB)), "metadata_bomb"),
    "plain text over the limit": (png_with(png_chunk(b"tEXt", b"k\0" + b"A" * 2_000_000)), "metadata_bomb"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_refused_with_its_reason(name: str, file: Any) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ImageError) as error:
        read_header(file(data), LIMITS)
    assert error.value.reason == reason
    assert error.value.detail


@pytest.mark.parametrize("name", ["truncated jpeg", "truncated png", "empty file", "compressed text bomb"])
def test_decoding_stays_strict_after_another_library_made_pillow_lenient(
    name: str, file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data, reason = REFUSED[name]
    path = file(data)
    for read in (open_rgb, lambda path: read_header(path, LIMITS)):
        with pytest.raises(ImageError) as error:
            read(path)
        assert error.value.reason == reason
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.slow
def test_a_limit_above_pillows_default_works_and_does_not_change_pillows_setting(file: Any) -> None:
    before = (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)
    many = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    assert read_header(file(many), Limits(max_pixels=200_000_000)).width == 20_000
    with pytest.raises(ImageError, match="too_many_pixels"):
        read_header(file(many), LIMITS)
    text = PngInfo()
    text.add_text("comment", "x" * 1_500_000, zip=True)
    long = file(encoded(picture(), "PNG", pnginfo=text))
    assert read_header(long, Limits(max_metadata_bytes=2_000_000)).width == 40
    for limits in (LIMITS, Limits(max_metadata_bytes=1_400_000)):
        with pytest.raises(ImageError, match="metadata_bomb"):
            read_header(long, limits)
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_an_image_within_the_pipelines_limits_can_be_opened_everywhere_later(
    file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1000)
    text = PngInfo()
    text.add_text("comment", "x" * 1500, zip=True)
    path = file(encoded(picture(40, 30), "PNG", pnginfo=text))
    fresh = type(strict_decoding)()
    monkeypatch.setattr("bettersynth_assets.images.opening.strict_decoding", fresh)
    monkeypatch.setattr("toolkit.images.reading.strict_decoding", fresh)
    with pytest.raises(ImageError, match="metadata_bomb"):
        open_rgb(path)
    fresh.raise_ceilings(pixels=1200, metadata_bytes=1500)
    assert open_rgb(path).size == read_image(path, sample_id="a").size == (40, 30)
    assert (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK) == (100, 1000)
    for name, value in fresh.environment().items():
        monkeypatch.setenv(name, value)
    child = type(strict_decoding)()
    with child:
        assert (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK) == (1200, 1500)


def test_a_missing_file_is_the_rows_fault_at_ingest_and_the_environments_later(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="missing_image"):
        read_header(tmp_path / "none.jpg", LIMITS)
    with pytest.raises(
        EnvironmentFault, match=r"none\.jpg was read before and no longer exists: restore it and run again"
    ):
        open_rgb(tmp_path / "none.jpg")
    with pytest.raises(EnvironmentFault, match=f"folder {tmp_path}/images does not exist"):
        open_rgb(tmp_path / "images/00/none.jpg")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux only: a file whose reading ends in EIO")
def test_a_disk_error_is_not_reported_as_a_broken_image(file: Any) -> None:
    path = file(encoded(picture()))
    path.unlink()
    path.symlink_to("/proc/self/mem")
    with pytest.raises(EnvironmentFault, match=r"Input/output error \(EIO\)"):
        open_rgb(path)


def test_a_file_that_changed_since_ingest_is_not_blamed_on_the_row(file: Any) -> None:
    path = file(encoded(picture(), "PNG"))
    seen = read_header(path, LIMITS).image_hash
    check_unchanged(path, seen)
    path.write_bytes(b"damaged")
    with pytest.raises(EnvironmentFault, match="has changed since its row was read: run again"):
        check_unchanged(path, seen)


def test_hashes_of_large_and_small_files_are_those_of_their_bytes(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (encoded(picture()), encoded(picture(), "PNG")):
        whole = read_header(file(data), LIMITS)
        assert whole.image_hash == content_hash(data) and len(whole.image_hash) == 32
        with monkeypatch.context() as changed:
            changed.setattr(headers, "READ_AT_ONCE", 100)
            assert read_header(file(data), LIMITS) == whole


def test_bytes_after_the_end_of_a_complete_jpeg_are_ignored(file: Any) -> None:
    path = file(encoded(picture()) + b"\0\0trailer")
    assert read_header(path, LIMITS).width == 40
    assert open_rgb(path).size == (40, 30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_applied_once_and_sizes_are_recorded_after_rotation(kind: str, file: Any) -> None:
    path = file(encoded(picture(), kind, exif=SIDEWAYS_EXIF, **({"lossless": True} if kind == "WEBP" else {})))
    header, pixels = read_header(path, LIMITS), open_rgb(path)
    assert (header.width, header.height, header.flags) == (30, 40, ("exif_rotated",))
    assert pixels.size == (30, 40)
    with Image.open(path) as stored:
        expected = stored.convert("RGB").transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(pixels), np.asarray(expected))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage!!!!", SIDEWAYS_EXIF.tobytes()[:20], b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_broken_exif_is_flagged_and_the_pixels_are_decoded(exif: bytes, file: Any) -> None:
    path = file(encoded(picture(), exif=exif))
    assert "broken_exif" in read_header(path, LIMITS).flags
    assert np.array_equal(np.asarray(open_rgb(path)), np.asarray(Image.open(path)))


def test_rotation_given_only_in_xmp_is_found(file: Any) -> None:
    path = file(encoded(picture(), xmp=b'<x tiff:Orientation="6" \xff\xfe'))
    assert (read_header(path, LIMITS).width, open_rgb(path).width) == (30, 30)


SOLID = (200, 100, 50)
MODES = {
    "L": (encoded(Image.new("L", (9, 8), 77), "PNG"), "L", (77, 77, 77)),
    "1": (encoded(Image.new("1", (9, 8), 1), "PNG"), "1", (255, 255, 255)),
    "P": (encoded(Image.new("RGB", (9, 8), SOLID).quantize(4), "PNG"), "P", SOLID),
    "opaque RGBA": (encoded(Image.new("RGBA", (9, 8), (*SOLID, 255)), "PNG"), "RGBA", SOLID),
    "clear RGBA on white": (encoded(Image.new("RGBA", (9, 8), (*SOLID, 0)), "PNG"), "RGBA", (255, 255, 255)),
    "half RGBA on white": (encoded(Image.new("RGBA", (9, 8), (0, 0, 0, 128)), "PNG"), "RGBA", (127, 127, 127)),
    "clear LA on white": (encoded(Image.new("LA", (9, 8), (9, 0)), "PNG"), "LA", (255, 255, 255)),
    "P with a clear colour": (
        encoded(Image.new("P", (9, 8), 0), "PNG", transparency=0), "P", (255, 255, 255),
    ),
    "16 bit white": (encoded(Image.fromarray(np.full((8, 9), 65535, np.uint16)), "PNG"), "I;16", (255, 255, 255)),
    "16 bit middle": (encoded(Image.fromarray(np.full((8, 9), 257 * 99, np.uint16)), "PNG"), "I;16", (99, 99, 99)),
    "CMYK": (encoded(Image.new("CMYK", (9, 8), (0, 0, 0, 255)), "TIFF"), "CMYK", (0, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb_by_the_documented_rule_and_is_recorded(name: str, file: Any) -> None:
    data, mode, colour = MODES[name]
    path = file(data)
    assert read_header(path, LIMITS).mode == mode
    image = open_rgb(path)
    assert image.mode == "RGB"
    assert image.getcolors() == [(72, colour)]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_used(kind: str, file: Any) -> None:
    frames = [Image.new("RGB", (9, 8), (255, 255, 255)), Image.new("RGB", (9, 8), (0, 0, 0))]
    path = file(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert read_header(path, LIMITS).flags == ("animated",)
    assert np.asarray(open_rgb(path)).min() > 250


PLAIN: dict[str, dict[str, Any]] = {
    "colour": {"image": picture(41, 31)},
    "grey": {"image": picture(41, 31).convert("L")},
    "progressive": {"image": picture(41, 31), "progressive": True},
    "restart intervals": {"image": picture(41, 31), "restart_marker_rows": 1},
    "full colour resolution": {"image": picture(41, 31), "subsampling": 0, "quality": 100},
}


@pytest.mark.parametrize("name", PLAIN)
def test_the_header_of_a_plain_jpeg_is_read_as_by_pillow(name: str, file: Any) -> None:
    path = file(encoded(**PLAIN[name]))
    with path.open("rb") as opened:
        assert inspect_file(opened, path.stat().st_size).plain is not None
    header = read_header(path, LIMITS)
    with Image.open(path) as image:
        assert (header.width, header.height, header.mode, header.format) == (*image.size, image.mode, image.format)


def test_fill_bytes_before_a_marker_do_not_change_the_header(file: Any) -> None:
    data = encoded(picture(41, 31))
    at = data.index(b"\xff\xc0")
    path = file(data[:at] + b"\xff\xff" + data[at:])
    with path.open("rb") as opened, Image.open(path) as image:
        assert inspect_file(opened, path.stat().st_size).plain == (41, 31, "RGB") == (*image.size, image.mode)
    assert plain_size(path.read_bytes()) == (41, 31)


@pytest.mark.parametrize("options", [{"exif": SIDEWAYS_EXIF}, {"icc_profile": b"x" * 99}, {"comment": b"hello"}])
def test_a_jpeg_with_any_metadata_is_left_to_pillow(options: dict[str, Any], file: Any) -> None:
    path = file(encoded(picture(), **options))
    with path.open("rb") as opened:
        assert inspect_file(opened, path.stat().st_size).plain is None


def test_limits_also_apply_to_plain_jpegs(file: Any) -> None:
    path = file(encoded(picture(40, 30)))
    for limits, reason in ((Limits(max_pixels=1199), "too_many_pixels"), (Limits(min_side=31), "too_small")):
        with pytest.raises(ImageError) as error:
            read_header(path, limits)
        assert error.value.reason == reason


def test_an_image_error_can_be_sent_back_from_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(ImageError("too_small", "1x1")))
    assert (error.reason, error.detail) == ("too_small", "1x1")
