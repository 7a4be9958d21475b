"""Training data of the weights. In: folder, counts, random seed. Out: memory-mapped arrays, drawn on all cores.

::

    square.npy    (N, 192, 192, 3) uint8   centre square, as after CLIP's preprocessing
    squashed.npy  (N, 112, 112, 3) uint8   whole image resized to a square, as after BLIP's preprocessing
    watermark.npy (N,) bool
    full.npy      (N, 48) int16            ids of the rich caption in fixed order, padded with 0
    rich.npy      (N, 2, 48) int16         ids of rich captions in any order
    poor.npy      (N, 2, 48) int16         ids of poor captions
    slots.npy     (M, 36, 6) int16         contexts of the language model's texts, see ``language.py``
    after.npy     (M, 112) int16           ids from the image to the end of the answer, padded with 0
    answer.npy    (M,) int16               offset of the answer in ``after``
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bettersynth_assets.miniature.captions import poor_caption, rich_caption
from bettersynth_assets.miniature.language import BAG, SLOTS, after_image, draw_lesson, full_answer
from bettersynth_assets.miniature.render import render
from bettersynth_assets.miniature.tokenizer import BLANK, base_tokenizer
from bettersynth_assets.miniature.world import make_scene

SQUARE, SQUASHED, CAPTION, AFTER = 192, 112, 48, 112
WATERMARK_SHARE = 0.3
_CHUNK = 500

_IMAGE_ARRAYS: dict[str, tuple[tuple[int, ...], type]] = {
    "square": ((SQUARE, SQUARE, 3), np.uint8), "squashed": ((SQUASHED, SQUASHED, 3), np.uint8),
    "watermark": ((), np.bool_), "full": ((CAPTION,), np.int16), "rich": ((2, CAPTION), np.int16),
    "poor": ((2, CAPTION), np.int16),
}  # fmt: skip
_LESSON_ARRAYS: dict[str, tuple[tuple[int, ...], type]] = {
    "slots": ((SLOTS, BAG), np.int16), "after": ((AFTER,), np.int16), "answer": ((), np.int16),
}  # fmt: skip


def make_bank(folder: Path, *, images: int, lessons: int, random_seed: int) -> None:
    """Write all arrays; return at once if they exist.

    Args:
        folder: target folder on a fast disk (400 MB per 10,000 images).
        images: N. lessons: M. seed: random seed of all arrays.
    """
    marker = folder / f"done-{images}-{lessons}-{random_seed}"
    if marker.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    _fill(folder, _IMAGE_ARRAYS, images, random_seed, _draw_images)
    _fill(folder, _LESSON_ARRAYS, lessons, random_seed + 1, _draw_lessons)
    marker.touch()


def load(folder: Path, name: str, device: str) -> Tensor:
    """Load one array to ``device`` in chunks; int16 ids become int64."""
    array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    dtype = torch.int64 if array.dtype == np.int16 else torch.from_numpy(np.zeros(1, array.dtype)).dtype
    target = torch.empty(array.shape, dtype=dtype, device=device)
    for start in range(0, len(array), 4096):
        target[start : start + 4096] = torch.from_numpy(np.array(array[start : start + 4096])).to(device)
    return target


Worker = Callable[[tuple[Path, int, int, int]], None]


def _fill(
    folder: Path, arrays: dict[str, tuple[tuple[int, ...], type]], count: int, random_seed: int, worker: Worker
) -> None:
    for name, (shape, dtype) in arrays.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *shape)).flush()
    tasks = [(folder, start, min(start + _CHUNK, count), random_seed) for start in range(0, count, _CHUNK)]
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.imap_unordered(worker, tasks):
            pass


def _open(folder: Path, names: dict[str, tuple[tuple[int, ...], type]]) -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r+", allow_pickle=False) for name in names}


def _draw_images(task: tuple[Path, int, int, int]) -> None:
    folder, start, end, random_seed = task
    arrays = _open(folder, _IMAGE_ARRAYS)
    encode = base_tokenizer().encode
    for row in range(start, end):
        rng = random.Random(random_seed * 1_000_003 + row)
        scene, watermark = make_scene(rng, "weights"), rng.random() < WATERMARK_SHARE
        long = 336 if rng.random() < 0.5 else rng.randint(337, 504)
        width, height = (336, long) if rng.random() < 0.4 else (long, 336)
        image = render(scene, width=width, height=height, watermark=watermark)
        left, top = (width - 336) // 2, (height - 336) // 2
        square = image.crop((left, top, left + 336, top + 336)).resize((SQUARE, SQUARE), Image.Resampling.BICUBIC)
        arrays["square"][row] = np.asarray(square)
        arrays["squashed"][row] = np.asarray(image.resize((SQUASHED, SQUASHED), Image.Resampling.BICUBIC))
        arrays["watermark"][row] = watermark
        _write_padded(arrays["full"][row], encode(rich_caption(scene)).ids)
        for k in range(2):
            _write_padded(arrays["rich"][row, k], encode(rich_caption(scene, rng)).ids)
            _write_padded(arrays["poor"][row, k], encode(poor_caption(scene, rng)).ids)


def _write_padded(target: np.ndarray, ids: list[int]) -> None:
    target[:] = 0
    target[: len(ids)] = ids


def _draw_lessons(task: tuple[Path, int, int, int]) -> None:
    folder, start, end, random_seed = task
    arrays = _open(folder, _LESSON_ARRAYS)
    encode, blank = base_tokenizer().encode, base_tokenizer().token_to_id(BLANK)
    assert blank is not None
    for row in range(start, end):
        rng = random.Random(random_seed * 1_000_003 + row)
        lesson = draw_lesson(rng)
        if lesson.slots is None:
            caption = encode(f" {lesson.caption}").ids
            offset = rng.randint(0, SLOTS - len(caption))
            bags = [[blank]] * offset + [[token] for token in caption]
            bags += [[blank]] * (SLOTS - len(bags))
        else:
            bags = [[encode(word).ids[0] for word in words] or [blank] for words in lesson.slots]
        for slot, bag in enumerate(bags):
            _write_padded(arrays["slots"][row, slot], bag)
        prompt, answer = encode(after_image(lesson.prompt)).ids, encode(full_answer(lesson.answer)).ids
        _write_padded(arrays["after"][row], prompt + answer)
        arrays["answer"][row] = len(prompt)
