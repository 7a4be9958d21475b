"""LLaVA in the trainer and evaluation that MGM uses; a third architecture from outside the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoProcessor

from bettersynth_assets_tests.helpers.linear_llava import make_linear_base, write_extension
from bettersynth_assets_tests.helpers.llava_rows import write_rows
from bettersynth_assets_tests.helpers.small_training import plan_values, run_plan, stage_of, stop_after
from toolkit.data.conversation import IGNORE_INDEX, LabelError, Turn
from toolkit.models import ARCHITECTURES, architecture_of
from toolkit.models.llava.processing import LlavaRows
from toolkit.models.llava.tiny import save_tiny_llava
from toolkit.questions.answer_files import AnswerError
from toolkit.questions.prompts import Prompt
from toolkit.training.plan import PlanError, parse_plan
from toolkit.training.run import main

pytestmark = pytest.mark.slow

TALK = [
    Turn(speaker="human", text="What is\n<image>"),
    Turn(speaker="gpt", text=" a fox\n"),
    Turn(speaker="human", text="Why?"),
    Turn(speaker="gpt", text="b c"),
]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA and a small set; the layout of ``world``."""
    folder = tmp_path_factory.mktemp("llava")
    save_tiny_llava(folder / "base")
    write_rows(folder, pictures=6, text_only=4)
    return folder


@pytest.fixture(scope="module")
def trained(llava: Path) -> Path:
    run_plan(plan_values(llava, llava / "out"))
    return llava / "out"


def _processor(folder: Path) -> LlavaRows:
    processor = architecture_of(folder).load_processor(folder)
    assert isinstance(processor, LlavaRows)
    return processor


def _labelled(processor: LlavaRows, turns: list[Turn]) -> tuple[str, str]:
    row = processor.encode_row(turns, row_id="r")
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    learned = [label for label in row.labels if label != IGNORE_INDEX]
    return processor.tokenizer.decode(row.input_ids), processor.tokenizer.decode(learned)


def test_labels_are_the_answers_and_end_tokens_of_the_checkpoints_chat_template(llava: Path) -> None:
    text, learned = _labelled(_processor(llava / "base"), TALK)
    assert learned == "a fox<end_of_turn>b c<end_of_turn>"
    assert text == (
        "<start_of_turn>user\n<image>\nWhat is<end_of_turn>\n<start_of_turn>assistant\na fox<end_of_turn>\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>assistant\nb c<end_of_turn>\n"
    )


def test_without_a_template_llavas_layout_is_used(llava: Path) -> None:
    plain = _processor(llava / "base").processor
    plain.chat_template = plain.tokenizer.chat_template = None
    text, learned = _labelled(LlavaRows(processor=plain, image_tokens=4), TALK)
    assert learned == " a fox<eos> b c<eos>"
    assert text.startswith("A chat between a curious user")
    assert text.endswith("USER: <image>\nWhat is ASSISTANT: a fox<eos>USER: Why? ASSISTANT: b c<eos>")


def test_a_template_of_parts_determines_the_position_of_the_image(llava: Path) -> None:
    parts = _processor(llava / "base").processor
    parts.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else "
        "c['text'] }}{% endfor %}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    text, learned = _labelled(LlavaRows(processor=parts, image_tokens=4), TALK)
    assert learned == "a fox<eos>b c<eos>"
    assert text.startswith("user: <image>What is<eos>assistant: a fox<eos>user: Why?")


def test_a_special_token_in_a_text_is_refused_with_the_row(llava: Path) -> None:
    processor = _processor(llava / "base")
    for question, answer in (("a<end_of_turn>", "b"), ("a", "b<eos>"), ("a", "<image> b")):
        turns = [Turn(speaker="human", text=question), Turn(speaker="gpt", text=answer)]
        with pytest.raises(LabelError, match="row 'r7': its text holds"):
            processor.encode_row(turns, row_id="r7")


