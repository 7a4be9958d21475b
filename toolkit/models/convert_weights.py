"""Converts pickled weights to safetensors without running any pickled code.

    python -m toolkit.models.convert_weights mm_projector.bin out

In: ``.bin``, ``.pt`` or ``.safetensors``, or a folder of shards. Out of the command: one ``.safetensors`` file and a
JSON line of what was kept and skipped. A pickle is read with ``weights_only``, so that it can hold tensors and nothing
that runs. The kit's ``mm_projector.bin`` also holds both frozen towers; the command skips them unless ``--keep-towers``
is given, and :func:`load_projector` checks them against the model's own.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from toolkit.models.mgm.names import CLIP, TOWERS, TRAINED_IN_STAGE_1
from toolkit.tensor_files import save_tensors

_WRAPPERS = re.compile(r"^(?:base_model\.model\.|module\.|_orig_mod\.)+")
_BARE = ("mm_projector.", "vlm_uni_", "vision_tower.", "vision_tower_aux.")
# Tables that older releases of transformers stored and that are computed today.
_COMPUTED = (".embeddings.position_ids", ".rotary_emb.inv_freq")
_CLIP_PARTS = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
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
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as tensors alone ({error})") from error
    tensors = found
    if isinstance(found, dict):
        tensors = next((found[key] for key in ("state_dict", "model") if isinstance(found.get(key), dict)), found)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{path}: holds {type(found).__name__}, not a dictionary of tensors")
    return tensors


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model's folder, in one file or in the shards that its index lists, by their public names.

    Raises:
        WeightsError: no weights, or a shard that the index names is missing or holds other tensors.
    """
    for name in _FILES:
        if (folder / name).is_file():
            return public_names(read_tensors(folder / name))
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
    return public_names(tensors)


def public_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by MGM's public names: without what wrappers (PEFT, DeepSpeed, compile) put in front, tables left out.

    CLIP's tower may lack its ``vision_model.``, as transformers 5 names it.
    """
    named = {}
    for name, tensor in tensors.items():
        plain = _WRAPPERS.sub("", name)
        plain = f"model.{plain}" if plain.startswith(_BARE) else plain
        if plain.startswith(tuple(f"{CLIP}{part}" for part in _CLIP_PARTS)):
            plain = f"{CLIP}vision_model.{plain.removeprefix(CLIP)}"
        if not plain.endswith(_COMPUTED):
            named[plain] = tensor
    return named


def clip_vision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision transformer of a CLIP's tensors, as ``vision_model.*``.

    Args:
        tensors: of a whole CLIP, or of its vision transformer alone; transformers 5 leaves out that prefix there.
    """
    inside = {name: tensor for name, tensor in tensors.items() if name.startswith("vision_model.")}
    return inside or {f"vision_model.{n}": tensor for n, tensor in tensors.items() if n.startswith(_CLIP_PARTS)}


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


def load_projector(model: nn.Module, path: Path) -> list[str]:
    """Give an MGM model the projector and mining projections of a file such as the kit's ``mm_projector.bin``.

    Returns:
        The names that were loaded: all that stage 1 trains. Types and devices stay the model's.

    Raises:
        WeightsError: unreadable, incomplete, more than projector and towers, or towers that are not the model's.
    """
    tensors = public_names(read_tensors(path))
    own = model.state_dict()
    towers = {name: tensor for name, tensor in tensors.items() if name.startswith(TOWERS)}
    trained = {name: tensor for name, tensor in tensors.items() if name.startswith(TRAINED_IN_STAGE_1)}
    rest = sorted(set(tensors) - set(towers) - set(trained))
    if rest:
        raise WeightsError(f"{path}: holds {rest[0]!r}, which is part of neither projector nor towers")
    check_same(own, towers, where=str(path))
    return copy_projector(model, trained, prefixes=TRAINED_IN_STAGE_1, where=str(path))


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
    own = model.state_dict()
    wanted = sorted(name for name in own if name.startswith(prefixes))
    for name in sorted(set(wanted) | set(tensors)):
        if name not in tensors or name not in own or tensors[name].shape != own[name].shape:
            shapes = [tuple(side[name].shape) if name in side else "missing" for side in (tensors, own)]
            raise WeightsError(f"{where}: {name!r} is {shapes[0]} in the file and {shapes[1]} in the model")
        if not bool(tensors[name].isfinite().all()):
            raise WeightsError(f"{where}: {name!r} is not finite; the training that wrote it went wrong")
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(tensors[name])
    return wanted


def convert(source: Path, target: Path, *, keep_towers: bool = False) -> dict[str, list[str]]:
    """Write the tensors of ``source`` as safetensors, by their public names; returns those ``kept`` and ``skipped``.

    Raises:
        WeightsError: see :func:`read_tensors`; or nothing would be left.
    """
    tensors = public_names(read_tensors(source))
    skipped = [name for name in tensors if name.startswith(TOWERS) and not keep_towers]
    # Cloned, because tensors that share memory cannot be written.
    kept = {name: tensor.contiguous().clone() for name, tensor in tensors.items() if name not in set(skipped)}
    if not kept:
        raise WeightsError(f"{source}: holds only the frozen towers; --keep-towers converts those")
    save_tensors(kept, target, metadata={"format": "pt"})
    return {"kept": sorted(kept), "skipped": sorted(skipped)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.models.convert_weights", description="Pickle to safetensors."
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--keep-towers", action="store_true")
    given = parser.parse_args(arguments)
    try:
        names = convert(given.source, given.target, keep_towers=given.keep_towers)
    except WeightsError as error:
        parser.exit(2, f"error: {error}\n")
    print(json.dumps({"kept": len(names["kept"]), "skipped": len(names["skipped"]), "target": str(given.target)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
