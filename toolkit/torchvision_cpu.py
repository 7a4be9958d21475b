"""Makes a torchvision that was built for CUDA importable beside a CPU build of torch.

In: nothing. Out: an import hook, installed by ``import toolkit``, that does nothing until torchvision is imported.

The torchvision wheels on the public registry are built for CUDA only. Beside a CPU torch their import fails with
"operator torchvision::nms does not exist", and with it every vision class of transformers and open_clip, because the
package registers a fake kernel for two operators that its binary did not load. Declaring the two schemas first is
enough: nothing in this project calls them. Where torch has CUDA the hook leaves everything as it is.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _DeclareBeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing itself; declares the missing schemas at the first look-up of torchvision, then leaves."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare_missing_operators()
        return None


def declare_missing_operators() -> None:
    """Declare ``torchvision::nms`` and ``torchvision::qnms`` when torch is a CPU build and nobody has yet."""
    import torch

    if torch.version.cuda is not None:
        return
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _SCHEMA)


def install() -> None:
    """Put the hook first on ``sys.meta_path``, once."""
    if "torchvision" not in sys.modules and not any(
        isinstance(finder, _DeclareBeforeTorchvision) for finder in sys.meta_path
    ):
        sys.meta_path.insert(0, _DeclareBeforeTorchvision())
