"""Every optimisation of the forward pass gives the original logits, loss and gradients."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from toolkit.data.conversation import IGNORE_INDEX
from toolkit.models.kernels import depthwise, gelu
from toolkit.models.mgm import modeling_mgm
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
from toolkit.models.mgm.common.speed import CPU, REFERENCE, Speed, speed_for
from toolkit.models.mgm.language import decoder, loss
from toolkit.models.mgm.language.merging import lay_out
from toolkit.models.mgm.tiny import tiny_config, tiny_mgm
from toolkit.models.mgm.vision import towers

SWITCHES = [field.name for field in dataclasses.fields(Speed) if field.name not in ("depthwise_kernel", "compiled")]


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    image, none = IMAGE_TOKEN_INDEX, IGNORE_INDEX
    return {
        "input_ids": torch.tensor([[2, image, 7, 8, 9, 11], [2, 4, 5, 6, 0, 0], [2, 9, image, 7, 8, 0]]),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]]),
        "labels": torch.tensor([[none] * 3 + [8, 9, 11], [none, 4, 5, none, none, none], [none] * 4 + [8, none]]),
        "images": torch.randn(2, 3, 28, 28, generator=generator),
        "images_aux": torch.randn(2, 3, 64, 64, generator=generator),
    }


def _results(speed: Speed, *, weights: Tensor | None = None) -> dict[str, Tensor]:
    model = tiny_mgm(initializer_range=0.3)
    model.train()
    model.set_speed(dataclasses.asdict(speed))
    batch = _batch()
    out = model(**batch, loss_weights=weights)
    out.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": out.loss.detach(), "logits": out.logits.detach(), **gradients}


def _assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        # The key projection's biases cancel in the softmax: their gradient is 0 up to rounding.
        scale = 1e-2 if name.endswith(("aux_projector.0.bias", "aux_projector.1.bias")) else other[name].norm()
        assert (tensor - other[name]).norm() <= 3e-5 * scale, name


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return _results(REFERENCE)


@pytest.mark.parametrize("switch", SWITCHES)
def test_one_switch_changes_nothing(switch: str, reference: dict[str, Tensor]) -> None:
    flipped = {switch: not getattr(REFERENCE, switch)}
    if switch == "labelled_last_layer":
        flipped["fused_decoder"] = True
    _assert_equal(_results(dataclasses.replace(REFERENCE, **flipped)), reference)


def test_all_switches_together_change_nothing(reference: dict[str, Tensor]) -> None:
    _assert_equal(_results(CPU), reference)
    _assert_equal(_results(dataclasses.replace(CPU, nhwc_convnext=True, checkpointing=True)), reference)


@pytest.mark.slow
def test_compiled_parts_change_nothing(reference: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as for a GPU, but run without a code generator, which may not be installed.
    def traced(function: Any, *, dynamic: bool | None = None) -> Any:
        return torch.compile(function, backend="eager", dynamic=dynamic)

    for module in (modeling_mgm, loss, decoder, towers):
        monkeypatch.setattr(module, "compiled", cache(traced))
    before = counters["stats"]["unique_graphs"]
    _assert_equal(_results(dataclasses.replace(CPU, compiled=True, nhwc_convnext=True)), reference)
    assert counters["stats"]["unique_graphs"] > before
    assert not counters["graph_break"]


def test_gelu_for_compiled_code_equals_gelu() -> None:
    values = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    assert torch.equal(gelu.gelu(values.float()), torch.nn.functional.gelu(values.float()))
    narrow = values.bfloat16()
    wanted = torch.nn.functional.gelu(narrow.double())
    assert ((gelu.gelu(narrow).double() - wanted).abs() <= 4e-6 + 2**-8 * wanted.abs()).all()


def test_gated_gelu_and_its_gradients_are_exact_to_float32() -> None:
    gate = torch.linspace(-40, 40, 100_001, requires_grad=True)
    up, coming = torch.linspace(3, -2, 100_001, requires_grad=True), torch.linspace(-1, 2, 100_001)
    gelu.gated_gelu(gate, up).backward(coming)
    wide, wide_up = (tensor.detach().double().requires_grad_(True) for tensor in (gate, up))
    product = torch.nn.functional.gelu(wide) * wide_up
    product.backward(coming.double())
    assert (gelu.gated_gelu(gate, up) - product).abs().max() < 2e-5
    for mine, wanted in ((gate.grad, wide.grad), (up.grad, wide_up.grad)):
        assert mine is not None and wanted is not None
        assert (mine - wanted).norm() < 1e-6 * wanted.norm()


def test_gradients_are_not_all_zero(reference: dict[str, Tensor]) -> None:
    empty = {name for name, tensor in reference.items() if not tensor.any()}
    assert empty <= {name for name in reference if "aux_projector" in name and name.endswith("bias")}


def test_the_weight_of_a_row_applies_to_each_of_its_tokens() -> None:
    weights = torch.tensor([0.5, 0.0, 2.0])
    weighted, plain = _results(CPU, weights=weights), _results(REFERENCE)
    losses = torch.nn.functional.cross_entropy(plain["logits"], torch.tensor([8, 9, 11, 4, 5, 8]), reduction="none")
    assert torch.allclose(weighted["loss"], 0.5 * losses[:3].sum() + 2 * losses[5])


def test_float32_master_weights_compute_in_bfloat16_and_get_float32_gradients() -> None:
    model = tiny_mgm(initializer_range=0.3)
    torch.nn.Module.to(model, torch.bfloat16)
    for part in model.model.projector_modules():
        part.float()
    exact = _results(CPU)
    loss = model(**_batch()).loss
    loss.backward()
    weight = model.model.mm_projector[0].weight
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    assert torch.allclose(loss, exact["loss"], rtol=2e-2)
    wanted = exact["model.mm_projector.0.weight"]
    assert (weight.grad - wanted).norm() < 0.1 * wanted.norm()


def test_a_precomputed_layout_equals_that_of_the_forward_pass_and_may_be_padded() -> None:
    model, batch = tiny_mgm(initializer_range=0.3), _batch()
    layout = lay_out(batch["input_ids"], batch["attention_mask"], batch["labels"], image_tokens=4, multiple=16)
    assert layout["mask"].shape == (3, 16)
    assert layout["mask"].sum(dim=1).tolist() == [9, 4, 8]
    assert torch.allclose(model(**batch, layout=layout).loss, model(**batch).loss, rtol=1e-6)


def test_drop_path_of_the_frozen_tower_drops_the_same_paths_in_both_layouts() -> None:
    tower = {**tiny_config().vision_aux_config, "depths": [2, 2, 4, 2], "drop_path_rate": 0.9}
    model = tiny_mgm(aux_drop_path="always", vision_aux_config=tower)
    maps = []
    for speed in (CPU, dataclasses.replace(CPU, nhwc_convnext=True)):
        model.speed = speed
        torch.manual_seed(3)
        maps.append(model.encode_images(_batch()["images"], _batch()["images_aux"]).maps[-1])
    assert torch.allclose(maps[0], maps[1], atol=1e-5)
    assert not torch.allclose(maps[0], model.encode_images(_batch()["images"], _batch()["images_aux"]).maps[-1])


def _convolve(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The eager equivalent of the kernel."""
    shifted = torch.conv2d(
        hidden.permute(0, 3, 1, 2).float(), weight.float(), bias.float(), padding=3, groups=len(bias)
    )
    return shifted.permute(0, 2, 3, 1)


