"""Reads a checkpoint's ``model_type``. In: a folder or hub id. Out: the type, or why it cannot be read."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path


def model_type(name: str) -> tuple[str | None, str]:
    """Read ``model_type`` of a checkpoint's ``config.json``.

    Args:
        name: an existing folder, or a hub id, of which only the configuration is downloaded.

    Returns:
        The type or None, and a description of what was found, for an error.
    """
    return _in_folder(Path(name)) if Path(name).is_dir() else _on_the_hub(name)


def _in_folder(folder: Path) -> tuple[str | None, str]:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None
    return _said(kind)


@lru_cache(maxsize=16)
def _on_the_hub(name: str) -> tuple[str | None, str]:
    from transformers import PreTrainedConfig

    try:
        return _said(PreTrainedConfig.get_config_dict(name)[0].get("model_type"))
    except OSError as error:
        return None, f"its config.json cannot be downloaded ({str(error).splitlines()[0]})"


def _said(kind: str | None) -> tuple[str | None, str]:
    return kind, f"its config.json says model_type {kind!r}" if kind else "it has no config.json with a model_type"
