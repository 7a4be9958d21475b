"""Gemma's decoder optimized for training; uses the weights of transformers' modules.

::

    embeds (B, L, h), padded on the right  ─►  layers  ─►  hidden states (B, L, h), or (B, M, h) at chosen positions

Computes the same function as ``GemmaModel.forward`` without a cache, with these rearrangements: one matmul computes
queries, keys and values. Rows are padded on the right, so the causal mask also excludes padding, and no mask tensor is
needed. The last layer computes queries only for positions that carry loss. Weights are cast to the embeddings' dtype on
use, so that trained weights can be float32 while computation is in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo import maybe_mark_dynamic
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers.activations import GELUActivation

from toolkit.models.kernels.gelu import gated_gelu
from toolkit.models.mgm.common.speed import Speed, compiled

if TYPE_CHECKING:
    from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer

    from toolkit.models.mgm.backbone import MGMGemmaModel


def decode(model: MGMGemmaModel, embeds: Tensor, speed: Speed, label_at: Tensor | None = None) -> Tensor:
    """Compute the hidden states after the final norm.

    Args:
        model: Gemma without attention dropout, as all public Gemma models.
        embeds: (B, L, h) word and image embeddings, not yet multiplied by √h; padded on the right.
        speed: uses ``labelled_last_layer``, ``checkpointing`` and ``compiled``.
        label_at: (B, M) positions; required by ``labelled_last_layer``.

    Returns:
        (B, L, h), or (B, M, h) with ``labelled_last_layer``.
    """
    # Expand to the batch: otherwise compiled code computes each value's position by a division.
    positions = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
    hidden, cos, sin = embed(model, embeds, positions)
    if speed.compiled:
        for tensor, sizes in ((hidden, (1,)), (cos, (1,)), (sin, (1,)), (label_at, (1,))):
            if tensor is not None:
                maybe_mark_dynamic(tensor, sizes)
    layers = list(model.layers)
    last = layers.pop() if speed.labelled_last_layer and label_at is not None else None
    for layer in layers:
        hidden = _run(decoder_layer, speed, layer, hidden, cos, sin)
    if last is not None:
        hidden = _run(last_decoder_layer, speed, last, hidden, cos, sin, label_at)
    normed: Tensor = model.norm(hidden)
    return normed


def embed(model: MGMGemmaModel, embeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the inputs of the layers: embeddings times √h, and cos and sin of their positions (B or 1, L).

    The first half of the sines is negated, as :func:`rotate` requires.
    """
    cos, sin = model.rotary_emb(embeds, positions)
    below, above = sin.chunk(2, dim=-1)
    return model.scaled(embeds), cos, torch.cat([-below, above], dim=-1)


def _run(function: Callable[..., Tensor], speed: Speed, *arguments: Any) -> Tensor:
    run = compiled(function) if speed.compiled else function
    if speed.checkpointing and torch.is_grad_enabled():
        result: Tensor = checkpoint(run, *arguments, use_reentrant=False)
        return result
    return run(*arguments)


def decoder_layer(layer: GemmaDecoderLayer, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Run one layer: (B, L, h) -> (B, L, h). ``cos`` and ``sin`` (B, L, head dim) are from :func:`embed`."""
    attention = layer.self_attn
    states = layer.input_layernorm(hidden)
    query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
    joined = F.linear(states, torch.cat([m.weight.to(states.dtype) for m in (query, key, value)]))
    sizes = [m.weight.shape[0] for m in (query, key, value)]
    q, k, v = (part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for part in joined.split(sizes, dim=-1))
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attention.scaling, enable_gqa=True)
    return attention_output_and_mlp(layer, hidden, mixed)


def last_decoder_layer(layer: GemmaDecoderLayer, hidden: Tensor, cos: Tensor, sin: Tensor, label_at: Tensor) -> Tensor:
    """Run :func:`decoder_layer` with queries at ``label_at`` only: (B, L, h) -> (B, M, h)."""
    attention = layer.self_attn
    states = layer.input_layernorm(hidden)
    key, value = attention.k_proj, attention.v_proj
    joined = F.linear(states, torch.cat([m.weight.to(states.dtype) for m in (key, value)]))
    k, v = (part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for part in joined.chunk(2, dim=-1))
    at = label_at.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    hidden = hidden.gather(1, at)
    q = _linear(states.gather(1, at), attention.q_proj).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    q, k = rotate(q, cos[0][label_at], sin[0][label_at]), rotate(k, cos, sin)
    visible = (label_at.unsqueeze(-1) >= torch.arange(states.shape[1], device=hidden.device)).unsqueeze(1)
    # There are few queries here, and cuDNN would spend 70 ms on a plan for each new number of queries. Flash attention
    # accepts a mask on the CPU only, so that the GPU uses the math backend.
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=attention.scaling, enable_gqa=True)
    return attention_output_and_mlp(layer, hidden, mixed)


class _Rotate(torch.autograd.Function):
    """Rotary embedding. Its gradient is the inverse rotation, which needs a fifth of the copies of autograd's."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return states * cos + _halves_swapped(states) * sin

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return gradient * cos - _halves_swapped(gradient) * sin, None, None


def _halves_swapped(states: Tensor) -> Tensor:
    """Swap the halves of the last dimension; compiled code reads a roll once, but a concatenation twice."""
    return states.roll(states.shape[-1] // 2, -1)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary embedding to (B, heads, L, d), with ``cos`` and ``sin`` (B or 1, L, d) from :func:`embed`."""
    result: Tensor = _Rotate.apply(states, cos.unsqueeze(1), sin.unsqueeze(1))
    return result


def attention_output_and_mlp(layer: GemmaDecoderLayer, hidden: Tensor, mixed: Tensor) -> Tensor:
    """Run the rest of a layer: output projection, MLP and both residual connections.

    Args:
        layer: the decoder layer.
        hidden: (B, T, h) input of the layer.
        mixed: (B, heads, T, head dim) output of attention.

    Returns:
        (B, T, h).
    """
    hidden = hidden + _linear(mixed.transpose(1, 2).flatten(2), layer.self_attn.o_proj)
    mlp = layer.mlp
    states = layer.post_attention_layernorm(hidden)
    # Two matmuls: with a joined one, the two gradients would first have to be copied into one tensor.
    gate, up = _linear(states, mlp.gate_proj), _linear(states, mlp.up_proj)
    compiling = torch.compiler.is_compiling() and isinstance(mlp.act_fn, GELUActivation)
    return hidden + _linear(gated_gelu(gate, up) if compiling else mlp.act_fn(gate) * up, mlp.down_proj)


def _linear(states: Tensor, module: nn.Linear) -> Tensor:
    bias = None if module.bias is None else module.bias.to(states.dtype)
    return F.linear(states, module.weight.to(states.dtype), bias)
