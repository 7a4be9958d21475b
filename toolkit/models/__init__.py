"""Architectures that the trainer and the evaluation know, by the ``model_type`` of a checkpoint's ``config.json``.

No torch is imported here, so that a plan whose base model is unknown is refused before anything heavy is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.file_errors import patiently
from toolkit.registry import Registry, RegistryError

if TYPE_CHECKING:
    from toolkit.models.base import Architecture

ARCHITECTURES: Registry[Callable[[], Architecture]] = Registry(
    "architecture",
    group="bettersynth.architectures",
    built_in={
        "mgm_gemma": "toolkit.models.mgm.architecture:MGMArchitecture",
        "llava": "toolkit.models.llava.architecture:LlavaArchitecture",
    },
)
"""What makes an architecture: its class, or a function that imports what it needs when it is called."""


class ArchitectureError(ValueError):
    """A checkpoint that no known architecture can load; names the folder and the known ones."""


def model_type(folder: Path) -> str:
    """The registered ``model_type`` of a checkpoint.

    Raises:
        ArchitectureError: no ``config.json``, one that is no JSON object, or a type that is not registered.
        EnvironmentFault: the file system does not let this user read it.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ArchitectureError(f"{str(folder)!r} holds no config.json; give the folder of a checkpoint")
    try:
        config = json.loads(patiently(path.read_bytes, path))
    except ValueError as error:
        raise ArchitectureError(f"{path} is damaged: no JSON ({error}); copy it again") from error
    name = config.get("model_type") if isinstance(config, dict) else None
    known = ARCHITECTURES.names()
    if name not in known:
        raise ArchitectureError(
            f"{str(folder)!r} is of model_type {name!r}, which no architecture is registered for; use one of "
            f"{', '.join(known)}, or add it (docs/extending.md, `extensions`)"
        )
    return str(name)


def architecture_of(folder: Path) -> Architecture:
    """The architecture of a checkpoint.

    Raises:
        ArchitectureError: see :func:`model_type`, or its code cannot be imported.
    """
    name = model_type(folder)
    try:
        return _made(ARCHITECTURES.get(name))
    except (RegistryError, ImportError) as error:
        raise ArchitectureError(f"architecture {name!r} cannot be used ({error})") from error


@cache
def _made(make: Callable[[], Architecture]) -> Architecture:
    return make()
