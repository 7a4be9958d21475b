from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from toolkit.registry import Registry, RegistryError, load_extensions


def _registry() -> Registry[object]:
    return Registry("thing", group="bettersynth.things", built_in={"join": "os.path:join"})


def test_built_in_entries_are_imported_on_first_use() -> None:
    import os

    assert _registry().get("join") is os.path.join
    assert _registry().fingerprint("join") is None


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RegistryError, match=r"unknown thing 'joi': did you mean 'join'. Valid: join"):
        _registry().get("joi")


def test_a_name_can_be_registered_only_once() -> None:
    registry = _registry()
    registry.register("mine", 1)
    registry.register("mine", 1)
    with pytest.raises(RegistryError, match="already registered"):
        registry.register("mine", 2)
    with pytest.raises(RegistryError, match="already registered"):
        registry.register("join", 2)


def test_an_extension_file_is_loaded_once_and_identified_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "my extension.py"
    file.write_text("import toolkit.registry as r\nclass Mine: pass\nr.TEST.register('mine', Mine)\n", "utf-8")
    import toolkit.registry as module

    module.TEST = registry = _registry()  # type: ignore[attr-defined]
    load_extensions([file])
    load_extensions([file])
    assert registry.names() == ["join", "mine"]
    first = registry.fingerprint("mine")
    assert first is not None and len(first) == 64


def test_a_file_that_changes_in_a_running_process_is_refused_with_the_fix_and_has_no_hash(tmp_path: Path) -> None:
    import toolkit.registry as module

    module.TEST = registry = _registry()  # type: ignore[attr-defined]
    file = tmp_path / "extension.py"
    code = "import toolkit.registry as r\nclass Mine: value = 1\nr.TEST.register('mine', Mine)\n"
    file.write_text(code, "utf-8")
    load_extensions([file])
    digest = registry.fingerprint("mine")
    assert digest == hashlib.sha256(code.encode()).hexdigest()
    file.write_text(code.replace("1", "2"), "utf-8")
    with pytest.raises(RegistryError, match=r"extension\.py has changed since .* restart the process"):
        load_extensions([file])
    with pytest.raises(RegistryError, match="has changed since"):
        registry.fingerprint("mine")
    file.write_text(code, "utf-8")
    load_extensions([file])
    assert registry.fingerprint("mine") == digest


def test_a_file_that_failed_can_be_corrected_in_the_same_process(tmp_path: Path) -> None:
    import toolkit.registry as module

    module.TEST = registry = _registry()  # type: ignore[attr-defined]
    file = tmp_path / "corrected.py"
    file.write_text("1 / 0\n", "utf-8")
    with pytest.raises(RegistryError, match="ZeroDivisionError"):
        load_extensions([file])
    file.write_text("import toolkit.registry as r\nr.TEST.register('mine', 1)\n", "utf-8")
    load_extensions([file])
    assert registry.get("mine") == 1


def test_the_code_key_is_empty_for_built_in_entries_and_computed_lazily() -> None:
    registry = _registry()
    assert registry.code_key("code", lambda: pytest.fail("asked")) == {}
    registry.register("mine", Registry)
    assert registry.code_key("code", lambda: "join") == registry.code_key("code", lambda: None) == {}
    assert registry.code_key("code", lambda: "mine") == {"code": registry.fingerprint("mine")}


def test_an_extension_that_fails_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n", "utf-8")
    with pytest.raises(RegistryError, match=r"broken\.py cannot be imported: ZeroDivisionError"):
        load_extensions([file])
    with pytest.raises(RegistryError, match="is not a file"):
        load_extensions([tmp_path / "absent.py"])
