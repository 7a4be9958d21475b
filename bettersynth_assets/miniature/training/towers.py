"""Trains both image towers of MGM by contrastive learning with captions only.

In: bank. Out: a ``CLIPVisionModel`` (84 px, patch 14) and timm's ConvNeXt (192 px), whose 6x6 tokens stay local.

The loss is a sum of two contrasts. Global: the mean of all projected tokens against the mean of all words (which scene
is it). Local: each word against the token that fits it best (late interaction, as in FILIP: where is it). Captions of
different scenes rarely differ in one shape or sign word only. Every image is therefore also contrasted with corrupted
versions of its own caption, and every sign with the captions of other words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from bettersynth_assets.miniature.tokenizer import base_tokenizer
from bettersynth_assets.miniature.training.bank import load
from bettersynth_assets.miniature.training.loop import held_out, train
from bettersynth_assets.miniature.world import COLORS, SHAPES, SIZES, WORDS

CLIP_SIDE, GRID = 84, 6
KEPT_LAYERS = 4
"""Layers that ship; the fifth only maps to the contrastive space. MGM reads ``hidden_states[-2]`` of these."""

CLIP_FIELDS: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 4,
    "image_size": CLIP_SIDE, "patch_size": 14, "projection_dim": 128, "hidden_act": "gelu",
}  # fmt: skip
CONVNEXT_DEPTHS, CONVNEXT_DIMS = (1, 1, 3, 1), (16, 32, 64, 128)
WRONG_COPIES = 2
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def normalise(pixels: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float, normalised with CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def word_families(device: str) -> list[Tensor]:
    """Ids of sign words, shapes, colours and sizes, as they occur inside a caption."""
    find = base_tokenizer().token_to_id
    families = (WORDS, SHAPES, tuple(COLORS), SIZES)
    return [torch.tensor([find(f"Ġ{word}") for word in family], device=device) for family in families]


class TextEncoder(nn.Module):
    """Text encoder: a small transformer. ids (B, L), 0 = padding -> (B, L, width)."""

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 3, length: int = 48) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed(ids) + self.positions[: ids.shape[1]]
        return self.blocks(hidden, src_key_padding_mask=ids == 0)


class Contrast(nn.Module):
    """Projects tokens and words to one space and contrasts them; see the module docstring."""

    def __init__(self, width: int, text_encoder: TextEncoder, text_width: int = 128, space: int = 64) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.norm = nn.LayerNorm(width)
        self.image_out, self.text_out = nn.Linear(width, 2 * space), nn.Linear(text_width, 2 * space)
        self.scale = nn.Parameter(torch.tensor([2.7, 2.7]))

    def similarities(self, tokens: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, width) and (C, L) -> cosine of the means (B, C) and mean best cosine of the words (B, C)."""
        real = (ids != 0).unsqueeze(-1)
        image_mean, image_local = self.image_out(self.norm(tokens)).chunk(2, dim=-1)
        text_mean, text_local = self.text_out(self.text_encoder(ids)).chunk(2, dim=-1)
        global_scores = F.normalize(image_mean.mean(1), dim=-1) @ F.normalize((text_mean * real).sum(1), dim=-1).T
        image_local, text_local = F.normalize(image_local, dim=-1), F.normalize(text_local, dim=-1)
        pairs = torch.einsum("bnd,cld->bcnl", image_local, text_local).amax(dim=2)
        local_scores = (pairs * real.squeeze(-1)).sum(-1) / real.sum(1).squeeze(-1)
        return global_scores, local_scores

    def against_wrong(self, tokens: Tensor, ids: Tensor, corrupted_ids: Tensor) -> Tensor:
        """Contrast each image's caption (B, L) with its K corrupted versions (B, K, L); return the loss."""
        candidates = torch.cat([ids[:, None], corrupted_ids], dim=1)
        count, length = candidates.shape[1:]
        real = (candidates != 0).unsqueeze(-1)
        image_mean, image_local = self.image_out(self.norm(tokens)).chunk(2, dim=-1)
        text = self.text_out(self.text_encoder(candidates.flatten(0, 1))).view(len(ids), count, length, -1)
        text_mean, text_local = text.chunk(2, dim=-1)
        global_scores = torch.einsum(
            "bd,bkd->bk", F.normalize(image_mean.mean(1), dim=-1), F.normalize((text_mean * real).sum(2), dim=-1)
        )
        image_local, text_local = F.normalize(image_local, dim=-1), F.normalize(text_local, dim=-1)
        best = torch.einsum("bnd,bkld->bknl", image_local, text_local).amax(dim=2)
        local = (best * real.squeeze(-1)).sum(-1) / real.sum(2).squeeze(-1)
        target = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        scales = self.scale.exp().clamp(max=100)
        return sum(
            (F.cross_entropy((similarity * scale).float(), target) / 2)
            for similarity, scale in zip((global_scores, local), scales, strict=True)
        )  # type: ignore[return-value]

    def forward(self, tokens: Tensor, ids: Tensor) -> Tensor:
        target = torch.arange(len(ids), device=ids.device)
        scales = self.scale.exp().clamp(max=100)
        loss = tokens.new_zeros(())
        for similarity, scale in zip(self.similarities(tokens, ids), scales, strict=True):
            logits = (similarity * scale).float()
            loss = loss + F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        return loss / 4


