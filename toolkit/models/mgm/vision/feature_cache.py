"""Features of the frozen towers on disk, so that epochs, arms and seeds share one pass over the images.

In: images by path or as bytes. Out: :class:`TowerFeatures`, one small file per image (float16), under
``<root>/<hash of towers and preprocessing>/<two letters>/<hash of path, size and times, or of the bytes>.npy``.

A changed image, tower or preprocessing gives another name, so an entry is never stale. A checksum follows the array:
``fill`` computes a damaged entry again, and ``load`` refuses one. Features are stored as
float16: a run with the cache differs from one without by that rounding, and equals every other run with it.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from toolkit.file_errors import patiently
from toolkit.files import json_sha256, write_atomically
from toolkit.images.aspect import Aspect
from toolkit.images.reading import read_image
from toolkit.models.mgm.common.names import TOWERS
from toolkit.models.mgm.vision.towers import TowerFeatures

if TYPE_CHECKING:
    from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
    from toolkit.models.mgm.processing_mgm import MGMProcessor

CHECKSUM_BYTES = 16
CPU_BATCH = 8
"""Images per batch on the CPU, always: rounding depends on the size of the matrices. With one size, the features of an
image do not depend on which other images were missing, so a later training from these files gives the same weights."""
T = TypeVar("T")
ImageSource = Path | bytes


class FeatureError(ValueError):
    """Features that cannot be stored; names the sample."""


def feature_shapes(model: MGMGemmaForCausalLM) -> list[tuple[int, ...]]:
    """Shapes of one image's five tensors: low (N, d), then four maps (c_s, g/2^s, g/2^s)."""
    config = model.config
    grid = config.image_size_aux // 4
    maps = [(c, grid >> s, grid >> s) for s, c in enumerate(config.vision_aux_config["dims"])]
    return [(config.image_tokens, config.mm_hidden_size), *maps]


