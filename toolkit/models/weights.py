"""Reads public weights without running pickled code, and copies a projector into a model.

In: ``.bin``, ``.pt`` or ``.safetensors``, or a folder of shards. A pickle is read with ``weights_only``, so that it can
hold tensors and nothing that runs. Names are those of the file; ``Architecture.own_names`` maps them to the model's.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_FILES = ("model.safetensors", "pytorch_model.bin")


class WeightsError(ValueError):
    """Weights that cannot be used; names the file or folder, and the first tensor at fault."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dictionary without running anything that the file may hold.

    Raises:
        WeightsError: no such file, a pickle with more than tensors in it, or no dictionary of tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: " + ("is a folder, not a file" if path.is_dir() else "no such file"))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as tensors alone ({error})") from error
    tensors = content
    if isinstance(content, dict):
        tensors = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{path}: holds {type(content).__name__}, not a dictionary of tensors")
    return tensors


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model's folder, in one file or in the shards that its index lists.

    Raises:
        WeightsError: no weights, or a shard that the index names is missing or holds other tensors.
    """
    for name in _FILES:
        if (folder / name).is_file():
            return read_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            break
    else:
        raise WeightsError(f"{folder}: holds none of {', '.join(_FILES)}, nor an index of shards")
    listed: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(listed.values())):
        tensors |= read_tensors(folder / shard)
    missing = sorted(set(listed) - set(tensors))
    if missing:
        raise WeightsError(f"{folder}: {index.name} lists {missing[0]!r}, which {listed[missing[0]]} does not hold")
    return tensors


def check_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, where: str) -> None:
    """Check that every tensor of ``theirs`` is ours; of another float type, up to the rounding of the coarser one.

    Raises:
        WeightsError: names the first tensor that is unknown, of another shape, or different.
    """
    for name, their in theirs.items():
        if name not in ours:
            raise WeightsError(f"{where}: {name!r} is no part of this model's towers")
        our = ours[name].detach().cpu()
        if our.shape != their.shape:
            raise WeightsError(f"{where}: {name!r} has shape {tuple(their.shape)}, the model's has {tuple(our.shape)}")
        rounding = 0.0 if our.dtype == their.dtype else max(torch.finfo(our.dtype).eps, torch.finfo(their.dtype).eps)
        # float16 has no normal numbers below 6e-5; what it makes of those is off by up to 6e-8.
        if not torch.allclose(our.float(), their.float(), rtol=rounding, atol=1e-7 if rounding else 0.0):
            raise WeightsError(f"{where}: {name!r} differs from the model's; it was trained with other towers")


def copy_projector(
    model: nn.Module, tensors: Mapping[str, Tensor], *, prefixes: tuple[str, ...], where: str
) -> list[str]:
    """Give a model the projector of a file; returns the names that were loaded. Types and devices stay the model's.

    Args:
        tensors: of the projector, by the model's names.
        prefixes: of the projector's names.
        where: the file, named in errors.

    Raises:
        WeightsError: a tensor that is missing, left over, of another shape or not finite.
    """
    state = model.state_dict()
    wanted = sorted(name for name in state if name.startswith(prefixes))
    for name in sorted(set(wanted) | set(tensors)):
        if name not in tensors or name not in state or tensors[name].shape != state[name].shape:
            shapes = [tuple(side[name].shape) if name in side else "missing" for side in (tensors, state)]
            raise WeightsError(f"{where}: {name!r} is {shapes[0]} in the file and {shapes[1]} in the model")
        if not bool(tensors[name].isfinite().all()):
            raise WeightsError(f"{where}: {name!r} is not finite; the training that wrote it went wrong")
    with torch.no_grad():
        for name in wanted:
            state[name].copy_(tensors[name])
    return wanted
