"""The download script with a hub on disk: pinned revisions, recorded checksums, and altered files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.convnext import ConvNeXt
from transformers import CLIPVisionConfig, CLIPVisionModel, GemmaConfig, GemmaForCausalLM

from bettersynth_assets_tests.helpers.paths import ROOT
from toolkit.models.mgm import assemble as assemble_command
from toolkit.models.mgm.assemble import assemble
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.tiny_tokenizer import tiny_tokenizer
from toolkit.models.weights import WeightsError

SCRIPT = ROOT / "toolkit" / "download.sh"
GEMMA = "LLM/gemma/gemma-2b-it"
REPOSITORIES = {
    "GEMMA": "google/gemma-2b-it",
    "CLIP": "openai/clip-vit-large-patch14-336",
    "CONVNEXT": "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",
}
HF = """#!/usr/bin/env bash
# hf download REPOSITORY FILES… --revision R --local-dir FOLDER: copies what the folder does not hold yet.
set -eu
echo "$*" >> "$HUB/calls"
repository=$2; shift 2
files=(); while [[ $1 != --* ]]; do files+=("$1"); shift; done
mkdir -p "$4"
for file in "${files[@]}"; do
    test -e "$4/$file" || cp "$HUB/$repository/$file" "$4/$file"
done
"""
PYTHON = """#!/usr/bin/env bash
# Keeps its arguments, one a line. The test passes them to the command's function, which saves the start of a process.
printf '%s\\n' "$@" > "$HUB/python"
"""


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Small models of the three classes in the requested files, and a command ``hf`` that provides them."""
    folder = tmp_path / "hub"
    gemma, clip, convnext = (folder / name for name in REPOSITORIES.values())
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    language = GemmaForCausalLM(GemmaConfig(vocab_size=300, num_key_value_heads=1, head_dim=16, **sizes))
    language.save_pretrained(gemma)
    weights = {name: tensor for name, tensor in language.state_dict().items() if name != "lm_head.weight"}
    (gemma / "model.safetensors").unlink()
    shard = {name: f"model-0000{1 + name.startswith('model.layers')}-of-00002.safetensors" for name in weights}
    for file in set(shard.values()):
        save_file(
            {n: t.clone() for n, t in weights.items() if shard[n] == file}, gemma / file, metadata={"format": "pt"}
        )
    (gemma / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard}))
    tiny_tokenizer().save_pretrained(gemma)
    (gemma / "special_tokens_map.json").write_text("{}")  # on the hub, but no longer written by transformers
    (gemma / "tokenizer.model").write_bytes(b"beside tokenizer.json nothing reads this")
    clip.mkdir(parents=True)
    vision = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14))
    vision.config.save_pretrained(clip)
    torch.save(vision.state_dict(), clip / "pytorch_model.bin")
    (clip / "preprocessor_config.json").write_text("{}")
    convnext.mkdir(parents=True)
    trunk = ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10), num_classes=0).state_dict()
    torch.save({f"visual.trunk.{name}": t for name, t in trunk.items()}, convnext / "open_clip_pytorch_model.bin")
    (convnext / "open_clip_config.json").write_text("{}")
    (folder / "bin").mkdir()
    for name, script in (("hf", HF), ("recorder", PYTHON)):
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    return folder


def _run(hub: Path, zoo: Path, python: str = "recorder", **revisions: str) -> subprocess.CompletedProcess[str]:
    settings = {"HUB": str(hub), "ZOO": str(zoo), "PYTHON": python}
    settings |= {"PATH": f"{hub / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    settings |= {f"{name}_REVISION": revision for name, revision in revisions.items()}
    return subprocess.run(
        ["bash", str(SCRIPT)], env={**os.environ, **settings}, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_files_are_recorded_once_and_checked_in_every_later_run(hub: Path, tmp_path: Path) -> None:
    zoo, mine = tmp_path / "zoo", dict.fromkeys(REPOSITORIES, "mine")
    done = _run(hub, zoo, **mine)
    assert done.returncode == 0, done.stderr
    module, *arguments = (hub / "python").read_text().removeprefix("-m\n").splitlines()
    assert module == assemble_command.__spec__.name and assemble_command.main(arguments) == 0
    assert MGMProcessor.from_pretrained(zoo / "MGM-2B-base").image_tokens == 4
    assert [line.split()[1:] for line in done.stdout.splitlines()[:3]] == [["mine"]] * 3
    record = dict(reversed(line.split("  ")) for line in (zoo / "checksums.txt").read_text().splitlines())
    assert len(record) == 14
    assert all(hashlib.sha256((zoo / file).read_bytes()).hexdigest() == found for file, found in record.items())
    assert subprocess.run(["sha256sum", "--quiet", "-c", "checksums.txt"], cwd=zoo).returncode == 0

    altered = zoo / GEMMA / "tokenizer.json"
    altered.write_text(altered.read_text() + " ")
    again = _run(hub, zoo, **mine)
    assert again.returncode == 1 and re.search(r"error: .+/gemma-2b-it/tokenizer.json has SHA-256", again.stderr)
    altered.unlink()
    # `true` replaces Python: the first run has assembled the base model.
    assert _run(hub, zoo, python="true", **mine).returncode == 0
    assert len((zoo / "checksums.txt").read_text().splitlines()) == 14


def test_pinned_weights_must_have_the_published_checksums(hub: Path, tmp_path: Path) -> None:
    done = _run(hub, tmp_path / "zoo")
    assert done.returncode == 1
    assert re.search(r"model-00001-of-00002.safetensors has SHA-256 \w+, expected 561656f8", done.stderr)
    call = (hub / "calls").read_text()
    assert call.startswith("download google/gemma-2b-it ")
    assert "--revision 96988410cbdaeb8d5093d1ebdc5a8fb563e02bad --local-dir" in call
    assert not (tmp_path / "zoo" / "MGM-2B-base").exists()


def test_assembling_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"clip: '.*none' is not a folder; give a local copy"):
        assemble(tmp_path, tmp_path / "none", tmp_path, image_size_aux=64, dtype=torch.float32)


def test_every_revision_and_checksum_in_the_script_is_complete() -> None:
    script = SCRIPT.read_text()
    pinned = dict(re.findall(r"\$\{(\w+)_REVISION:-([^}]*)\}", script))
    assert set(pinned) == set(REPOSITORIES) and all(re.fullmatch("[0-9a-f]{40}", at) for at in pinned.values())
    sums = re.findall(r"^([0-9a-f]{64}) ([0-9a-f]{40}) \S+$", script, flags=re.MULTILINE)
    assert {revision for _, revision in sums} == set(pinned.values())
    assert len(sums) == script.split("<< 'SUMS'\n")[1].split("\nSUMS")[0].count("\n") + 1
