"""Turns a pickle of weights into safetensors: ``python -m toolkit.convert_weights mm_projector.bin out.safetensors``.

In: ``.bin``, ``.pt`` or ``.safetensors``. Out: one ``.safetensors`` file and a JSON line of what was kept and skipped.
A pickle is read with ``weights_only``, so it can hold tensors and nothing that runs. The kit's ``mm_projector.bin``
also holds both frozen towers; they are skipped unless ``--keep-towers`` is given.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_TOWERS = ("model.vision_tower.", "model.vision_tower_aux.")


class WeightsError(ValueError):
    """A file that holds no plain tensors."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dictionary without running anything that the file may hold.

    Raises:
        WeightsError: no such file, a pickle with more than tensors in it, or no dictionary of tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as tensors alone ({error})") from error
    tensors = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{path}: holds {type(found).__name__}, not a dictionary of tensors")
    return tensors


def convert(source: Path, target: Path, *, keep_towers: bool = False) -> dict[str, list[str]]:
    """Write the tensors of ``source`` as safetensors; returns the names ``kept`` and ``skipped``.

    Raises:
        WeightsError: see :func:`read_tensors`; or nothing would be left.
    """
    tensors = read_tensors(source)
    skipped = [name for name in tensors if name.startswith(_TOWERS) and not keep_towers]
    # Cloned, because tensors that share memory cannot be written.
    kept = {name: tensor.contiguous().clone() for name, tensor in tensors.items() if name not in set(skipped)}
    if not kept:
        raise WeightsError(f"{source}: holds only the frozen towers; --keep-towers converts those")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, target, metadata={"format": "pt"})
    return {"kept": sorted(kept), "skipped": sorted(skipped)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.convert_weights", description="Pickle to safetensors.")
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
