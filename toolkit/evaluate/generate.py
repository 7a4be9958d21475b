"""Batched greedy answers. In: prompts, each with its picture. Out: their answers, in the order of the prompts.

Prompts are padded on the left and batches hold prompts of like length and the same pictures side by side, so that a
picture asked about several times in a batch is encoded once. In float32 the answers are those of one prompt at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from toolkit.data.feature_cache import FeatureCache
from toolkit.mgm.conversation import END
from toolkit.mgm.images import read_image
from toolkit.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.mgm.processing_mgm import MGMProcessor
from toolkit.mgm.towers import TowerFeatures


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question about one picture: its file, or its bytes. ``id`` is named in errors."""

    id: str
    image: Path | bytes
    text: str


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A model that answers.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same checkpoint.
        batch_size: prompts at a time.
        max_new_tokens: longest answer; the kit's 128.
        cache: features of the frozen towers, shared by checkpoints with the same towers; None runs them here.
    """

    model: MGMGemmaForCausalLM
    processor: MGMProcessor
    batch_size: int = 32
    max_new_tokens: int = 128
    cache: FeatureCache | None = None

    def __call__(self, prompts: Sequence[Prompt], on_batch: Callable[[int], None] = lambda done: None) -> list[str]:
        """Answer all prompts; ``on_batch`` hears how many are done.

        Raises:
            ImageError: a picture that cannot be read; the message names the prompt.
        """
        ids = [self.processor.encode_prompt(f"<image>\n{prompt.text}") for prompt in prompts]
        if self.cache is not None:
            self.cache.fill({prompt.image: prompt.id for prompt in prompts})
        order = sorted(range(len(prompts)), key=lambda i: (len(ids[i]), hash_of(prompts[i].image), i))
        answers = [""] * len(prompts)
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                texts = self._answer([prompts[i] for i in chosen], [ids[i] for i in chosen], pool)
                for i, text in zip(chosen, texts, strict=True):
                    answers[i] = text
                on_batch(start + len(chosen))
        return answers

    @torch.inference_mode()
    def _answer(self, prompts: Sequence[Prompt], ids: Sequence[list[int]], pool: ThreadPoolExecutor) -> list[str]:
        pictures: dict[Path | bytes, str] = {prompt.image: prompt.id for prompt in prompts}
        numbers = {image: number for number, image in enumerate(pictures)}
        embeds = self.model.project_images(self._features(pictures, pool))[
            [numbers[prompt.image] for prompt in prompts]
        ]

        tokenizer = self.processor.tokenizer
        longest = max(map(len, ids))
        pad = tokenizer.pad_token_id or 0
        padded = torch.tensor([[pad] * (longest - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
        stop = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)]
        new = self.model.generate(
            padded.to(self.model.device), attention_mask=mask.to(self.model.device), image_embeds=embeds,
            do_sample=False, max_new_tokens=self.max_new_tokens, eos_token_id=stop, pad_token_id=pad,
        )  # fmt: skip
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _features(self, pictures: Mapping[Path | bytes, str], pool: ThreadPoolExecutor) -> TowerFeatures:
        device, dtype = self.model.device, self.model.dtype
        if self.cache is not None:
            stored = self.cache.load(list(pictures))
            return TowerFeatures(stored.low.to(device, dtype), tuple(m.to(device, dtype) for m in stored.maps))
        read = list(pool.map(lambda item: read_image(item[0], sample_id=item[1]), pictures.items()))
        pixels = self.processor.preprocess(read, aspect="pad")
        return self.model.encode_images(*(p.to(device, dtype) for p in pixels))


def hash_of(image: Path | bytes) -> str:
    """A key that brings prompts of the same picture together."""
    return str(image) if isinstance(image, Path) else image[-64:].hex()
