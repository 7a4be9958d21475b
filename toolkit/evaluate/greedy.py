"""Greedy answers to many questions, from keys and values that questions about one picture share.

::

    prefix (P, L, h): <bos><start_of_turn>user\\n<image>, one per picture      ─► keys, values of every layer
    question tokens (R, T), padded on the left + the picture of each (R,)     ─► first token of R answers
    last tokens (r, 1), finished rows dropped                                 ─► next token, until all have ended

All prefixes have one length, so nothing is padded there and the causal mask alone is enough; a question's padding lies
between its prefix and its words and is masked; positions count real tokens only. Only keys and values of the prefix are
needed, so its last layer stops there, and the last layer of a question has one query. Each head group reads its keys
once, unrepeated. In float32 the answers are those of ``model.generate`` on one prompt at a time; in bfloat16 rounding
depends on what is computed together, as it does between batch sizes of any other code.

Steps are not captured in a graph: an answer has a few tokens, so decoding is a small part of the time that prefixes and
questions take.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.gemma.modeling_gemma import rotate_half

from toolkit.mgm.modeling_mgm import MGMGemmaForCausalLM

ROOM = 16
"""Positions by which the cache of a batch grows, and the tokens after which a few long answers are put off."""


class Prefix(NamedTuple):
    """Per layer, keys and values (P, key heads, L, head dim) of P prefixes."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def pick(self, rows: Sequence[int]) -> Prefix:
        """Some of the prefixes, each as often as it is named."""
        at = torch.tensor(rows, device=self.keys[0].device)
        return Prefix(*(tuple(layer[at] for layer in column) for column in self))


def joined(parts: Sequence[Prefix]) -> Prefix:
    """The prefixes of all parts, in order."""
    return Prefix(*(tuple(map(torch.cat, zip(*column, strict=True))) for column in zip(*parts, strict=True)))


def read_prefixes(model: MGMGemmaForCausalLM, before: Sequence[int], image_embeds: Tensor) -> Prefix:
    """Keys and values of the words before a picture and of the picture itself.

    Args:
        before: ids of the words, the same for all pictures.
        image_embeds: (P, N, h) of ``project_images``.
    """
    core = model.model
    words = core.embed_tokens(torch.tensor(before, device=image_embeds.device)).to(image_embeds.dtype)
    hidden = torch.cat([words.expand(len(image_embeds), -1, -1), image_embeds], dim=1)
    hidden, cos, sin = _enter(core, hidden, torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0))
    keys, values = [], []
    for number, layer in enumerate(core.layers, start=1):
        states = layer.input_layernorm(hidden)
        query, key, value = _heads(layer.self_attn, states, states, cos, sin)
        keys.append(key)
        values.append(value)
        if number < len(core.layers):
            scale = layer.self_attn.scaling
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
            hidden = _leave(layer, hidden, mixed)
    return Prefix(tuple(keys), tuple(values))


