"""Parity with results of the original MGM code (``golden/make_mgm_golden.py``): model, images, template."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPImageProcessorPil

from bettersynth_assets_tests.helpers.paths import SHARED
from bettersynth_assets_tests.toolkit.models.mgm.golden import rows, rule
from toolkit.data.conversation import LabelError, Turn
from toolkit.images.reading import read_image
from toolkit.images.squares import grey_levels, squares
from toolkit.models.mgm.assemble import load_tokenizer
from toolkit.models.mgm.common.names import TOWERS
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.language.conversation import encode_prompt, encode_row
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.vision.pixels import normalise

GOLDEN = Path(__file__).parent / "golden"
SEED_800 = SHARED / "better-synth-seed-800"
TOLERANCE = 1e-5
CANCELLED = ("model.vlm_uni_aux_projector.0.bias", "model.vlm_uni_aux_projector.1.bias")
"""They shift all logits of a token alike, so their gradient is 0; the original's is what rounding leaves of it."""


def _json(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text("utf-8"))


def _apart(ours: torch.Tensor | np.ndarray, original: np.ndarray) -> float:
    """Return ||ours - original|| / ||original|| after checking the shape."""
    found = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours, dtype=np.float64)
    assert found.shape == original.shape
    return float(np.linalg.norm(found - original) / np.linalg.norm(original))


@pytest.fixture(scope="module")
def numbers() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "model.npz") as file:
        return dict(file)


@pytest.fixture(params=["reference", "auto", {"nhwc_convnext": True}], ids=["reference", "auto", "nhwc"])
def model(request: pytest.FixtureRequest) -> MGMGemmaForCausalLM:
    """The rule's model in training mode, for each order of computation that a CPU supports."""
    config = MGMConfig(
        **rule.GEMMA, vision_config=rule.CLIP, vision_aux_config={**rule.CONVNEXT, "drop_path_rate": 0.1},
        image_size_aux=rule.IMAGE_SIZE_AUX,
    )  # fmt: skip
    model = MGMGemmaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(rule.weight(name, tuple(parameter.shape))))
    model.set_speed(request.param)
    return model.train()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """The rule's batch in this project's convention: only rows with an image have one."""
    arrays = {name: torch.from_numpy(values) for name, values in rule.batch().items()}
    shown = [row for row in range(len(rule.LENGTHS)) if row != rule.TEXT_ONLY]
    return {**arrays, "images": arrays["images"][shown], "images_aux": arrays["images_aux"][shown]}


def test_parameter_names_and_shapes_equal_the_originals(model: MGMGemmaForCausalLM) -> None:
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == _json("model.json")["state_dict"]


def test_towers_and_projected_images_equal_the_originals(
    model: MGMGemmaForCausalLM, batch: dict[str, torch.Tensor], numbers: dict[str, np.ndarray]
) -> None:
    features = model.encode_images(batch["images"], batch["images_aux"])
    assert _apart(features.low, numbers["low"][[0, 1, 3]]) < TOLERANCE
    size = features.maps[0].shape[-2:]
    joined = torch.cat([F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in features.maps], 1)
    assert _apart(joined[[0, 2]], numbers["maps"]) < TOLERANCE
    assert _apart(model.project_images(features), numbers["projected"][[0, 1, 3]]) < TOLERANCE


def test_logits_of_merged_rows_equal_the_originals(
    model: MGMGemmaForCausalLM, batch: dict[str, torch.Tensor], numbers: dict[str, np.ndarray]
) -> None:
    labels = batch.pop("labels")
    real = numbers["attention_mask"].astype(bool)
    with torch.no_grad():
        logits = model(**batch).logits
    assert _apart(logits[torch.from_numpy(real)], numbers["logits"][real]) < TOLERANCE
    merged = model.merge_images(**batch, labels=labels)
    assert np.array_equal(merged.attention_mask, real) and np.array_equal(merged.labels, numbers["labels"])


def test_loss_and_every_gradient_equal_the_originals(
    model: MGMGemmaForCausalLM, batch: dict[str, torch.Tensor], numbers: dict[str, np.ndarray]
) -> None:
    loss = model(**batch).loss
    loss.backward()
    assert abs(loss.item() - numbers["loss"]) < TOLERANCE * abs(numbers["loss"])
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and not name.startswith(TOWERS)}
    originals = {name.removeprefix("gradient/"): g for name, g in numbers.items() if name.startswith("gradient/")}
    assert set(ours) == set(originals)
    apart = {name: _apart(ours[name], originals[name]) for name in ours if name not in CANCELLED}
    assert max(apart.values()) < TOLERANCE, max(apart, key=lambda name: apart[name])
    for name in CANCELLED:
        scale = np.linalg.norm(originals[name.replace("bias", "weight")])
        assert np.linalg.norm(originals[name]) < TOLERANCE * scale
        assert ours[name].norm().item() < TOLERANCE * scale


