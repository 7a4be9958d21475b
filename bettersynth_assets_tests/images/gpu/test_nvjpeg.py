from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from bettersynth_assets.images.decoding import prefetched
from bettersynth_assets.images.gpu.device_resizing import BITS, resized, taps
from bettersynth_assets.images.gpu.nvjpeg_library import in_one_tensor
from bettersynth_assets.images.opening import ImageError
from bettersynth_assets.images.pixels import middle_square, stretched
from bettersynth_assets.images.reading import _readers, plain_size, read_plain
from bettersynth_assets.models.image_chunks import chunks

KINDS = [
    middle_square(32, Image.Resampling.BICUBIC),
    middle_square(33, Image.Resampling.BICUBIC, lambda spare: round(spare / 2)),
    stretched(47, 35, Image.Resampling.BILINEAR),
    stretched(40, 40, Image.Resampling.LANCZOS),
]


def picture(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


needs_gpu = pytest.mark.gpu


def one_pass(pixels, edge, to, first, count, resample):
    """Apply one pass of the kernel: (rows, edge) bytes to (rows, count)."""
    found = taps(edge, to, first, count, resample)
    padded = np.pad(pixels.astype(np.int64), ((0, 0), (0, len(found.weights))))
    places = found.first[:, None] + np.arange(len(found.weights))
    return ((padded[:, places] * found.weights.T).sum(-1) + (1 << BITS - 1) >> BITS).clip(0, 255)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(70, 50), (61, 73), (32, 32), (20, 19), (301, 164)])
def test_resize_weights_and_their_rounding_equal_pillows(kind, size):
    grey = picture(*size).convert("L")
    frame = kind.frame(*size)

    def across(pixels):
        return one_pass(pixels, size[0], frame.width, frame.left, kind.width, kind.resample)

    def down(pixels):
        return one_pass(pixels.T, size[1], frame.height, frame.top, kind.height, kind.resample).T

    pixels, expected = np.asarray(grey), kind(grey.convert("RGB")).numpy()[..., 0]
    both = [down(across(pixels)), across(down(pixels))]  # Pillow 13 takes one or the other, by the image's shape
    assert min((found != expected).mean() for found in both) < 2e-3
    assert np.abs(both[0].astype(int) - expected).max() <= 1


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpu_resizes_like_pillow(kind):
    sizes = [(70, 50), (61, 73), (32, 32), (20, 19), (301, 64), (1024, 999)]
    images = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    expected = torch.stack([kind(image) for image in images])
    room = in_one_tensor(*np.array(sizes).T, "cuda:0")
    for image, start in zip(images, room.starts, strict=True):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).flatten()
        room.memory[start : start + len(pixels)] = pixels.cuda()
    found = resized(room, kind)
    apart = (found.cpu().int() - expected.int()).abs()
    assert found.shape == expected.shape and found.dtype == torch.uint8
    assert apart.max() <= 1 and (apart > 0).float().mean() < 0.05


def test_only_plain_complete_jpegs_are_decoded_on_the_gpu(tmp_path):
    image = picture(80, 60)
    assert plain_size(jpeg(image)) == (80, 60)
    assert plain_size(jpeg(image.convert("L"))) == (80, 60)
    assert [plain_size(jpeg(image, subsampling=kind)) for kind in (0, 1, 2)] == [(80, 60)] * 3
    turned = Image.Exif()
    turned[274] = 6
    png = io.BytesIO()
    image.save(png, "PNG")
    others = {
        "progressive": jpeg(image, progressive=True),
        "rotated": jpeg(image, exif=turned),
        "cmyk": jpeg(image.convert("CMYK")),
        "rgb": jpeg(image, keep_rgb=True),
        "truncated": jpeg(image)[:-40],
        "too large": jpeg(picture(1025, 8)),
        "png": png.getvalue(),
        "empty": b"",
        "no frame": jpeg(image)[:20] + b"\xff\xd9",
    }
    assert {name for name, data in others.items() if plain_size(data) is not None} == set()


def test_reader_processes_read_plain_files_and_skip_others(tmp_path):
    data = [jpeg(picture(50 + at, 40)) for at in range(3)]
    for at, content in enumerate(data):
        (tmp_path / f"{at}.jpg").write_bytes(content)
    (tmp_path / "1.jpg").write_bytes(data[1][:-90])
    names = [str(tmp_path / f"{at}.jpg") for at in range(4)]
    parts = [names, names[2:], *([names[:1]] * 30)]  # more parts than slots
    for part, (slot, places) in zip(parts, read_plain(parts), strict=True):
        found = [bytes(slot[place.begin : place.end].numpy()) if place else None for place in places]
        contents = dict(zip(names, [data[0], None, data[2], None], strict=True))
        assert found == [contents[name] for name in part]
        sizes = [(place.width, place.height) for place in places if place]
        assert sizes == [(50 + names.index(name), 40) for name in part if contents[name]]