def tower_hash(model: MGMGemmaForCausalLM, processor: MGMProcessor, aspect: Aspect) -> str:
    """Return a digest of everything except the image that features depend on."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if name.startswith(TOWERS):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    settings = [processor.image_processor.to_dict(), aspect, model.config.mm_vision_select_layer]
    settings += [model.config.image_size, model.config.image_size_aux]
    if fixed := _fixed_batch(model):
        settings.append(fixed)
    digest.update(json_sha256(settings).encode())
    return digest.hexdigest()[:16]


class FeatureCache:
    """One model's features of many images.

    Args:
        root: folder; created if missing; concurrent runs may share it.
        model: its towers must be frozen and in evaluation mode while the cache is used.
        processor: preprocessing of the same model.
        aspect: ``square`` or ``pad``.
    """

    def __init__(self, root: Path, model: MGMGemmaForCausalLM, processor: MGMProcessor, aspect: Aspect) -> None:
        if model.config.aux_drop_path != "off":
            raise FeatureError("aux_drop_path makes features random; set it to 'off' or cache_dir to null")
        self.model, self.processor, self.aspect = model, processor, aspect
        self.folder = root / tower_hash(model, processor, aspect)
        self.shapes = feature_shapes(model)
        self._bytes = len(_encoded(np.zeros(sum(map(prod, self.shapes)), dtype=np.float16)))
        self._paths: dict[ImageSource, Path] = {}

    def path_of(self, image: ImageSource) -> Path:
        """File of one image's features."""
        known = self._paths.get(image)
        if known is None:
            name = _name_of(image)
            known = self._paths[image] = self.folder / name[:2] / f"{name}.npy"
        return known

    def fill(self, wanted: Mapping[ImageSource, str], *, batch: int = 32, rank: int = 0, world: int = 1) -> int:
        """Compute missing features; each of ``world`` processes computes its share.

        Args:
            wanted: by image, the id of a sample that errors name.

        Returns:
            Number of images computed.
        """
        missing = [(image, id_) for image, id_ in wanted.items() if not self._is_whole(image)][rank::world]
        chunks = list(_chunks(missing, batch))
        # Other runs may compute the same images: each uses a random order and skips features that exist.
        random.Random(os.getpid()).shuffle(chunks)
        computed = 0
        with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
            for chunk in chunks:
                chunk = [item for item in chunk if not self._is_whole(item[0])]
                if not chunk:
                    continue
                computed += len(chunk)
                squares = torch.cat(list(pool.map(self._square, chunk)))
                step = _fixed_batch(self.model) or batch
                for at in range(0, len(chunk), step):
                    self._store(chunk[at : at + step], self._encode(squares[at : at + step]))
        return computed

    def _is_whole(self, image: ImageSource) -> bool:
        """Return whether features exist with the right size and checksum."""
        path = self.path_of(image)
        try:
            if path.stat().st_size != self._bytes:
                return False
            self._read(path)
        except (FileNotFoundError, FeatureError):
            return False
        return True

    def _square(self, item: tuple[ImageSource, str]) -> Tensor:
        image, sample_id = item
        return self.processor.squares([read_image(image, sample_id=sample_id)], aspect=self.aspect)

    def _encode(self, squares: Tensor) -> TowerFeatures:
        """Compute the features of images (I, S, S, 3); on the CPU always in a batch of one size."""
        count = len(squares)
        if absent := max(0, _fixed_batch(self.model) - count):
            squares = torch.cat([squares, squares.new_zeros(absent, *squares.shape[1:])])
        pixels = self.processor.normalise(squares.to(self.model.device))
        low, maps = self.model.encode_images(*(part.to(self.model.dtype) for part in pixels))
        return TowerFeatures(low[:count], tuple(part[:count] for part in maps))

    def _store(self, chunk: Sequence[tuple[ImageSource, str]], features: TowerFeatures) -> None:
        parts = [part.flatten(1).to("cpu", torch.float16) for part in (features.low, *features.maps)]
        for row, (image, sample_id) in zip(torch.cat(parts, dim=1).numpy(), chunk, strict=True):
            if not np.isfinite(row).all():
                raise FeatureError(f"sample {sample_id!r}: the tower features of its image do not fit float16")
            write_atomically(self.path_of(image), _encoded(row), durable=False)

    def load(self, images: Sequence[ImageSource]) -> TowerFeatures:
        """Features (float32, on the CPU) of images, in order; zeros for one image when there is none.

        Raises:
            FeatureError: a file that is damaged or holds anything but numbers; names it.
        """
        rows = [self._read(self.path_of(image)) for image in images]
        joined = torch.from_numpy(np.stack(rows)).float() if rows else torch.zeros(1, sum(map(prod, self.shapes)))
        parts = joined.split([prod(shape) for shape in self.shapes], dim=1)
        low, *maps = [part.reshape(len(joined), *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return TowerFeatures(low, tuple(maps))

    def inputs(self, images: Sequence[ImageSource]) -> list[Tensor]:
        """Return the model's inputs for images: low and four maps, in one list."""
        # A plain list: trainers rebuild containers in a way that named tuples do not allow.
        features = self.load(images)
        return [features.low, *features.maps]

    def _read(self, path: Path) -> NDArray[np.float16]:
        try:
            row = np.load(io.BytesIO(_checked(patiently(path.read_bytes, path))), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise FeatureError(f"{path}: cannot be read as features ({error}); remove it and run again") from error
        if row.dtype != np.float16 or row.shape != (sum(map(prod, self.shapes)),):
            raise FeatureError(f"{path}: holds {row.dtype} {row.shape} in place of features; remove it and run again")
        return row


def _fixed_batch(model: MGMGemmaForCausalLM) -> int:
    """Images of every batch on the model's device; 0 if batches may have any size."""
    return CPU_BATCH if model.device.type == "cpu" else 0


def _encoded(row: NDArray[np.float16]) -> bytes:
    """An array as a ``.npy`` file, followed by the checksum of its bytes."""
    buffer = io.BytesIO()
    np.save(buffer, row, allow_pickle=False)
    return buffer.getvalue() + xxhash.xxh3_128_digest(buffer.getvalue())


def _checked(data: bytes) -> bytes:
    """The ``.npy`` file of an entry; ValueError where the checksum is another."""
    array, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if xxhash.xxh3_128_digest(array) != checksum:
        raise ValueError("its bytes are not those that were written")
    return array


def _name_of(image: ImageSource) -> str:
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()[:32]
    try:
        stat = patiently(image.stat, image, seen=False)
    except FileNotFoundError:
        return json_sha256([str(image.resolve()), None])[:32]  # reading it will say so, with the sample's id
    # The last of these changes with every replacement, also with one that keeps the time of modification.
    return json_sha256([str(image.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])[:32]


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
