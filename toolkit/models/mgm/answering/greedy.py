"""Greedy answers to many questions, from keys and values that questions about one image share.

::

    prefixes of R questions' images; question tokens (R, T), padded on the left  ─► first token of R answers
    last tokens (r, 1), finished rows dropped                                    ─► next token, until all have ended

A question's padding lies between its prefix and its tokens and is masked; positions count real tokens only. Query heads
that share a key head are computed together, so keys are never repeated, and the last layer has one query per row. In
float32 the answers equal those of ``model.generate`` on one prompt at a time; in bfloat16 rounding depends on the
batch.

Decoding steps do not use CUDA graphs: an answer has a few tokens, so decoding takes little time compared with prefixes
and questions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit.models.mgm.answering.prefixes import Prefix, heads
from toolkit.models.mgm.language.decoder import attention_output_and_mlp, embed

if TYPE_CHECKING:
    from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM

# Without cuDNN's attention, which plans for a tenth of a second at each new length; flash attention takes no mask.
_BACKENDS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

ROOM = 16
"""Positions by which the cache of a batch grows, and tokens after which a few long answers are deferred."""


class Batch:
    """Keys, values and positions of R questions being answered.

    Args:
        model: in evaluation mode.
        prefix: R prefixes, one per question.
        questions: R non-empty lists of token ids: the prompt after the image.
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
        self.last = self._append(ids, positions, blocked.to(dtype) * torch.finfo(dtype).min)

    def tokens(self) -> Tensor:
        """The most likely next token of each row, (r)."""
        return self.model.lm_head(self.last).argmax(dim=-1)

    def advance(self, tokens: Tensor) -> None:
        """Append a token to each row."""
        if self.filled == self.keys[0].shape[2]:
            self.keys = [_with_room(layer, ROOM) for layer in self.keys]
            self.values = [_with_room(layer, ROOM) for layer in self.values]
        self.hidden_keys = F.pad(self.hidden_keys, (0, 1))
        dtype = self.last.dtype
        blocked = self.hidden_keys.unsqueeze(1).to(dtype) * torch.finfo(dtype).min
        self.last = self._append(tokens.unsqueeze(1), self.next_position.unsqueeze(1), blocked)
        self.next_position = self.next_position + 1

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        chosen = torch.tensor(rows, device=self.last.device)
        self.keys = [layer[chosen] for layer in self.keys]
        self.values = [layer[chosen] for layer in self.values]
        self.hidden_keys, self.next_position = self.hidden_keys[chosen], self.next_position[chosen]

    def _append(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Append ids (r, T) under an additive ``mask`` (r, T, filled + T); returns normed last states (r, h)."""
        end = self.filled + ids.shape[1]

        def cached(number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = self.keys[number], self.values[number]
            keys[:, :, self.filled : end], values[:, :, self.filled : end] = key, value
            return keys[:, :, :end], values[:, :, :end]

        hidden = forward(self.model, ids, positions, mask, cached, asked=1)
        self.filled = end
        last: Tensor = self.model.model.norm(hidden[:, -1])
        return last


Cached = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps a layer's number and its new keys and values to all keys and values to attend to."""


def forward(
    model: MGMGemmaForCausalLM, ids: Tensor, positions: Tensor, mask: Tensor, cached: Cached, *, asked: int
) -> Tensor:
    """Hidden states (r, asked, h), before the final norm, of the last ``asked`` of T new tokens.

    Args:
        ids: (r, T).
        positions: (r, T).
        mask: (r, T, K), added to the attention logits.
        cached: returns K keys and values per layer.
    """
    core = model.model
    hidden, cos, sin = embed(core, core.embed_tokens(ids).to(mask.dtype), positions)
    groups = core.config.num_attention_heads // core.config.num_key_value_heads
    grouped_mask = _grouped(mask, groups)
    for number, layer in enumerate(core.layers):
        states = layer.input_layernorm(hidden)
        if number == len(core.layers) - 1:
            hidden, grouped_mask = hidden[:, -asked:], _grouped(mask[:, -asked:], groups)
        query, key, value = heads(layer.self_attn, states[:, -hidden.shape[1] :], states, cos, sin)
        keys, values = cached(number, key, value)
        grouped = query.unflatten(1, (-1, groups)).flatten(2, 3)  # (r, key heads, groups * T, head dim)
        with sdpa_kernel(_BACKENDS):
            mixed = F.scaled_dot_product_attention(
                grouped, keys, values, attn_mask=grouped_mask, scale=layer.self_attn.scaling
            )
        hidden = attention_output_and_mlp(layer, hidden, mixed.unflatten(2, (groups, -1)).flatten(1, 2))
    return hidden


def answer(
    batch: Batch, *, stop: Collection[int], max_new_tokens: int, defer_stragglers: bool = False
) -> tuple[list[list[int]], list[int]]:
    """Decode the answers of a batch.

    Args:
        stop: tokens that end an answer; they are not part of it.
        max_new_tokens: maximum tokens of an answer.
        defer_stragglers: stop when, after ``ROOM`` tokens, at most an eighth of the rows is unfinished. A few long
            answers would otherwise delay each batch; the caller answers the deferred ones together.

    Returns:
        The tokens of each row, and the numbers of the deferred rows.
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
        if defer_stragglers and step >= ROOM and len(open_) <= len(answers) // 8:
            return answers, open_
        if len(going) < len(tokens):
            batch.keep(going)
            chosen = chosen[torch.tensor(going, device=chosen.device)]
        batch.advance(chosen)
    return answers, []


def _grouped(mask: Tensor, groups: int) -> Tensor:
    """(r, T, K) -> (r, 1, groups * T, K): query heads that share a key head are treated as positions."""
    return mask.repeat(1, groups, 1).unsqueeze(1)


def _with_room(cached: Tensor, room: int) -> Tensor:
    return F.pad(cached, (0, 0, 0, room))
