from __future__ import annotations

import pytest
import torch

from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.models.gpu.token_decoding import BatchDecoder, TokenDecoder
from bettersynth_assets.models.sampling import draw_uniforms, generate_arguments

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 61, "pad_token_id": 1}
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]


def language_model(kind, device):
    from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    if kind == "opt":
        config = OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64, init_std=0.5)
        return OPTForCausalLM(config).eval().to(device)
    config = LlamaConfig(**SIZES, intermediate_size=64, initializer_range=0.5)
    return LlamaForCausalLM(config).eval().to(device)


def generated(model, embeds, stop, new_tokens):
    with torch.inference_mode():
        return model.generate(
            inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
            max_new_tokens=new_tokens, do_sample=False, eos_token_id=sorted(stop), pad_token_id=1,
        )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_tokens_equal_those_of_generate_for_every_batch_size(kind, device):
    model = language_model(kind, device)
    embeds = torch.randn(7, 5, 32, generator=torch.Generator().manual_seed(1)).to(device)
    free = generated(model, embeds, {60}, 11)
    stop = {int(free[0, 3]), int(free[3, 6])}  # so that rows end at different steps
    expected = generated(model, embeds, stop, 11)
    decoder = BatchDecoder(model, rows=4, prompt=5, new_tokens=11, stop=stop, pad=1)
    found = [decoder(part) for part in (embeds[:4], embeds[4:], embeds[:1])]
    for part, wanted in zip(found, (expected[:4], expected[4:], expected[:1]), strict=True):
        common = min(part.shape[1], wanted.shape[1])
        assert torch.equal(part[:, :common], wanted[:, :common])
        assert (part[:, common:] == 1).all() and (wanted[:, common:] == 1).all()
    assert len({tuple(row) for row in expected.tolist()}) == 7


@pytest.mark.parametrize("device", DEVICES)
def test_decoding_stops_early_when_all_rows_have_ended(device):
    model = language_model("opt", device)
    embeds = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(2)).to(device)
    first = generated(model, embeds, {60}, 1)[:, 0]
    decoder = BatchDecoder(model, rows=3, prompt=4, new_tokens=40, stop={*first.tolist()}, pad=1)
    tokens = decoder(embeds)
    assert tokens.shape[1] <= 4 and torch.equal(tokens[:, 0], first) and (tokens[:, 1:] == 1).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["opt", "llama"])
def test_sampled_tokens_follow_generate_and_depend_only_on_their_row(kind, device):
    model = language_model(kind, device)
    embeds = torch.randn(6, 5, 32, generator=torch.Generator().manual_seed(3)).to(device)
    sampling = Sampling(temperature=1.3, top_k=30, top_p=0.95, seed=5)
    uniforms = torch.from_numpy(draw_uniforms(sampling, list("abcdef"), 9)).to(device)
    with torch.inference_mode():
        expected = model.generate(
            inputs_embeds=embeds, attention_mask=torch.ones(6, 5, dtype=torch.long, device=device), max_new_tokens=9,
            eos_token_id=60, pad_token_id=1, **generate_arguments(sampling, uniforms),
        )  # fmt: skip
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 60, 1
    decode = TokenDecoder(model)
    for rows in ([0, 1, 2, 3], [4, 5], [5, 4, 3, 2]):
        found = decode(embeds[rows], new_tokens=9, full_batch=4, sampling=sampling, uniforms=uniforms[rows])
        assert torch.equal(found, expected[rows][:, : found.shape[1]])
    assert not torch.equal(decode(embeds, new_tokens=9, full_batch=8), expected)
    assert len({tuple(row) for row in expected.tolist()}) == 6