def test_a_row_is_truncated_to_the_maximum_length_and_refused_if_no_label_remains(llava: Path) -> None:
    processor = _processor(llava / "base")
    long = [Turn(speaker="human", text="<image>\na"), Turn(speaker="gpt", text="b" * 600)]
    row = processor.encode_row(long, row_id="r")
    assert len(row.input_ids) + processor.image_tokens - 1 == processor.max_length == 512
    with pytest.raises(LabelError, match="no token carries loss"):
        processor.encode_row([Turn(speaker="human", text="a" * 600), TALK[1]], row_id="r")


def test_images_equal_those_of_the_checkpoints_processor(llava: Path) -> None:
    processor = _processor(llava / "base")
    draw = torch.randint(0, 256, (40, 57, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(draw.numpy())
    ours = processor.pixel_inputs(processor.squares([picture], aspect="square"))["pixel_values"]
    theirs = AutoProcessor.from_pretrained(llava / "base", use_fast=False).image_processor(picture, return_tensors="pt")
    assert_close(ours, theirs["pixel_values"], rtol=0, atol=1e-5)


def test_each_stage_changes_only_the_weights_that_it_trains(llava: Path, trained: Path) -> None:
    architecture = architecture_of(llava / "base")
    base, full = (
        architecture.load_model(folder, torch.float32).state_dict() for folder in (llava / "base", trained / "finetune")
    )
    projector = load_file(trained / "pretrain" / "projector.safetensors")
    assert set(projector) == {name for name in base if name.startswith("model.multi_modal_projector.")}
    changed = {name for name in base if not torch.equal(base[name], full[name])}
    assert not any("vision_tower" in name for name in changed)
    assert {"model.language_model.embed_tokens.weight", "model.multi_modal_projector.linear_1.weight"} <= changed


def test_a_resumed_training_equals_an_uninterrupted_one(llava: Path, trained: Path, tmp_path: Path) -> None:
    values = plan_values(llava, tmp_path / "cut", checkpoint_every=1)
    for _ in ("pretrain", "finetune"):
        stop_after(values, 2)
    events = run_plan(values)
    assert [(event["stage"], event["step"]) for event in events if event["event"] == "resume"] == [("finetune", 2)]
    ours, theirs = (load_file(path / "finetune" / "model.safetensors") for path in (tmp_path / "cut", trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_cache_folder_unused_by_llava_is_not_part_of_the_trainings_identity(
    llava: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    events = run_plan(plan_values(llava, tmp_path / "run", cache_dir=str(tmp_path / "cache")))
    assert [(event["event"], event["cached"]) for event in events] == [("done", True)]
    assert json.loads((trained / "run.json").read_text())["identity"]["cached"] is False
    assert not (tmp_path / "cache").exists()


def test_activation_checkpointing_accumulation_and_padding_change_only_rounding(
    llava: Path, trained: Path, tmp_path: Path
) -> None:
    values = plan_values(llava, tmp_path / "other", speed={"checkpointing": True})
    values["stages"] = [{**stage, "per_device_batch": 1, "pad_multiple": 8} for stage in values["stages"]]
    run_plan(values)
    curves = [
        json.loads((folder / "finetune" / "manifest.json").read_text())["loss_curve"]
        for folder in (trained, tmp_path / "other")
    ]
    assert curves[0] == pytest.approx(curves[1], abs=2e-5)


def test_bfloat16_training_uses_float32_master_weights_and_writes_one_dtype(
    llava: Path, trained: Path, tmp_path: Path
) -> None:
    run_plan(plan_values(llava, tmp_path / "half", dtype="bfloat16"))
    projector = load_file(tmp_path / "half" / "pretrain" / "projector.safetensors")
    assert {value.dtype for value in projector.values()} == {torch.float32}
    full = load_file(tmp_path / "half" / "finetune" / "model.safetensors")
    assert {value.dtype for value in full.values()} == {torch.bfloat16}
    curves = [
        json.loads((folder / "finetune" / "manifest.json").read_text())["loss_curve"]
        for folder in (trained, tmp_path / "half")
    ]
    assert curves[0] == pytest.approx(curves[1], abs=0.05)


def test_batched_answers_equal_single_ones_and_candidates_a_plain_forward_pass(trained: Path, llava: Path) -> None:
    folder = trained / "finetune"
    architecture, processor = architecture_of(folder), _processor(folder)
    model = architecture.load_model(folder, torch.float32).eval()
    options: dict[str, Any] = {"max_new_tokens": 6, "cache": None, "workers": 0, "compiled": False}
    answerer = architecture.answerer(model, processor, batch_size=4, **options)
    pictures = sorted((llava / "images").iterdir())
    prompts = [
        Prompt(id=str(n), image=pictures[n % 6], text="Why " * (n + 1), candidates=("A", "abc", "")) for n in range(6)
    ]
    together = answerer(prompts, lambda done: None)
    for prompt, answer in zip(prompts, together, strict=True):
        [alone] = answerer([prompt], lambda done: None)
        assert alone.text == answer.text
        for candidate in answer.candidates:
            expected = _plain_score(model, processor, prompt, candidate.text)
            assert candidate.log_probability == pytest.approx(expected, abs=1e-4)
    assert [(c.tokens, c.characters) for c in together[0].candidates] == [(1, 1), (3, 3), (0, 0)]
    with pytest.raises(AnswerError, match=r"prompt 'p': .*'<eos>'"):
        answerer([Prompt(id="p", image=pictures[0], text="a<eos>")], lambda done: None)


def _plain_score(model: Any, processor: LlavaRows, prompt: Prompt, candidate: str) -> float:
    """Score with the library's processor and one forward pass without padding."""
    prompt_ids = processor.encode_prompt(f"<image>\n{prompt.text}")
    at = prompt_ids.index(processor.template.image_token_id)
    prompt_ids[at : at + 1] = [processor.template.image_token_id] * processor.image_tokens
    added = processor.tokenizer(candidate, add_special_tokens=False).input_ids
    assert isinstance(prompt.image, Path)
    pixels = processor.pixel_inputs(processor.squares([Image.open(prompt.image).convert("RGB")], aspect="pad"))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt_ids, *added]]), **pixels).logits[0].log_softmax(-1)
    return sum(float(logits[len(prompt_ids) - 1 + number, token]) for number, token in enumerate(added))


def test_an_unknown_model_type_is_refused_by_name_with_the_known_ones(llava: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    values = plan_values(llava, tmp_path / "out", base_model=str(tmp_path))
    with pytest.raises(PlanError, match=r"model_type 'blip-2'.*use one of .*llava.*mgm_gemma"):
        parse_plan(values)


def test_an_architecture_from_an_extension_file_is_trained_by_the_command(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ARCHITECTURES, "_added", {})
    extension = write_extension(tmp_path / "linear.py")
    base = make_linear_base(llava / "base", tmp_path / "base", widths=(24, 32))
    values = stage_of(plan_values(llava, tmp_path / "out"), "pretrain", max_steps=1)
    values |= {"base_model": str(base), "extensions": [str(extension)]}
    (tmp_path / "plan.json").write_text(json.dumps(values))
    assert main([str(tmp_path / "plan.json")]) == 0, capfd.readouterr().err
    projector = load_file(tmp_path / "out" / "pretrain" / "projector.safetensors")
    assert {name: tuple(value.shape) for name, value in projector.items()} == {
        "model.multi_modal_projector.weight": (32, 24),
        "model.multi_modal_projector.bias": (32,),
    }
    identity = json.loads((tmp_path / "out" / "run.json").read_text())["identity"]
    assert len(identity["architecture"]) == 64  # the file's hash: another version of the file is another training
