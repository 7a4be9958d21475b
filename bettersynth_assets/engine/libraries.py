"""Versions of libraries. In: names of distributions. Out: what a manifest records, and the part that a key holds.

A manifest records versions as they are. A key holds only what can change a result by its meaning (docs/keys.md): never
the local part (``2.13.0+cpu``: for which hardware a file was built), and of libraries whose patch releases fix faults
without changing what they compute, major and minor alone.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from packaging.version import InvalidVersion, Version

COUNTED_PARTS = {"pillow": 2, "torch": 2}
"""How many numbers of a release count; of all other libraries, all of them."""


@cache
def installed_versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by distribution; read once a process, since a set of 400 shards asks for them each time."""
    return {library: version(library) for library in libraries}


def key_versions(libraries: tuple[str, ...]) -> dict[str, str]:
    """The part of each installed version that keys hold."""
    return {library: counted_part(library, found) for library, found in installed_versions(libraries).items()}


def counted_part(library: str, found: str) -> str:
    """The part of a version that keys hold; a pre-release counts whole, but for its local part."""
    try:
        parsed = Version(found)
    except InvalidVersion:
        return found
    if parsed.is_prerelease:
        return parsed.public
    return ".".join(map(str, parsed.release[: COUNTED_PARTS.get(library)]))