def _depthwise_inputs(side: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (2, side, side + 3, 128), (128, 1, 7, 7), (128,)
    hidden, weight, bias = (torch.randn(shape, generator=generator).to(device, torch.bfloat16) for shape in shapes)
    return hidden, weight / 7, bias


@pytest.mark.gpu
@pytest.mark.parametrize("side", [5, 24, 67, 130])
def test_the_depthwise_kernel_equals_its_eager_equivalent(side: int) -> None:
    inputs = _depthwise_inputs(side, "cuda")
    wanted = _convolve(*inputs)
    assert (depthwise.depthwise(*inputs).float() - wanted).norm() < 3e-3 * wanted.norm()


def test_the_depthwise_kernel_gets_maps_and_taps_in_the_expected_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def twin(columns: int) -> Any:
        def launch(*, grid: Any, block: Any, args: Any) -> None:
            maps, taps, bias, result, height, width, pairs, band = args
            shape = 2, height, width, 2 * pairs
            weight = taps.view(7, 7, 2 * pairs).permute(2, 0, 1).unsqueeze(1)
            convolved = _convolve(maps.view(torch.bfloat16).view(shape), weight, bias)
            result.view(torch.bfloat16).copy_(convolved.view(shape))
            assert grid[0] * block[1] * columns >= width and grid[1] * band >= height and grid[2] == 2 * pairs // 32

        return launch

    monkeypatch.setattr(depthwise, "_kernel", twin)
    for side in (24, 130):
        inputs = _depthwise_inputs(side, "cpu")
        wanted = _convolve(*inputs)
        assert (depthwise.depthwise(*inputs).float() - wanted).norm() < 3e-3 * wanted.norm()
        inputs[1].mul_(2)  # cached taps must be invalidated if the weights change
        assert not torch.allclose(depthwise.depthwise(*inputs).float(), wanted, rtol=0.05)
    with pytest.raises(ValueError, match="96 channels are not a multiple of 64"):
        depthwise.depthwise(torch.zeros(1, 8, 8, 96), torch.zeros(96, 1, 7, 7), torch.zeros(96))


def test_a_model_whose_channels_the_depthwise_kernel_does_not_support_runs_without_it_unless_it_is_chosen() -> None:
    assert speed_for("auto", "cuda", (192, 384, 768, 1536)).depthwise_kernel
    assert not speed_for("auto", "cuda", (16, 32, 64, 128)).depthwise_kernel
    assert not speed_for({"compiled": False}, "cuda", (16, 32, 64, 128)).depthwise_kernel
    assert speed_for({"depthwise_kernel": True}, "cuda", (16, 32, 64, 128)).depthwise_kernel


def test_an_unknown_speed_is_named() -> None:
    assert speed_for("auto", "cpu") == CPU
    assert speed_for({"checkpointing": True}, "cpu").checkpointing
    with pytest.raises(ValueError, match="'fast' is unknown; use 'auto', 'reference'"):
        speed_for("fast", "cpu")
    with pytest.raises(ValueError, match="labelled_last_layer"):
        speed_for({"warp": True}, "cpu")
