"""Weights from elsewhere: pickles without code, and shards."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from toolkit.models.convert_weights import main
from toolkit.models.weights import WeightsError, read_checkpoint, read_tensors


class _Bomb:
    def __reduce__(self) -> Any:
        return (os.system, ("touch exploded",))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(1), "b": _Bomb()}, "zip.bin")
    Path("plain.bin").write_bytes(pickle.dumps(_Bomb()))
    for name in ("zip.bin", "plain.bin"):
        with pytest.raises(WeightsError, match=name):
            read_tensors(Path(name))
        with pytest.raises(SystemExit, match=r"^2$"):
            main([name, "out.safetensors"])
    assert not Path("exploded").exists()
    torch.save([1, 2], "list.bin")
    with pytest.raises(WeightsError, match="holds list"):
        read_tensors(Path("list.bin"))


def test_shards_without_all_tensors_of_their_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds none of model\.safetensors, pytorch_model\.bin"):
        read_checkpoint(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"lists 'b', which model-00001-of-00002\.safetensors does not hold"):
        read_checkpoint(tmp_path)
