"""No data path unpickles code: every call that reads arrays or tensors explicitly refuses it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from bettersynth_assets_tests.helpers.source_calls import calls_of

SAFE = {"np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
OWN_PROCESS = {"bettersynth_assets/scheduler/local_pool.py"}
"""Unpickles what this user's own parent process sends over an anonymous pipe."""


def _calls() -> list[tuple[str, str, ast.Call]]:
    return [*calls_of("toolkit"), *calls_of("bettersynth_assets")]


@pytest.mark.slow
def test_every_reader_of_arrays_and_tensors_refuses_code() -> None:
    seen = set()
    for path, name, call in _calls():
        if name in SAFE:
            key, value = SAFE[name]
            given = {word.arg: word.value for word in call.keywords}
            constant = given.get(key)
            assert isinstance(constant, ast.Constant) and constant.value is value, f"{path}:{call.lineno}"
            seen.add(name)
    assert seen == {"np.load", "torch.load"}


@pytest.mark.slow
def test_pickles_are_read_only_from_our_own_processes() -> None:
    readers = {path for path, name, _ in _calls() if name in {"pickle.load", "pickle.loads", "pickle.Unpickler"}}
    assert readers == OWN_PROCESS


def test_an_array_of_objects_is_refused_by_the_reader(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Object arrays cannot be loaded when allow_pickle=False"):
        np.load(tmp_path / "a.npy", allow_pickle=False)
