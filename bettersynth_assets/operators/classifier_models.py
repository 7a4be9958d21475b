"""Models of Data-Juicer's image classifiers, many images a call. In: images and texts. Out: values of their stats.

The operators' own models and what their numbers mean. One of them classifies an image with its caption: that is read
into the operator's own tokens, and padded to one length per batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.data_juicer import BuiltOperator
from bettersynth_assets.operators.guarded import attempt, guarded
from bettersynth_assets.operators.spec import ClassifierHead

AT_ONCE = {"cpu": 64, "cuda": 256}
"""Images a call."""
PAIRS_AT_ONCE = {"cpu": 16, "cuda": 256}
"""Images with captions a call; BLIP's base model takes about 60 MB for each, in float32."""
STEP = 16
"""Captions are padded to a multiple of so many tokens: there are few lengths for a device to plan for."""

Tokens = list[int]


@dataclass(frozen=True, kw_only=True)
class ClassifierModel:
    """An operator's model."""

    operator: BuiltOperator
    head: ClassifierHead
    model: Any
    prepare: Callable[[Any], Any]
    """From an RGB image to a uint8 tensor, or a float one where there are no ``levels``."""
    levels: Any
    image_bytes: int
    """Of what ``prepare`` makes of one image."""
    read: Callable[[list[str]], list[Tokens]] | None
    """From texts to tokens; None where the model sees images alone."""
    device: str
    dtype: Any
    batch: BatchSize
    parameters: int

    def tokens(self, texts: list[str]) -> list[Tokens | BaseException]:
        """What the model reads of each text, or why it cannot; nothing where it sees images alone."""
        if self.read is None:
            return [[] for _ in texts]
        read, error = attempt(lambda: self.read(texts) if self.read else [])
        if error is not None:
            return [error] if len(texts) == 1 else [found for text in texts for found in self.tokens([text])]
        known = self.model.get_input_embeddings().num_embeddings
        return [
            tokens
            if max(tokens, default=0) < known
            else ValueError(
                f"its caption has token {max(tokens)}, and the model knows {known}: tokenizer of another model"
            )
            for tokens in read or []
        ]

    def values(self, pixels: Any, tokens: Sequence[Any]) -> list[float]:
        """The stat's values.

        Args:
            pixels: images as ``prepare`` makes them, (n, ...) or n of them.
            tokens: what goes with each, length n.
        """
        head = self.head

        def run(part: range) -> list[float]:
            import torch

            with torch.inference_mode(), threads_for(self.parameters):
                images = pixels[part.start : part.stop]
                inputs = {"pixel_values": as_pixels(images, self.prepare, self.levels, self.device, self.dtype)}
                if self.read is not None:
                    inputs |= self._padded(tokens[part.start : part.stop])
                made = getattr(self.model(**inputs), head.output)
                found: list[float] = head.score(made.float(), self.operator.operator).tolist()
                return found

        return in_batches(range(len(tokens)), self.batch, run)  # type: ignore[arg-type]

    def _padded(self, tokens: Sequence[Tokens]) -> dict[str, Any]:
        """One input on the device: tokens and which of them count, both (B, length) int64."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        lengths = torch.tensor([len(row) for row in tokens])
        most = self.model.config.text_config.max_position_embeddings
        length = min(most, -(-int(lengths.max()) // STEP) * STEP)
        rows = [torch.tensor(row) for row in tokens]
        padded = pad_sequence([*rows, torch.zeros(length, dtype=torch.int64)], batch_first=True)[:-1]
        mask = (torch.arange(length) < lengths[:, None]).long()
        return {"input_ids": padded.to(self.device), "attention_mask": mask.to(self.device)}


@lru_cache(maxsize=8)
def load_classifier(built: BuiltOperator) -> ClassifierModel:
    """An operator's model on its device; loaded once per process.

    Raises:
        OperatorError: it cannot be loaded.
    """
    import torch
    from data_juicer.utils.model_utils import get_model
    from PIL import Image

    kind, head = "cpu" if built.rank is None else "cuda", spec_of(built.name).classifier
    assert head is not None
    reads_captions = head.reads_caption
    with guarded(built.name, built.limits, "when its model was loaded", "name a folder that holds it, or a hub id"):
        model, processor = get_model(built.operator.model_key, built.rank, built.rank is not None)
    prepare, levels = resizing(getattr(processor, "image_processor", processor))
    device = kind if built.rank is None else f"cuda:{built.rank}"
    dtype = getattr(torch, built.dtype)
    # A copy of its own: Data-Juicer hands the same model to whoever asks.
    model = (model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)).eval()
    return ClassifierModel(
        operator=built,
        head=head,
        model=model,
        prepare=prepare,
        levels=None if levels is None else levels.to(device),
        image_bytes=prepare(Image.new("RGB", (64, 64))).nbytes,
        read=_reader(processor, model.config.text_config.max_position_embeddings) if reads_captions else None,
        device=device,
        dtype=dtype,
        batch=BatchSize((PAIRS_AT_ONCE if reads_captions else AT_ONCE)[kind]),
        parameters=sum(weight.numel() for weight in model.parameters()),
    )


def _reader(processor: Any, context: int) -> Callable[[list[str]], list[Tokens]]:
    """Tokens as the matching operator makes them of a row's text, whose one image stands in its first chunk."""
    from data_juicer.utils.mm_utils import SpecialTokens, remove_special_tokens

    def read(texts: list[str]) -> list[Tokens]:
        captions = [remove_special_tokens(text.split(SpecialTokens.eoc)[0]) for text in texts]
        found: list[Tokens] = processor(text=captions, truncation=True, max_length=context)["input_ids"]
        return found

    return read