class Batch:
    """R questions being answered.

    Args:
        model: in evaluation mode.
        prefix: R of them, that of each question's picture.
        questions: R lists of ids, none empty: what follows the picture.
    """

    def __init__(self, model: MGMGemmaForCausalLM, prefix: Prefix, questions: Sequence[Sequence[int]]) -> None:
        self.model = model
        device, dtype = prefix.keys[0].device, prefix.keys[0].dtype
        rows, before, longest = len(questions), prefix.keys[0].shape[2], max(map(len, questions))
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in questions], device=device)
        lengths = torch.tensor([len(row) for row in questions], device=device)
        at = torch.arange(longest, device=device)
        padding = longest - lengths.unsqueeze(1) > at  # (R, T)
        self.keys = [_with_room(layer, longest + ROOM) for layer in prefix.keys]
        self.values = [_with_room(layer, longest + ROOM) for layer in prefix.values]
        self.filled = before
        self.next_position = before + lengths
        self.hidden_keys = torch.zeros(rows, before + longest, dtype=torch.bool, device=device)
        self.hidden_keys[:, before:] = padding
        later = torch.zeros(longest, before + longest, dtype=torch.bool, device=device)
        later[:, before:] = at.unsqueeze(1) < at
        blocked = self.hidden_keys.unsqueeze(1) | later  # (R, T, L + T)
        positions = (before + at - (longest - lengths.unsqueeze(1))).clamp(min=0)
        self.last = self._forward(ids, positions, blocked.to(dtype) * torch.finfo(dtype).min)

    def tokens(self) -> Tensor:
        """(r) the likeliest next token of each row."""
        return self.model.lm_head(self.last).argmax(dim=-1)

    def advance(self, tokens: Tensor) -> None:
        """Append a token to each row."""
        if self.filled == self.keys[0].shape[2]:
            self.keys = [_with_room(layer, ROOM) for layer in self.keys]
            self.values = [_with_room(layer, ROOM) for layer in self.values]
        self.hidden_keys = F.pad(self.hidden_keys, (0, 1))
        dtype = self.last.dtype
        blocked = self.hidden_keys.unsqueeze(1).to(dtype) * torch.finfo(dtype).min
        self.last = self._forward(tokens.unsqueeze(1), self.next_position.unsqueeze(1), blocked)
        self.next_position = self.next_position + 1

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows only."""
        chosen = torch.tensor(rows, device=self.last.device)
        self.keys = [layer[chosen] for layer in self.keys]
        self.values = [layer[chosen] for layer in self.values]
        self.hidden_keys, self.next_position = self.hidden_keys[chosen], self.next_position[chosen]

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """(r, T) ids at ``positions``, additive ``mask`` (r, T, filled + T) -> (r, h), normed, of the last one."""
        core = self.model.model
        hidden, cos, sin = _enter(core, core.embed_tokens(ids).to(mask.dtype), positions)
        end = self.filled + ids.shape[1]
        groups = core.config.num_attention_heads // core.config.num_key_value_heads
        for number, layer in enumerate(core.layers, start=1):
            states = layer.input_layernorm(hidden)
            if number == len(core.layers):
                hidden, mask = hidden[:, -1:], mask[:, -1:]
            query, key, value = _heads(layer.self_attn, states[:, -hidden.shape[1] :], states, cos, sin)
            keys, values = self.keys[number - 1], self.values[number - 1]
            keys[:, :, self.filled : end], values[:, :, self.filled : end] = key, value
            grouped = query.unflatten(1, (-1, groups)).flatten(2, 3)  # (r, key heads, groups * T, head dim)
            mixed = F.scaled_dot_product_attention(
                grouped, keys[:, :, :end], values[:, :, :end], scale=layer.self_attn.scaling,
                attn_mask=mask.repeat(1, groups, 1).unsqueeze(1),
            )  # fmt: skip
            hidden = _leave(layer, hidden, mixed.unflatten(2, (groups, -1)).flatten(1, 2))
        self.filled = end
        last: Tensor = core.norm(hidden[:, -1])
        return last


def answer(
    batch: Batch, *, stop: Collection[int], max_new_tokens: int, put_off: bool = False
) -> tuple[list[list[int]], list[int]]:
    """Write the answers of a batch.

    Args:
        stop: tokens that end an answer; they are no part of it.
        max_new_tokens: longest answer.
        put_off: leave when, after ``ROOM`` tokens, no more than an eighth of the rows is still being written: a few
            long answers would otherwise hold up a batch each time, and together they make a batch of their own.

    Returns:
        The tokens of each row, and the numbers of the rows that were put off.
    """
    answers: list[list[int]] = [[] for _ in range(len(batch.last))]
    open_ = list(range(len(answers)))
    for step in range(1, max_new_tokens + 1):
        chosen = batch.tokens()
        tokens = chosen.tolist()
        going = [i for i, token in enumerate(tokens) if token not in stop]
        for i in going:
            answers[open_[i]].append(tokens[i])
        open_ = [open_[i] for i in going]
        if not open_ or step == max_new_tokens:
            break
        if put_off and step >= ROOM and len(open_) <= len(answers) // 8:
            return answers, open_
        if len(going) < len(tokens):
            batch.keep(going)
            chosen = chosen[torch.tensor(going, device=chosen.device)]
        batch.advance(chosen)
    return answers, []


def _enter(core: Any, embeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings times √h, as Gemma wants them, and cos and sin of their positions."""
    cos, sin = core.rotary_emb(embeds, positions)
    return embeds * torch.tensor(core.config.hidden_size**0.5, dtype=embeds.dtype), cos, sin


def _heads(attention: Any, asking: Tensor, states: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries of the last positions ``asking``, rotated keys, and values: (B, heads, positions, head dim)."""
    query, key, value = (
        projection(source).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection, source in ((attention.q_proj, asking), (attention.k_proj, states), (attention.v_proj, states))
    )
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    asked = asking.shape[1]
    query = query * cos[:, :, -asked:] + rotate_half(query) * sin[:, :, -asked:]
    return query, key * cos + rotate_half(key) * sin, value


def _leave(layer: Any, hidden: Tensor, mixed: Tensor) -> Tensor:
    """The rest of a layer, after attention (B, heads, T, head dim)."""
    hidden = hidden + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
    result: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return result


def _with_room(cached: Tensor, room: int) -> Tensor:
    return F.pad(cached, (0, 0, 0, room))
