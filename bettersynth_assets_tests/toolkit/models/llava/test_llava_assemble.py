"""A vision tower and a language model are assembled to a LLaVA base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, Qwen2Config

from toolkit.models import architecture_of
from toolkit.models.llava.assemble import main
from toolkit.models.llava.processing import LlavaRows
from toolkit.models.llava.tiny import CHATML
from toolkit.models.tiny_tokenizer import tiny_tokenizer

WIDTHS: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_a_base_has_the_weights_of_its_parts_and_answers_in_the_chat_template(tmp_path: Path) -> None:
    vision = CLIPVisionModel(CLIPVisionConfig(**WIDTHS, image_size=28, patch_size=14))
    vision.save_pretrained(tmp_path / "clip")
    sizes = {"shortest_edge": 28}, {"height": 28, "width": 28}
    CLIPImageProcessor(size=sizes[0], crop_size=sizes[1]).save_pretrained(tmp_path / "clip")
    language = AutoModelForCausalLM.from_config(Qwen2Config(**WIDTHS, num_key_value_heads=1, vocab_size=262))
    language.save_pretrained(tmp_path / "qwen")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(tmp_path / "qwen")
    parts = ["--vision", str(tmp_path / "clip"), "--language", str(tmp_path / "qwen")]
    assert main([*parts, "--output", str(tmp_path / "base"), "--dtype", "float32"]) == 0
    architecture = architecture_of(tmp_path / "base")
    model, processor = architecture.load_model(tmp_path / "base", torch.float32), None
    processor = architecture.load_processor(tmp_path / "base")
    assert isinstance(processor, LlavaRows) and processor.image_tokens == 4
    assert processor.tokenizer.decode(processor.encode_prompt("<image>\nWhy?")) == (
        "<start_of_turn>user\n<image>\nWhy?<end_of_turn>\n<start_of_turn>assistant\n"
    )
    own = model.model.language_model.state_dict()
    theirs = language.model.state_dict()
    assert all(torch.equal(own[name][: len(tensor)], tensor) for name, tensor in theirs.items())
    tower = model.model.vision_tower.state_dict()
    assert all(torch.equal(tower[name], tensor) for name, tensor in vision.state_dict().items())
    head = model.lm_head.weight
    assert torch.equal(head[:262], language.lm_head.weight) and len(head) == 263  # <image> is the last


def test_parts_that_cannot_be_joined_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text('{"model_type": "bert"}')
    for vision, message in (
        ("none", "is no folder; give a local copy"),
        ("a", "of model_type 'bert'; use one of clip"),
    ):
        with pytest.raises(SystemExit, match=r"^2$"):
            main(
                ["--vision", str(tmp_path / vision), "--language", str(tmp_path / "a"), "--output", str(tmp_path / "o")]
            )
        assert message in capsys.readouterr().err