@pytest.mark.slow
def test_greedy_answers_equal_the_originals_one_by_one_and_in_a_padded_batch(
    model: MGMGemmaForCausalLM, batch: dict[str, torch.Tensor], numbers: dict[str, np.ndarray]
) -> None:
    model.eval()
    prompts = [torch.from_numpy(prompt) for prompt in rule.prompts().values()]
    options: dict[str, Any] = {"max_new_tokens": rule.NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    options |= {"output_scores": True, "return_dict_in_generate": True}
    alone = [
        model.generate(prompt[None], images=batch["images"][[n]], images_aux=batch["images_aux"][[n]], **options)
        for n, prompt in enumerate(prompts)
    ]
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.stack([F.pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
    mask = torch.stack([F.pad(torch.ones_like(prompt), (longest - len(prompt), 0)) for prompt in prompts])
    pictures = {name: batch[name] for name in ("images", "images_aux")}
    together = model.generate(ids, attention_mask=mask, **pictures, **options)
    for answers in (alone, [together]):
        assert torch.cat([answer.sequences for answer in answers]).tolist() == numbers["answers"].tolist()
        logits = torch.cat([torch.stack(answer.scores, dim=1) for answer in answers])
        assert _apart(logits, numbers["answer_logits"]) < TOLERANCE


PROCESSOR = CLIPImageProcessorPil(size={"shortest_edge": 768}, crop_size={"height": 768, "width": 768})


@pytest.mark.slow
@pytest.mark.parametrize("aspect", ["square", "pad"])
@pytest.mark.parametrize("name", sorted(_json("pictures.json")["made"]))
def test_tensors_of_images_of_unusual_shapes_and_modes_equal_the_originals(name: str, aspect: Any) -> None:
    pixels = _pixels(rule.pictures()[name].convert("RGB"), aspect)
    original = _json("pictures.json")["made"][name][aspect]
    assert _sha256(pixels.images_aux[0]) == original["aux_sha256"]
    # Compared by value: the order in which a CPU adds the four neighbours may differ in the last bit.
    torch.testing.assert_close(pixels.images[0, :, 7::128, 5::128], torch.tensor(original["low"]), rtol=0, atol=1e-6)


@pytest.mark.skipif(not SEED_800.exists(), reason="real rows are not there")
@pytest.mark.parametrize("name", rule.REAL)
def test_tensors_of_real_images_equal_the_originals(name: str) -> None:
    picture = read_image(SEED_800 / name, sample_id=name)
    for aspect, expected in _json("pictures.json")["real"][name].items():
        assert _sha256(_pixels(picture, aspect).images_aux[0]) == expected


def test_an_image_three_pixels_high_is_read_correctly_unlike_in_the_original() -> None:
    picture = rule.three_high()
    misread = PROCESSOR(np.asarray(picture), input_data_format="channels_first", return_tensors="pt")["pixel_values"]
    assert _sha256(misread[0]) == _json("pictures.json")["three_high"]
    pixels = PROCESSOR(np.asarray(picture), input_data_format="channels_last", return_tensors="pt")["pixel_values"]
    assert torch.equal(_pixels(picture, "square").images_aux, pixels)


def _pixels(image: Image.Image, aspect: Any) -> Any:
    pixels = squares([image], side=768, resample=int(PROCESSOR.resample), aspect=aspect)
    return normalise(pixels, grey_levels(PROCESSOR), image_size=336)


def _sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


TOKENIZER = load_tokenizer(GOLDEN / "tokenizer")


@pytest.mark.parametrize("name", rows.ROWS)
def test_ids_and_labels_equal_the_originals(name: str) -> None:
    turns = [Turn(speaker=speaker, text=text) for speaker, text in rows.ROWS[name][0]]
    original = _json("rows.json")["rows"][name]
    if all(label == rule.IGNORE for label in original["labels"]):
        # The original prints a warning and ignores such a row; this project refuses it.
        with pytest.raises(LabelError, match="'r9'"):
            encode_row(TOKENIZER, turns, row_id="r9")
    else:
        row = encode_row(TOKENIZER, turns, row_id="r9")
        assert row.input_ids == original["input_ids"]
        assert row.labels == original["labels"]


@pytest.mark.parametrize("question", rows.QUESTIONS)
def test_evaluation_prompts_equal_the_originals(question: str) -> None:
    assert encode_prompt(TOKENIZER, f"<image>\n{question}") == _json("rows.json")["prompts"][question]
