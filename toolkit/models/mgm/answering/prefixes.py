"""Keys and values of the tokens before an image's questions, computed once for all its questions.

::

    <bos><start_of_turn>user\\n + image embeddings (P, N, h)  ─► per layer keys and values (P, key heads, L, head dim)

All prefixes have the same length L, so there is no padding and the causal mask suffices. Only keys and values are
needed, so the last layer stops after computing them. ``language.decoder`` has the parts of a layer around attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.models.mgm.common.speed import compiled
from toolkit.models.mgm.language.decoder import attention_output_and_mlp, embed, rotate

if TYPE_CHECKING:
    from transformers.models.gemma.modeling_gemma import GemmaAttention, GemmaDecoderLayer

    from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM


class Prefix(NamedTuple):
    """Per layer, keys and values (P, key heads, L, head dim) of P prefixes."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def pick(self, rows: Sequence[int]) -> Prefix:
        """Select prefixes by index; an index may repeat."""
        at = torch.tensor(rows, device=self.keys[0].device)
        return Prefix(*(tuple(layer[at] for layer in column) for column in self))


def joined(parts: Sequence[Prefix]) -> Prefix:
    """Concatenate prefixes."""
    return Prefix(*(tuple(map(torch.cat, zip(*column, strict=True))) for column in zip(*parts, strict=True)))


def read_prefixes(model: MGMGemmaForCausalLM, before: Sequence[int], image_embeds: Tensor) -> Prefix:
    """Compute keys and values of the tokens before an image and of the image.

    Args:
        before: token ids, the same for all images.
        image_embeds: (P, N, h) of ``project_images``.
    """
    core = model.model
    word_embeds = core.embed_tokens(torch.tensor(before, device=image_embeds.device)).to(image_embeds.dtype)
    hidden = torch.cat([word_embeds.expand(len(image_embeds), -1, -1), image_embeds], dim=1)
    hidden, cos, sin = embed(core, hidden, torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0))
    run = compiled(_layer, dynamic=False) if model.speed.compiled else _layer
    keys, values = [], []
    for number, layer in enumerate(core.layers, start=1):
        hidden, key, value = run(layer, hidden, cos, sin, number < len(core.layers))
        keys.append(key)
        values.append(value)
    return Prefix(tuple(keys), tuple(values))


def _layer(
    layer: GemmaDecoderLayer, hidden: Tensor, cos: Tensor, sin: Tensor, go_on: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The input of the next layer (if ``go_on``), and this layer's keys and values."""
    states = layer.input_layernorm(hidden)
    query, key, value = heads(layer.self_attn, states, states, cos, sin)
    if go_on:
        scale = layer.self_attn.scaling
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
        hidden = attention_output_and_mlp(layer, hidden, mixed)
    return hidden, key, value


def heads(
    attention: GemmaAttention, last_states: Tensor, states: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries of the last positions (``asking``), rotated keys, and values: (B, heads, positions, head dim)."""
    query, key, value = (
        projection(source).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection, source in (
            (attention.q_proj, last_states),
            (attention.k_proj, states),
            (attention.v_proj, states),
        )
    )
    count = last_states.shape[1]
    return rotate(query, cos[:, -count:], sin[:, -count:]), rotate(key, cos, sin), value
