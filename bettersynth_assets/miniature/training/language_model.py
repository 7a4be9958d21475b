"""Trains MGM's language model. In: bank. Out: a ``GemmaForCausalLM`` trained on text about the world, on no images.

Sequence: ``<bos><start_of_turn>user\\n``, 36 context slots, ``\\n{prompt}<end_of_turn>…{answer}<end_of_turn>\\n<eos>``.
A slot's input is the mean embedding of its bag. The loss covers the answer and its end tokens, as in stages 1 and 2.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GemmaConfig, GemmaForCausalLM

from bettersynth_assets.miniature.language import SLOTS, before_image
from bettersynth_assets.miniature.tokenizer import make_tokenizer
from bettersynth_assets.miniature.training.bank import load
from bettersynth_assets.miniature.training.loop import held_out, on, train


def gemma_config(vocabulary: int) -> GemmaConfig:
    """Gemma's config at miniature size: like gemma-2b, one key-value head and tied embeddings."""
    tokenizer = make_tokenizer("gemma")
    config = GemmaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=512, initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )  # fmt: skip
    config.hidden_act = "gelu"  # exact GELU, as in MGM; the constructor would turn it into the tanh approximation
    return config


class Lessons:
    """The bank's texts as model inputs."""

    def __init__(self, bank: Path, device: str) -> None:
        self.slots, self.after, self.answer = (load(bank, name, device) for name in ("slots", "after", "answer"))
        self.after = self.after[:, : int((self.after != 0).sum(1).max())]
        tokenizer = make_tokenizer("gemma")
        self.before = torch.tensor(tokenizer(before_image()).input_ids, device=device)

    def __len__(self) -> int:
        return len(self.after)

    def embed(self, model: GemmaForCausalLM, rows: Tensor) -> Tensor:
        """Return the (B, before + SLOTS + after, width) input embeddings."""
        embed = model.model.embed_tokens
        bags = self.slots[rows]
        real = (bags != 0).unsqueeze(-1)
        context = (embed(bags) * real).sum(2) / real.sum(2)
        before = embed(self.before).expand(len(rows), -1, -1)
        return torch.cat([before, context, embed(self.after[rows])], dim=1)

    def supervised(self, rows: Tensor) -> Tensor:
        """Return a (B, L) bool mask over ``after``: the tokens that carry loss."""
        at = torch.arange(self.after.shape[1], device=rows.device)
        return (at >= self.answer[rows, None]) & (self.after[rows] != 0)

    def logits_and_targets(self, model: GemmaForCausalLM, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (S, V) and targets (S,) of the supervised tokens, and the row of each (S,)."""
        hidden = model.model(inputs_embeds=self.embed(model, rows), use_cache=False).last_hidden_state
        start = len(self.before) + SLOTS - 1
        mask = self.supervised(rows)
        logits = model.lm_head(hidden[:, start : start + mask.shape[1]][mask])
        return logits.float(), self.after[rows][mask], mask.nonzero()[:, 0]


def train_language_model(
    bank: Path, *, vocabulary: int, steps: int, batch: int, device: str, random_seed: int
) -> tuple[GemmaForCausalLM, dict[str, float]]:
    """Train; return the model in float32 on the CPU and the share of exactly answered held-out questions."""
    torch.manual_seed(random_seed)
    model = on(GemmaForCausalLM(gemma_config(vocabulary)), device)
    lessons = Lessons(bank, device)

    def loss_of(rows: Tensor) -> Tensor:
        logits, target, _ = lessons.logits_and_targets(model, rows)
        return F.cross_entropy(logits, target)

    train("language model", [model], loss_of, rows=len(lessons), steps=steps, batch=batch, learning_rate=2e-3,
          device=device, random_seed=random_seed)  # fmt: skip
    return model.eval().cpu(), _measure(on(model, device), lessons, device)


@torch.no_grad()
def _measure(model: GemmaForCausalLM, lessons: Lessons, device: str) -> dict[str, float]:
    """Teacher-forced exact answers for letters, other short answers and captions (longer than 6 tokens)."""
    rows = torch.tensor(list(held_out(len(lessons))), device=device)
    exact, length, letter = [], [], []
    letters = torch.tensor([make_tokenizer("gemma").convert_tokens_to_ids(x) for x in "ABCD"], device=device)
    for batch in rows.split(256):
        logits, target, owner = lessons.logits_and_targets(model, batch)
        errors = torch.zeros(len(batch), device=device).index_add_(0, owner, (logits.argmax(-1) != target).float())
        exact.append(errors == 0)
        length.append(lessons.supervised(batch).sum(1))
        first = lessons.after[batch].gather(1, lessons.answer[batch, None])[:, 0]
        letter.append(torch.isin(first, letters))
    ok, long, choice = torch.cat(exact), torch.cat(length) > 6, torch.cat(letter)
    model.cpu()
    share = lambda chosen: float(ok[chosen].float().mean()) if chosen.any() else 0.0  # noqa: E731
    return {"choice_exact": share(choice), "short_exact": share(~choice & ~long), "caption_exact": share(long)}
