"""The architecture of docs/extending.md, which the package does not contain: its code, and a base made from a LLaVA."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bettersynth_assets_tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "extending.md"
PROJECTOR = "multi_modal_projector."


def write_extension(file: Path) -> Path:
    """Write the page's ``linear.py``; a folder in its last line makes it another file for ``load_extensions``."""
    (code,) = re.findall(r"```python\n(# linear\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    file.write_text(f"{code}# {file.parent}\n", encoding="utf-8")
    return file


def make_linear_base(llava: Path, folder: Path, *, widths: tuple[int, int]) -> Path:
    """Copy a LLaVA checkpoint and replace its projector by a linear one.

    Args:
        widths: of the tower's features and of the language model.
    """
    shutil.copytree(llava, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "linear_llava"}))
    tensors = load_file(folder / "model.safetensors")
    prefix = next(name.split(PROJECTOR)[0] for name in tensors if PROJECTOR in name) + PROJECTOR
    kept = {name: tensor for name, tensor in tensors.items() if PROJECTOR not in name}
    read, written = widths
    weight = torch.randn(written, read, generator=torch.Generator().manual_seed(0)) / read**0.5
    linear = {f"{prefix}weight": weight, f"{prefix}bias": torch.zeros(written)}
    save_file(kept | linear, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
