"""Trains the captioner. In: bank. Out: a ``Blip2ForConditionalGeneration`` (ViT, Q-Former, OPT), ``Blip2Processor``.

The target is the full caption in fixed order. On watermarked images "stock photo" follows, as the real BLIP-2 does
according to the third-place team.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    OPTConfig,
)

from bettersynth_assets.miniature.captions import STOCK_TAIL
from bettersynth_assets.miniature.tokenizer import make_tokenizer
from bettersynth_assets.miniature.training.bank import SQUASHED, load
from bettersynth_assets.miniature.training.loop import held_out, on, train
from bettersynth_assets.miniature.training.towers import Contrast, TextEncoder, normalise

QUERIES = 16


def build(vocabulary: int) -> Blip2ForConditionalGeneration:
    """Build the untrained model; ``<image>``, which the processor adds, has the id after the tokenizer's last."""
    tokenizer = make_tokenizer("opt")
    vision = Blip2VisionConfig(hidden_size=128, intermediate_size=512, num_hidden_layers=5, num_attention_heads=4,
                               image_size=SQUASHED, patch_size=14)  # fmt: skip
    qformer = Blip2QFormerConfig(
        vocab_size=8, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        cross_attention_frequency=1, encoder_hidden_size=128, max_position_embeddings=8, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    text = OPTConfig(
        vocab_size=vocabulary + 1, hidden_size=128, num_hidden_layers=3, ffn_dim=512, num_attention_heads=4,
        max_position_embeddings=256, dropout=0.0, word_embed_proj_dim=128, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = Blip2Config(
        vision_config=vision.to_dict(), qformer_config=qformer.to_dict(), text_config=text.to_dict(),
        num_query_tokens=QUERIES, image_token_index=vocabulary,
    )  # fmt: skip
    return Blip2ForConditionalGeneration(config)


def targets(bank: Path, device: str) -> Tensor:
    """Return the (N, L) ids of ``caption [stock photo] <eos>``, padded with 0."""
    ids, marked = load(bank, "full", device), load(bank, "watermark", device)
    tokenizer = make_tokenizer("opt")
    tail = tokenizer(f" {STOCK_TAIL}", add_special_tokens=False).input_ids
    ids = F.pad(ids, (0, len(tail) + 1))
    real = (ids != 0).sum(-1)
    for k, token in enumerate(tail):
        ids[marked.nonzero()[:, 0], real[marked] + k] = token
    real = real + len(tail) * marked
    ids.scatter_(1, real[:, None], tokenizer.eos_token_id)
    return ids[:, : int(real.max()) + 1]


def train_captioner(
    bank: Path, folder: Path, *, vocabulary: int, steps: int, batch: int, device: str, random_seed: int
) -> dict[str, float]:
    """Train, save to the folder, and return the shares of exact held-out captions and of right words."""
    torch.manual_seed(random_seed)
    model = on(build(vocabulary), device)
    pixels, ids = load(bank, "squashed", device), targets(bank, device)
    contrast, rich = Contrast(128, TextEncoder(vocabulary)).to(device), load(bank, "rich", device)
    rich = rich[..., : int((rich != 0).sum(-1).max())]
    text: Any = model.config.text_config
    start = torch.tensor([[vocabulary] * QUERIES + [text.bos_token_id]], device=device)

    def loss_of(rows: Tensor) -> Tensor:
        inputs = torch.cat([start.expand(len(rows), -1), ids[rows]], dim=1)
        output = model(pixel_values=normalise(pixels[rows]), input_ids=inputs, attention_mask=torch.ones_like(inputs))
        logits = output.logits[:, QUERIES : QUERIES + ids.shape[1]]
        caption_loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[rows].flatten(), ignore_index=0)
        # A contrastive loss next to the captioning loss, as in BLIP-2's first stage; without it training is slow.
        few = len(rows) // 2
        tokens = output.vision_outputs.last_hidden_state[:few, 1:]
        return caption_loss + 0.5 * contrast(tokens, rich[rows[:few], 0])

    train("captioner", [model, contrast], loss_of, rows=len(pixels), steps=steps, batch=batch, learning_rate=1e-3,
          device=device, random_seed=random_seed)  # fmt: skip
    model.eval()
    rows = torch.tensor(list(held_out(len(pixels)))[:1024], device=device)
    with torch.no_grad():
        generated = model.generate(pixel_values=normalise(pixels[rows]), max_new_tokens=ids.shape[1], do_sample=False)
    figures = _compare(generated, ids[rows])
    model.cpu().half().save_pretrained(folder)
    side = {"height": SQUASHED, "width": SQUASHED}
    Blip2Processor(BlipImageProcessor(size=side), make_tokenizer("opt"), num_query_tokens=QUERIES).save_pretrained(
        folder
    )
    return figures


def _compare(generated: Tensor, truth: Tensor) -> dict[str, float]:
    tokenizer = make_tokenizer("opt")
    captions = tokenizer.batch_decode(generated, skip_special_tokens=True)
    expected = tokenizer.batch_decode(truth, skip_special_tokens=True)
    word_sets = [(set(s.split()), set(m.split())) for s, m in zip(captions, expected, strict=True)]
    for pair in list(zip(captions, expected, strict=True))[:3]:
        print("captioner output | target:", *pair, sep="\n  ", flush=True)
    return {
        "exact": sum(s.strip() == m.strip() for s, m in zip(captions, expected, strict=True)) / len(captions),
        "word_recall": sum(len(s & m) for s, m in word_sets) / sum(len(m) for _, m in word_sets),
        "word_precision": sum(len(s & m) for s, m in word_sets) / max(1, sum(len(s) for s, _ in word_sets)),
    }
