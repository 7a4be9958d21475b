"""Versions of libraries. In: names of distributions. Out: versions for manifests, and version parts for keys.

A manifest records full versions. A key contains only the parts that may change results (docs/keys.md): never the local
part (in ``2.13.0+cpu``, the build variant), and only major and minor for libraries whose patch releases do not change
what they compute.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from packaging.version import InvalidVersion, Version

COUNTED_PARTS = {"pillow": 2, "torch": 2}
"""Number of release components in keys; for all other libraries, all components."""


@cache
def installed_versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """Return installed versions by distribution; cached, because every shard of a set needs them."""
    return {library: version(library) for library in libraries}


def key_versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """Return the part of each installed version that keys contain."""
    return {
        library: counted_part(library, full_version) for library, full_version in installed_versions(libraries).items()
    }


def counted_part(library: str, version_text: str) -> str:
    """Return the part of a version that keys contain; for a pre-release, all but its local part."""
    try:
        parsed = Version(version_text)
    except InvalidVersion:
        return version_text
    if parsed.is_prerelease:
        return parsed.public
    return ".".join(map(str, parsed.release[: COUNTED_PARTS.get(library)]))
