"""A LLaVA base from parts in public formats is assembled, trained in both stages, and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoProcessor

from bettersynth_assets_tests.helpers.llava_rows import write_rows
from bettersynth_assets_tests.helpers.public_parts import save_clip, save_llama, save_qwen2, save_siglip
from bettersynth_assets_tests.helpers.small_training import plan_values, run_plan
from toolkit.data.conversation import IGNORE_INDEX, Turn
from toolkit.models import architecture_of
from toolkit.models.llava.assemble import main
from toolkit.questions.prompts import Prompt

pytestmark = pytest.mark.slow

TALK = [Turn(speaker="human", text="<image>\nWhy?"), Turn(speaker="gpt", text="A fox"),
        Turn(speaker="human", text="So?"), Turn(speaker="gpt", text="b")]  # fmt: skip
LEARNED = {"save_qwen2": "A fox<|im_end|>b<|im_end|>", "save_llama": "A fox</s> b</s>"}
ROW = {
    "save_qwen2": (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\n<image>\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nA fox<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    ),
    "save_llama": (
        "<s> A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nWhy? ASSISTANT: A fox</s>USER: So? "
        "ASSISTANT: b</s>"
    ),
}
Save = Callable[[Path], Path]


PARTS = [(save_clip, save_qwen2), (save_siglip, save_qwen2), (save_clip, save_llama), (save_siglip, save_llama)]


@pytest.fixture(scope="module", params=PARTS, ids=["clip-qwen2", "siglip-qwen2", "clip-llama", "siglip-llama"])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Save, Save]:
    """A folder with ``vision``, ``language``, the base that the command assembles, and a small training set."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    vision, language = request.param
    vision(folder / "vision")
    language(folder / "language")
    given = ["--vision", str(folder / "vision"), "--language", str(folder / "language")]
    assert main([*given, "--output", str(folder / "base"), "--dtype", "float32"]) == 0
    write_rows(folder, pictures=6, text_only=4)
    return folder, vision, language


@pytest.fixture
def picture() -> Image.Image:
    draw = torch.randint(0, 256, (40, 57, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(draw.numpy())


def _loaded(folder: Path) -> tuple[Any, Any]:
    architecture = architecture_of(folder)
    return architecture.load_model(folder, torch.float32).eval(), architecture.load_processor(folder)


def test_features_are_the_towers_output_before_its_last_layer(
    parts: tuple[Path, Save, Save], picture: Image.Image
) -> None:
    folder, vision, _ = parts
    model, processor = _loaded(folder / "base")
    ours = processor.pixel_inputs(processor.squares([picture], aspect="square"))["pixel_values"]
    own = AutoImageProcessor.from_pretrained(folder / "vision", use_fast=False)
    theirs = own(picture, return_tensors="pt")["pixel_values"]
    assert_close(ours, theirs, rtol=0, atol=1e-5)
    whole: Any = AutoModel.from_pretrained(folder / "vision", dtype=torch.float32).eval()
    with torch.no_grad():
        states = whole.vision_model(theirs, output_hidden_states=True).hidden_states[-2]
        expected = model.model.multi_modal_projector(states[:, 1:] if vision is save_clip else states)
        found = model.model.get_image_features(ours, return_dict=True).pooler_output
    assert processor.image_tokens == 4
    assert_close(torch.cat(list(found)), expected[0], rtol=0, atol=1e-5)


def test_the_language_model_gives_the_same_results_and_has_one_more_token(parts: tuple[Path, Save, Save]) -> None:
    folder = parts[0]
    model, processor = _loaded(folder / "base")
    language: Any = AutoModelForCausalLM.from_pretrained(folder / "language", dtype=torch.float32).eval()
    ids = torch.tensor([processor.encode_prompt("Why is a fox red?")])
    with torch.no_grad():
        expected = language(input_ids=ids).logits
        found = model(input_ids=ids).logits
    assert_close(found[..., : expected.shape[-1]], expected, rtol=0, atol=1e-5)
    config = json.loads((folder / "base" / "config.json").read_text())
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == config["image_token_index"]


def test_rows_are_formatted_by_the_language_models_template(parts: tuple[Path, Save, Save]) -> None:
    folder, _, language = parts
    _, processor = _loaded(folder / "base")
    row = processor.encode_row(TALK, row_id="r")
    assert processor.tokenizer.decode(row.input_ids) == ROW[language.__name__]
    learned = [token for token in row.labels if token != IGNORE_INDEX]
    assert processor.tokenizer.decode(learned) == LEARNED[language.__name__]
    again = AutoProcessor.from_pretrained(folder / "base")
    assert again.tokenizer.convert_tokens_to_ids("<image>") == processor.template.image_token_id


def test_both_stages_train_the_base_and_the_trained_model_answers(
    parts: tuple[Path, Save, Save], tmp_path: Path
) -> None:
    folder, _, language = parts
    run_plan(plan_values(folder, tmp_path / "out"))
    before, _ = _loaded(folder / "base")
    model, processor = _loaded(tmp_path / "out" / "finetune")
    changed = {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert not any("vision_tower" in name for name in changed)
    assert {"model.multi_modal_projector.linear_1.weight", "model.language_model.norm.weight"} <= changed
    options: dict[str, Any] = {"max_new_tokens": 4, "cache": None, "workers": 0, "compiled": False, "batch_size": 2}
    answerer = architecture_of(folder / "base").answerer(model, processor, **options)
    prompts = [Prompt(id=str(n), image=folder / "images" / f"{n}.png", text="Why?" * (n + 1), candidates=("a", "No"))
               for n in range(3)]  # fmt: skip
    answers = answerer(prompts, lambda done: None)
    assert all(np.isfinite(score.log_probability) for answer in answers for score in answer.candidates)
    space = int(language is save_llama)  # a separate token in front of the answer
    assert [score.tokens for score in answers[0].candidates] == [1 + space, 2 + space]