def test_files_of_an_abandoned_pass_do_not_appear_in_the_next_one(tmp_path):
    for at in range(40):
        (tmp_path / f"{at}.jpg").write_bytes(jpeg(picture(40 + at, 30, seed=at)))
    names = [str(tmp_path / f"{at}.jpg") for at in range(40)]
    passes = read_plain([[name] * 40 for name in names])
    next(passes)
    passes.close()
    for name, (slot, (place,)) in zip(names[::-1], read_plain([[name] for name in names[::-1]]), strict=True):
        assert place is not None
        assert bytes(slot[place.begin : place.end].numpy()) == (tmp_path / name).read_bytes()


def test_killed_readers_are_replaced_and_their_part_is_read_again(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(picture(40, 30)))
    parts = [[str(tmp_path / "0.jpg")]] * 3
    assert len(list(read_plain(parts))) == 3
    for process in list(_readers()[0]._processes.values()):
        process.kill()
        process.join()
    assert [place.width for _, (place,) in read_plain(parts)] == [40, 40, 40]


def test_prefetching_keeps_the_order_and_propagates_errors():
    def numbers():
        yield from range(5)
        raise KeyError("end")

    seen = []
    with pytest.raises(KeyError, match="end"):
        seen.extend(prefetched(numbers()))
    assert seen == [0, 1, 2, 3, 4]
    assert list(prefetched(range(7))) == list(range(7)) and list(prefetched([])) == []


@needs_gpu
def test_the_gpu_decodes_what_pillow_decodes_and_refuses_what_pillow_refuses(tmp_path):
    for number in range(40):
        image = picture(60 + 3 * number, 200 - 2 * number, seed=number)
        data = jpeg(image.convert("L") if number % 7 == 0 else image, progressive=number % 5 == 0)
        (tmp_path / f"{number}.jpg").write_bytes(data)
    (tmp_path / "3.jpg").write_bytes(jpeg(picture(90, 90))[:-200])
    (tmp_path / "11.jpg").write_bytes(b"")
    picture(99, 77).save(tmp_path / "12.jpg", "PNG")
    paths = [tmp_path / f"{number}.jpg" for number in range(40)]
    by_pillow = list(chunks(paths, 16, KINDS))
    by_gpu = list(chunks(paths, 16, KINDS, decode="nvjpeg", device="cuda:0"))
    assert [chunk.good for chunk in by_gpu] == [chunk.good for chunk in by_pillow]
    reasons = [{at: error.reason for at, error in chunk.errors.items()} for chunk in by_gpu]
    assert reasons == [{3: "decode_error", 11: "decode_error"}, {}, {}]
    assert all(isinstance(error, ImageError) for chunk in by_gpu for error in chunk.errors.values())
    for ours, theirs in zip(by_gpu, by_pillow, strict=True):
        for found, expected in zip(ours.inputs, theirs.inputs, strict=True):
            assert found.is_cuda and found.shape == expected.shape
            assert (found.cpu().float() - expected.float()).abs().mean() < 2.0


def without_tables(data):
    """A whole JPEG file without its quantisation tables: Pillow refuses it, nvJPEG decodes it to other pixels."""
    start = data.index(b"\xff\xdb")
    while data[start : start + 2] == b"\xff\xdb":
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]
    return data


def jpegs_with_a_bad_one(folder):
    for at in range(12):
        data = jpeg(picture(70 + at, 60, seed=at))
        (folder / f"{at:02d}.jpg").write_bytes(without_tables(data) if at == 5 else data)
    return sorted(folder.glob("*.jpg"))


def test_a_jpeg_without_tables_is_left_to_pillow_and_fails_alone(tmp_path):
    paths = jpegs_with_a_bad_one(tmp_path)
    assert [at for at, path in enumerate(paths) if plain_size(path.read_bytes()) is None] == [5]
    (chunk,) = chunks(paths, 16, KINDS[:1])
    assert {at: error.reason for at, error in chunk.errors.items()} == {5: "decode_error"}


@needs_gpu
def test_one_bad_jpeg_in_a_gpu_batch_fails_alone(tmp_path):
    paths = jpegs_with_a_bad_one(tmp_path)
    (chunk,) = chunks(paths, 16, KINDS, decode="nvjpeg", device="cuda:0")
    assert {at: error.reason for at, error in chunk.errors.items()} == {5: "decode_error"}
    assert chunk.good == [at for at in range(12) if at != 5]
    (alone,) = chunks([path for at, path in enumerate(paths) if at != 5], 16, KINDS, decode="nvjpeg", device="cuda:0")
    for found, expected in zip(chunk.inputs, alone.inputs, strict=True):
        assert torch.equal(found, expected), "neighbours are the same as without the bad file"
