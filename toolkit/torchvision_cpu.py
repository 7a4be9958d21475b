"""Import hook that makes a CUDA build of torchvision importable with a CPU build of torch.

``import toolkit`` installs the hook. It does nothing until torchvision is imported.

The public torchvision wheels are built for CUDA only. With a CPU build of torch, importing them fails with "operator
torchvision::nms does not exist": the package registers fake kernels for two operators that its binary did not load.
Every vision class of transformers and open_clip then fails too. It is enough to declare the two schemas before the
import, because nothing in this project calls the operators. With a CUDA build of torch, the hook changes nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _DeclareBeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finder that finds no modules: at the first import of torchvision it declares the schemas and removes itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare_missing_operators()
        return None


def declare_missing_operators() -> None:
    """Declare ``torchvision::nms`` and ``torchvision::qnms`` if torch is a CPU build and they are missing."""
    import torch

    if torch.version.cuda is not None:
        return
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _SCHEMA)


def install() -> None:
    """Insert the hook at the front of ``sys.meta_path``; later calls have no effect."""
    if "torchvision" not in sys.modules and not any(
        isinstance(finder, _DeclareBeforeTorchvision) for finder in sys.meta_path
    ):
        sys.meta_path.insert(0, _DeclareBeforeTorchvision())
