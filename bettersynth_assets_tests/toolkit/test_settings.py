"""Settings classes: their error messages, and which values are part of keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from toolkit.settings import NotInKey, SettingsError, SettingsModel


class Optics(SettingsModel):
    aperture: float = 2.8
    strap: Annotated[str, NotInKey("carries the camera")] = "leather"


class Camera(SettingsModel):
    side: int = Field(ge=1)
    mode: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    optics: Optics = Field(default_factory=Optics)
    flash: Optics | None = None
    filters: tuple[Optics, ...] = ()
    card: Path | None = None
    workers: Annotated[int, NotInKey("processes give the same rows")] = 0


class NewerCamera(Camera):
    shutter: float | None = None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"side": 1, "sied": 2}, r"file: unknown key 'sied': did you mean 'side'\? Valid: card, "),
        ({"side": 1, "optics": {"apertur": 2}}, "unknown key 'optics.apertur': did you mean 'aperture'"),
        ({"side": 1, "filters": [{}, {"strip": ""}]}, "unknown key 'filters.1.strip': did you mean 'strap'"),
        ({}, "file: key 'side' is missing: add it"),
        ({"side": 0}, "file: side = 0: .*greater than or equal to 1"),
        ({"side": True}, "side = True: must not be true or false"),
        ({"side": 1, "optics": {"aperture": float("nan")}}, "optics.aperture = nan: .*finite"),
        ({"side": 1, "mode": 0}, "mode = 0: Input should be 'auto', or Input should be greater than or equal to 1$"),
        ([1], "file: expected a mapping of keys, found list"),
    ],
)
def test_a_fault_is_named_in_one_line_with_key_value_and_fix(values: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as error:
        Camera.parse(values, where="file")
    assert "\n" not in str(error.value)


def test_every_value_that_differs_from_its_default_is_part_of_keys_unless_marked() -> None:
    plain = Camera(side=4)
    assert plain.key() == {"side": 4}
    assert plain.changed(workers=3, optics=Optics(strap="rope")).key() == plain.key()
    assert plain.changed(optics=Optics(aperture=4.0)).key() == {"side": 4, "optics": {"aperture": 4.0}}
    assert plain.changed(flash=Optics()).key() == {"side": 4, "flash": {}}
    assert plain.changed(filters=[Optics()], card="a").key() == {"side": 4, "filters": [{}], "card": "a"}


def test_a_new_field_is_part_of_keys_only_if_it_differs_from_its_default() -> None:
    assert NewerCamera(side=4).key() == Camera(side=4).key()
    assert NewerCamera(side=4, shutter=0.5).key() == {"side": 4, "shutter": 0.5}


def test_a_changed_copy_is_validated() -> None:
    with pytest.raises(SettingsError, match="side = 0"):
        Camera(side=4).changed(side=0)
