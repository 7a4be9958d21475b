"""Models of a profile, resolved to values. In: a folder, hub id or address. Out: a ``ResolvedModel``.

A model that is named and missing is an error that names it and the fix; no other model is used instead. Fingerprints go
into the keys of the stages that use a model, so that changed weights make their output stale.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from bettersynth_assets.config.address import address, is_address
from bettersynth_assets.config.model_type import model_type
from bettersynth_assets.config.profile import resolve
from bettersynth_assets.errors import ConfigError
from toolkit.files import digest_of, sha256_once

HUB_PREFIX = "hf-hub:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HASHED_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model that exists, as functions that load it or key on it receive it."""

    role: str
    """The key of the profile's ``models``."""
    name: str
    """The absolute folder, the hub id, or the address of a served model."""
    fingerprint: str
    """Changes when the model does."""

    @property
    def is_served(self) -> bool:
        return is_address(self.name)

    @property
    def type(self) -> str | None:
        """``model_type`` of the checkpoint's ``config.json``; None if it has none or the model is served."""
        return None if self.is_served else model_type(self.name)[0]


def resolve_model(path_or_id: str, *, role: str) -> ResolvedModel:
    """Resolve what a profile names.

    Args:
        path_or_id: what ``model_path`` takes, or for the captioner the address of a served model.
        role: the key of the profile's ``models``.

    Raises:
        ConfigError: as ``model_path``; an address that cannot be used.
    """
    if role == "captioner" and is_address(path_or_id):
        return ResolvedModel(role=role, name=path_or_id, fingerprint=address(path_or_id).key)
    name = model_path(path_or_id, role=role)
    fingerprint = files_fingerprint(Path(name)) if Path(name).is_dir() else name
    return ResolvedModel(role=role, name=name, fingerprint=fingerprint)


def model_path(path_or_id: str, *, role: str) -> str:
    """Check a model's name as the profile gives it.

    Args:
        path_or_id: a folder, absolute or relative to the project root, or a hub id ``org/name`` or ``hf-hub:org/name``.
        role: the key of the profile's ``models``, for the error.

    Returns:
        The absolute folder, or the hub id unchanged.

    Raises:
        ConfigError: it looks like a local path and nothing is there.
    """
    local = resolve(str(Path(path_or_id).expanduser()))
    if Path(local).is_dir():
        return str(Path(local).absolute())
    name = path_or_id.removeprefix(HUB_PREFIX)
    # `weights/clip` has the form of a hub id too; a folder that exists by its first part's name tells them apart.
    is_local = path_or_id.startswith((".", "/", "~")) or Path(resolve(name.split("/")[0])).is_dir()
    if _HUB_ID.fullmatch(name) and (path_or_id.startswith(HUB_PREFIX) or not is_local):
        return path_or_id
    raise ConfigError(
        f"models.{role} = {path_or_id!r}: no such folder ({Path(local).absolute()}): "
        "fetch the model to there, or name a folder that holds it or a hub id of the form org/name"
    )


def files_fingerprint(*paths: Path) -> str:
    """A hash of the contents of files, and of folders' files by their relative names.

    Files of 64 MiB and more count by size and modification time instead, because hashing them for each shard would take
    longer than the shard.
    """
    files = [(path, root) for root in paths for path in ([root] if root.is_file() else sorted(root.rglob("*")))]
    return digest_of(
        [
            (path.relative_to(root).as_posix() if path != root else path.name, _file_mark(path))
            for path, root in files
            if path.is_file() and not path.name.startswith(".")
        ]
    )


def _file_mark(path: Path) -> str:
    stat = path.stat()
    if stat.st_size >= _HASHED_BYTES:
        return hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    return sha256_once(path, stat)
