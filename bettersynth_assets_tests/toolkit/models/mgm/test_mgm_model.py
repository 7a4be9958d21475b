"""The MGM model: exact rearrangements, names, merging, loss, saving, generation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import toolkit  # noqa: F401  (installs the torchvision hook before transformers looks at it)
from toolkit.data.conversation import IGNORE_INDEX
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX, PROJECTOR
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.language.merging import merge
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.tiny import tiny_config, tiny_mgm
from toolkit.models.mgm.vision.mining import UniProjector, mine, mine_plain
from toolkit.models.mgm.vision.windows import cut, resize_matrix


def _pixels(config: MGMConfig, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "images": torch.randn(count, 3, config.image_size, config.image_size, generator=generator),
        "images_aux": torch.randn(count, 3, config.image_size_aux, config.image_size_aux, generator=generator),
    }


@pytest.mark.parametrize(("tokens_per_side", "side"), [(3, 8), (2, 16)])
def test_rearranged_mining_equals_the_definition_with_gradients(tokens_per_side: int, side: int) -> None:
    torch.manual_seed(0)
    parts = [UniProjector(12, 12), UniProjector(18, 12), UniProjector(18, 12)]
    for p in parts:
        for tensor in p.parameters():
            torch.nn.init.normal_(tensor, std=0.3)
    grid = tokens_per_side * side
    maps = [torch.randn(2, c, grid >> s, grid >> s) + 0.5 for s, c in enumerate((3, 4, 5, 6))]
    low = torch.randn(2, tokens_per_side**2, 12, requires_grad=True)
    leaves = [low, *(t for p in parts for t in p.parameters())]
    probe = torch.randn(2, tokens_per_side**2, 12)
    results = []
    for out in (mine(low, cut(maps, tokens_per_side, 1e-5), *parts), mine_plain(low, maps, tokens_per_side, *parts)):
        results.append([out, *torch.autograd.grad((out * probe).sum(), leaves)])
    for fast, plain in zip(*results, strict=True):
        # The key biases cancel in the softmax: their gradient is 0, which the definition reaches up to rounding.
        assert_close(fast, plain, rtol=1e-5, atol=1e-5 * max(1.0, plain.detach().abs().max().item()))


def test_resizing_inside_windows_equals_torchs_bilinear_resize() -> None:
    small = torch.randn(1, 1, 6, 6)
    windows = cut([torch.zeros(1, 1, 24, 24), torch.zeros(1, 1, 12, 12), small], 3, 1e-5)
    resized = windows.cells[2].squeeze(-1) @ resize_matrix(8, 4).T
    expected = torch.nn.functional.interpolate(small, size=(24, 24), mode="bilinear", align_corners=False)
    expected = expected.view(3, 8, 3, 8).permute(0, 2, 1, 3).reshape(1, 9, 64)
    assert_close(resized, expected)
    assert_close(windows.mean, expected / 3)


def test_parameter_names_equal_the_public_ones() -> None:
    names = set(tiny_mgm().state_dict())
    expected = {f"model.mm_projector.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}
    expected |= {
        f"model.vlm_uni_{part}_projector.{i}.{p}"
        for part in ("query", "aux", "val") for i in (0, 1) for p in ("weight", "bias")
    }  # fmt: skip
    assert expected == {n for n in names if n.startswith(PROJECTOR)}
    assert {
        "model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.weight",
        "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
        "model.vision_tower_aux.vision_stem.0.weight", "model.vision_tower_aux.vision_stages.3.blocks.0.conv_dw.weight",
        "model.vision_tower_aux.vision_stages.1.downsample.1.weight",
        "model.vision_tower_aux.vision_stages.0.blocks.0.gamma",
    } <= names  # fmt: skip


def test_stage_1_has_the_public_parameter_count_at_full_size() -> None:
    with torch.device("meta"):
        c = MGMConfig()
        d, aux = c.mm_hidden_size, c.mm_hidden_size_aux
        parts = [UniProjector(d, d), UniProjector(aux, d), UniProjector(aux, d)]
        parts += [torch.nn.Linear(d, c.hidden_size), torch.nn.Linear(c.hidden_size, c.hidden_size)]
    assert sum(t.numel() for p in parts for t in p.parameters()) == 13_259_008
    assert (c.image_tokens, c.mm_hidden_size_aux) == (576, 2880)


def test_low_resolution_tokens_equal_clips_selected_hidden_state() -> None:
    model = tiny_mgm()
    pixels = _pixels(model.config, 2)
    features = model.encode_images(**pixels)
    clip = model.model.vision_tower.vision_tower["vision_model"]
    expected = clip(pixels["images"], output_hidden_states=True).hidden_states[-2][:, 1:]
    assert_close(features.low, expected)
    assert [m.shape[-1] for m in features.maps] == [16, 8, 4, 2]


def test_the_high_resolution_tower_is_deterministic_in_training_by_default() -> None:
    pixels = _pixels(tiny_config(), 8)
    plain, kit = tiny_mgm().train(), tiny_mgm(aux_drop_path="training").train()
    first, second = (plain.encode_images(**pixels).maps[-1] for _ in range(2))
    assert torch.equal(first, second)
    assert len({kit.encode_images(**pixels).maps[-1].sum().item() for _ in range(8)}) > 1


@pytest.mark.parametrize("left", [False, True])
def test_merging_inserts_each_image_at_its_placeholder(left: bool) -> None:
    image = IMAGE_TOKEN_INDEX
    ids = torch.tensor([[2, image, 7, 8], [2, 5, 6, 9], [2, image, 7, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]])
    if left:
        ids[2], mask[2] = ids[2].roll(1), mask[2].roll(1)
    words = ids.clamp(min=0).float().unsqueeze(-1)
    images = torch.tensor([[[-1.0], [-2.0]], [[-3.0], [-4.0]]])
    merged = merge(ids, words, images, attention_mask=mask, labels=ids.clamp(min=0))
    rows = [
        [int(v) for v, m in zip(row.squeeze(-1), keep, strict=True) if m]
        for row, keep in zip(merged.embeds, merged.attention_mask, strict=True)
    ]
    assert rows == [[2, -1, -2, 7, 8], [2, 5, 6, 9], [2, -3, -4, 7]]
    assert merged.labels is not None
    assert merged.labels[0].tolist() == [2, IGNORE_INDEX, IGNORE_INDEX, 7, 8]
    side = merged.attention_mask[:, 0 if left else -1].tolist()
    assert side == [1, 0, 0]


def test_merging_names_a_wrong_image_count() -> None:
    model = tiny_mgm()
    ids = torch.tensor([[2, IMAGE_TOKEN_INDEX, 7]])
    with pytest.raises(ValueError, match="1 image placeholders in input_ids but 2 images"):
        model(ids, **_pixels(model.config, 2))
    with pytest.raises(ValueError, match="1 image placeholders in input_ids but 0 images"):
        model(ids)


def test_loss_equals_cross_entropy_over_all_logits_and_features_equal_pixels() -> None:
    model = tiny_mgm()
    ids = torch.tensor([[2, IMAGE_TOKEN_INDEX, 7, 8, 9], [2, 4, 5, 6, 0]])
    labels = torch.tensor([[IGNORE_INDEX] * 3 + [8, 9], [IGNORE_INDEX] * 2 + [5, 6, IGNORE_INDEX]])
    mask = (ids != 0).long()
    pixels = _pixels(model.config, 1)
    out = model(ids, mask, labels=labels, **pixels)
    logits = model(ids, mask, **pixels).logits
    merged = model.merge_images(ids, attention_mask=mask, labels=labels, **pixels)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), merged.labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX
    )
    assert_close(out.loss, expected)
    assert out.logits.shape == (4, 300)
    assert_close(model(ids, mask, labels=labels, features=model.encode_images(**pixels)).loss, out.loss)
    weighted = model(ids, mask, labels=labels, loss_weights=torch.full((2,), 1 / 8), **pixels)
    assert_close(weighted.loss, expected / 2)


def test_text_only_batch_gives_the_projector_a_zero_gradient() -> None:
    model = tiny_mgm()
    ids = torch.tensor([[2, 4, 5, 6]])
    with_zero = model(ids, labels=ids, **{k: 0 * v for k, v in _pixels(model.config, 1).items()})
    assert_close(with_zero.loss, model(ids, labels=ids).loss)
    with_zero.loss.backward()
    grad = model.model.mm_projector[0].weight.grad
    assert grad is not None and not grad.any()


def test_a_model_saved_as_safetensors_loads_unchanged(tmp_path: Path) -> None:
    model = tiny_mgm(mm_projector_output_scale=0.1, mm_vision_select_layer=-1, mm_feature_norm=True)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = MGMGemmaForCausalLM.from_pretrained(tmp_path)
    kept = [c.to_diff_dict() for c in (model.config, again.config)]
    for fields in kept:
        for volatile in ("_name_or_path", "dtype", "architectures"):
            fields["vision_config"].pop(volatile, None)
            fields.pop(volatile, None)
    assert kept[0] == kept[1] and kept[1]["mm_projector_output_scale"] == 0.1
    theirs = again.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_a_missing_projector_has_torchs_default_initialisation(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_mgm(initializer_range=5.0)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    base = {k: v for k, v in weights.items() if not k.startswith(PROJECTOR)}
    save_file(base, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = MGMGemmaForCausalLM.from_pretrained(tmp_path)
    limit = again.config.mm_hidden_size**-0.5
    assert 0 < again.model.mm_projector[0].weight.abs().max() <= limit


def test_batched_greedy_generation_equals_one_by_one() -> None:
    model = tiny_mgm(initializer_range=0.5)
    ids = torch.tensor([[0, 0, 2, IMAGE_TOKEN_INDEX, 7], [2, 9, 8, IMAGE_TOKEN_INDEX, 5], [0, 0, 2, 4, 5]])
    mask = (ids != 0).long()
    pixels = _pixels(model.config, 2)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    batched = model.generate(ids, attention_mask=mask, **pixels, **options)
    assert batched.shape == (3, 6)
    for row in range(2):
        own = {k: v[row : row + 1] for k, v in pixels.items()}
        alone = model.generate(ids[row : row + 1, 2 - 2 * row :], **own, **options)
        assert batched[row].tolist() == alone[0].tolist()
    text = model.generate(ids[2:, 2:], **options)
    assert batched[2].tolist() == text[0, 3:].tolist()


def test_config_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match="image_size_aux 100"):
        tiny_config(image_size_aux=100)
    with pytest.raises(ValueError, match="mm_vision_select_layer -9"):
        tiny_config(mm_vision_select_layer=-9)
    with pytest.raises(ValueError, match="mm_projector_type 'linear'"):
        tiny_config(mm_projector_type="linear")
