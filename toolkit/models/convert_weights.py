"""Converts pickled weights to safetensors without running any pickled code.

    python -m toolkit.models.convert_weights mm_projector.bin out.safetensors [--architecture mgm_gemma] [--keep-towers]

Out: one ``.safetensors`` file and a JSON line of what was kept and skipped. The kit's ``mm_projector.bin`` also holds
both frozen towers, which are skipped unless ``--keep-towers`` is given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from toolkit.models import ARCHITECTURES
from toolkit.models.weights import WeightsError, read_tensors
from toolkit.tensor_files import save_tensors

MGM = "mgm_gemma"


def convert(source: Path, target: Path, *, architecture: str = MGM, keep_towers: bool = False) -> dict[str, list[str]]:
    """Write the tensors of ``source`` as safetensors, by the model's names; returns those ``kept`` and ``skipped``.

    Args:
        architecture: ``model_type`` of the model that the tensors are part of.

    Raises:
        WeightsError: see :func:`read_tensors`; or nothing would be left.
    """
    model = ARCHITECTURES.get(architecture)()
    tensors = model.own_names(read_tensors(source))
    skipped = [name for name in tensors if name.startswith(model.towers) and not keep_towers]
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
    parser.add_argument("--architecture", choices=ARCHITECTURES.names(), default=MGM)
    parser.add_argument("--keep-towers", action="store_true")
    options = parser.parse_args(arguments)
    try:
        names = convert(
            options.source, options.target, architecture=options.architecture, keep_towers=options.keep_towers
        )
    except WeightsError as error:
        parser.exit(2, f"error: {error}\n")
    print(json.dumps({"kept": len(names["kept"]), "skipped": len(names["skipped"]), "target": str(options.target)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
