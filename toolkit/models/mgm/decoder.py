"""Gemma's decoder for training, from the weights of transformers' modules.

::

    embeds (B, L, h), padded on the right  ─►  layers  ─►  hidden states (B, L, h), or (B, M, h) at chosen positions

Exact rearrangements of ``GemmaModel.forward`` without a cache: queries, keys and values come from one product; rows are
padded on the right, so the causal mask alone keeps padding out and no mask has to be read; in the last layer only the
positions that a loss is read from have queries. Weights are cast to the embeddings' type on use, so that trained ones
can be float32 while the arithmetic is bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo import maybe_mark_dynamic
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers.activations import GELUActivation

from toolkit.models.kernels.gelu import gated_gelu
from toolkit.models.mgm.backbone import MGMGemmaModel
from toolkit.models.mgm.speed import Speed, compiled


def decode(model: MGMGemmaModel, embeds: Tensor, speed: Speed, label_at: Tensor | None = None) -> Tensor:
    """Hidden states after the final norm.

    Args:
        model: Gemma without attention dropout, which no public Gemma has.
        embeds: (B, L, h) word and image embeddings, not yet multiplied by √h; padded on the right.
        speed: ``labelled_last_layer``, ``checkpointing`` and ``compiled`` are read.
        label_at: (B, M) positions; needed by ``labelled_last_layer``.

    Returns:
        (B, L, h), or (B, M, h) with ``labelled_last_layer``.
    """
    # One row of cosines per row of the batch: compiled code would otherwise divide to find each value's position.
    positions = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
    hidden, cos, sin = enter(model, embeds, positions)
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


def enter(model: Any, embeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What layers take: embeddings times √h, as Gemma wants them; cos and sin of their positions (B or 1, L).

    The sines' first half is negated, as :func:`rotate` wants them.
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


def decoder_layer(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One layer: (B, L, h) -> (B, L, h). ``cos`` and ``sin`` (B, L, head dim) of :func:`enter`."""
    attention = layer.self_attn
    states = layer.input_layernorm(hidden)
    query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
    joined = F.linear(states, torch.cat([m.weight.to(states.dtype) for m in (query, key, value)]))
    sizes = [m.weight.shape[0] for m in (query, key, value)]
    q, k, v = (part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for part in joined.split(sizes, dim=-1))
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attention.scaling, enable_gqa=True)
    return leave(layer, hidden, mixed)


def last_decoder_layer(layer: Any, hidden: Tensor, cos: Tensor, sin: Tensor, label_at: Tensor) -> Tensor:
    """:func:`decoder_layer` at some positions only: (B, L, h) -> (B, M, h). Keys and values are those of all."""
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
    # Few rows ask here. cuDNN would make a plan, for 70 ms, whenever their number is a new one; flash attention takes a
    # mask on the CPU only, so that a GPU is left with plain products.
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=attention.scaling, enable_gqa=True)
    return leave(layer, hidden, mixed)


class _Rotate(torch.autograd.Function):
    """The rotary embedding, whose gradient is the rotation back; derived by autograd it costs five times the copies."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return states * cos + _halves_swapped(states) * sin

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return gradient * cos - _halves_swapped(gradient) * sin, None, None


def _halves_swapped(states: Tensor) -> Tensor:
    """With the signs in the sines this is all of a rotation; in compiled code it is one read, a concatenation two."""
    return states.roll(states.shape[-1] // 2, -1)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (B, heads, L, d) by ``cos`` and ``sin`` (B or 1, L, d) of :func:`enter`."""
    result: Tensor = _Rotate.apply(states, cos.unsqueeze(1), sin.unsqueeze(1))
    return result


def leave(layer: Any, hidden: Tensor, mixed: Tensor) -> Tensor:
    """The rest of a layer: ``hidden`` (B, T, h) that went in, attention ``mixed`` (B, heads, T, head dim)."""
    hidden = hidden + _linear(mixed.transpose(1, 2).flatten(2), layer.self_attn.o_proj)
    mlp = layer.mlp
    states = layer.post_attention_layernorm(hidden)
    # Two products: joined, their gradients would first have to be copied into one tensor.
    gate, up = _linear(states, mlp.gate_proj), _linear(states, mlp.up_proj)
    compiling = torch.compiler.is_compiling() and isinstance(mlp.act_fn, GELUActivation)
    return hidden + _linear(gated_gelu(gate, up) if compiling else mlp.act_fn(gate) * up, mlp.down_proj)


def _linear(states: Tensor, module: nn.Linear) -> Tensor:
    bias = None if module.bias is None else module.bias.to(states.dtype)
    return F.linear(states, module.weight.to(states.dtype), bias)