def corrupted(ids: Tensor, families: list[Tensor], copies: int) -> Tensor:
    """Replace half of the words of each family: (B, L) -> (B, copies, L).

    Args:
        ids: captions, 0 = padding.
        families: ids of words that can replace each other.
        copies: corrupted versions of each caption.
    """
    result = ids[:, None].repeat(1, copies, 1)
    for family in families:
        drawn = family[torch.randint(len(family), result.shape, device=ids.device)]
        change = torch.isin(result, family) & (torch.rand(result.shape, device=ids.device) < 0.5)
        result = torch.where(change, drawn, result)
    return result


class SignCaptions:
    """Captions of one sign, "blue sign saying fox", in every colour with every word.

    Each sign of an image is contrasted with its own caption and the 15 that differ only in the word. Scenes can be
    distinguished without their words, so without this loss no tower learns to read.
    """

    def __init__(self, device: str) -> None:
        encode, find = base_tokenizer().encode, base_tokenizer().token_to_id
        texts = [encode(f"{color} sign saying {word}").ids for color in COLORS for word in WORDS]
        assert len({len(text) for text in texts}) == 1, "each word of a sign's caption must be one token"
        self.ids = torch.tensor(texts, device=device)
        self.saying: Any = find("\u0120saying")
        self.word_of = torch.full((base_tokenizer().get_vocab_size(),), -1, device=device)
        self.color_of = self.word_of.clone()
        for number, word in enumerate(WORDS):
            self.word_of[find(f"\u0120{word}")] = number
        for number, color in enumerate(COLORS):
            self.color_of[[find(color), find(f"\u0120{color}")]] = number

    def loss(self, contrast: Contrast, tokens: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Contrast over the 16 words; return the loss and the share of signs whose own word scores highest.

        Args:
            contrast: the two projections.
            tokens: (B, N, width) image tokens. ids: (B, L) full captions of the images.
        """
        row, position = (ids == self.saying).nonzero(as_tuple=True)
        word, color = self.word_of[ids[row, position + 1]], self.color_of[ids[row, position - 2]]
        image = F.normalize(contrast.image_out(contrast.norm(tokens)).chunk(2, dim=-1)[1], dim=-1)
        text = F.normalize(contrast.text_out(contrast.text_encoder(self.ids)).chunk(2, dim=-1)[1], dim=-1)
        captions = text.view(len(COLORS), len(WORDS), *text.shape[1:])[color]
        best = torch.einsum("snd,swld->swnl", image[row], captions).amax(dim=2).mean(-1)
        logits = (best * contrast.scale[1].exp().clamp(max=100)).float()
        return F.cross_entropy(logits, word), (logits.argmax(1) == word).float().mean()


class _ClipTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(CLIPVisionConfig(**CLIP_FIELDS))

    def forward(self, pixels: Tensor) -> Tensor:
        low = F.interpolate(normalise(pixels), size=(CLIP_SIDE, CLIP_SIDE), mode="bilinear", align_corners=False)
        return self.tower(low).last_hidden_state[:, 1:]


class _ConvNextTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = ConvNeXt(depths=CONVNEXT_DEPTHS, dims=CONVNEXT_DIMS, num_classes=0, ls_init_value=0.1)

    def forward(self, pixels: Tensor) -> Tensor:
        images = normalise(pixels).contiguous(memory_format=torch.channels_last)
        return self.tower.stages(self.tower.stem(images)).flatten(2).transpose(1, 2)


def train_tower(
    kind: str, bank: Path, *, vocabulary: int, steps: int, batch: int, device: str, random_seed: int
) -> tuple[nn.Module, dict[str, float]]:
    """Train one tower.

    Args:
        kind: ``clip`` or ``convnext``.
        bank: folder written by ``bank.py``.

    Returns:
        The bare tower in float32 on the CPU (CLIP cut to ``KEPT_LAYERS``), and its retrieval figures.
    """
    torch.manual_seed(random_seed)
    tokens: _ClipTokens | _ConvNextTokens = (_ClipTokens() if kind == "clip" else _ConvNextTokens()).to(device)
    contrast = Contrast(128, TextEncoder(vocabulary)).to(device)
    pixels, ids = load(bank, "square", device), load(bank, "rich", device)
    ids = ids[..., : int((ids != 0).sum(-1).max())]

    families, signs = word_families(device), SignCaptions(device)

    def loss_of(rows: Tensor) -> Tensor:
        captions, features = ids[rows, int(rows[0]) % 2], tokens(pixels[rows])
        corrupted_ids = corrupted(captions, families, WRONG_COPIES)
        loss = contrast(features, captions) + contrast.against_wrong(features, captions, corrupted_ids)
        return loss + signs.loss(contrast, features, captions)[0]

    train(f"tower {kind}", [tokens, contrast], loss_of, rows=len(pixels), steps=steps, batch=batch,
          learning_rate=1e-3, device=device, random_seed=random_seed)  # fmt: skip
    figures = _retrieval(tokens.eval(), contrast.eval(), pixels, ids)
    tower = tokens.tower.cpu()
    if isinstance(tower, CLIPVisionModel):
        del tower.encoder.layers[KEPT_LAYERS:]
        tower.config.num_hidden_layers = KEPT_LAYERS
    return tower, figures


@torch.no_grad()
def _retrieval(tokens: nn.Module, contrast: Contrast, pixels: Tensor, ids: Tensor) -> dict[str, float]:
    """Retrieval accuracy on held-out rows.

    Share of images whose own caption ranks first among at most 1,024, and of signs whose own word ranks first of 16.
    """
    rows = torch.tensor(list(held_out(len(pixels)))[:1024], device=pixels.device)
    features = torch.cat([tokens(pixels[batch]) for batch in rows.split(256)])
    hits = torch.zeros(2)
    for start in range(0, len(rows), 64):
        for k, similarity in enumerate(contrast.similarities(features[start : start + 64], ids[rows, 0])):
            targets = torch.arange(start, start + len(similarity), device=pixels.device)
            hits[k] += (similarity.argmax(1) == targets).sum().cpu()
    reading = SignCaptions(str(pixels.device)).loss(contrast, features, ids[rows, 0])[1]
    return {
        "reading": float(reading),
        "candidates": len(rows),
        "r_at_1_mean": float(hits[0]) / len(rows),
        "r_at_1_local": float(hits[1]) / len(rows),
    }
