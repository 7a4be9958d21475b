"""A checkpoint that cannot be loaded gives a one-line error that names its file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from toolkit.evaluation.plan import make_plan
from toolkit.evaluation.run import load
from toolkit.models.mgm.tiny import save_tiny
from toolkit.questions.answer_files import AnswerError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_tiny(folder / "model")
    (folder / "m.tsv").touch()
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"", r"model\.safetensors is damaged"),
        ("model.safetensors", slice(0, -5000), r"model\.safetensors is damaged"),
        ("model.safetensors", None, r"cannot be loaded \(.*no file named"),
        ("config.json", b"", r"config\.json is damaged"),
        ("tokenizer.json", slice(0, -5000), r"tokenizer\.json is damaged"),
        ("tokenizer.json", None, "cannot be loaded"),
        ("preprocessor_config.json", b"{", r"preprocessor_config\.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named(
    whole: Path, tmp_path: Path, name: str, content: bytes | slice | None, message: str
) -> None:
    model = Path(shutil.copytree(whole / "model", tmp_path / "model"))
    data = (model / name).read_bytes()
    (model / name).unlink()
    if content is not None:
        (model / name).write_bytes(data[content] if isinstance(content, slice) else content)
    if name == "tokenizer.json":
        (model / "tokenizer_config.json").unlink()
    benchmarks = {"mmbench": {"table": str(whole / "m.tsv")}}
    with pytest.raises(AnswerError, match=message) as refused:
        load(make_plan({"model": model, "output": tmp_path / "out", "benchmarks": benchmarks, "device": "cpu"}))
    assert str(refused.value).startswith(f"model: {model}") and "\n" not in str(refused.value)
