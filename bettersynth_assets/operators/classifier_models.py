"""Batched models of Data-Juicer's image classifiers. In: images and texts. Out: values of their stats.

Uses the operators' own models and score functions. The image-text matching operator also reads captions: they are
tokenised by the operator's tokenizer and padded to one length per batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.operators.built import BuiltOperator
from bettersynth_assets.operators.operator_calls import attempt, operator_context
from bettersynth_assets.operators.spec import ClassifierHead

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn
    from transformers import PreTrainedModel, ProcessorMixin

AT_ONCE = {"cpu": 64, "cuda": 256}
"""Images per call."""
PAIRS_AT_ONCE = {"cpu": 16, "cuda": 256}
"""Image-caption pairs per call; BLIP's base model needs about 60 MB for each, in float32."""
STEP = 16
"""Captions are padded to a multiple of this many tokens, so that a device sees few different lengths."""

Tokens = list[int]


@dataclass(frozen=True, kw_only=True)
class ClassifierModel:
    """An operator's model with its preprocessing."""

    operator: BuiltOperator
    head: ClassifierHead
    model: PreTrainedModel
    prepare: Callable[[Image.Image], Tensor]
    """Converts an RGB image to a uint8 tensor, or to a float tensor if there are no ``levels``."""
    levels: Tensor | None
    image_bytes: int
    """Size of one image after ``prepare``."""
    tokenize: Callable[[list[str]], list[Tokens]] | None
    """Tokenises texts; None if the model reads images only."""
    device: str
    dtype: torch.dtype
    batch: BatchSize
    parameters: int

    def tokens(self, texts: list[str]) -> list[Tokens | BaseException]:
        """Tokenise texts, or return why a text cannot be read; empty lists if the model reads images only."""
        if self.tokenize is None:
            return [[] for _ in texts]
        rows, error = attempt(lambda: self.tokenize(texts) if self.tokenize else [])
        if error is not None:
            return [error] if len(texts) == 1 else [tokenized for text in texts for tokenized in self.tokens([text])]
        vocabulary_size = cast("nn.Embedding", self.model.get_input_embeddings()).num_embeddings
        return [
            tokens
            if max(tokens, default=0) < vocabulary_size
            else ValueError(
                f"its caption has token {max(tokens)}, and the model knows {vocabulary_size}: tokenizer of another "
                "model"
            )
            for tokens in rows or []
        ]

    def values(self, pixels: Sequence[Tensor], tokens: Sequence[Tokens]) -> list[float]:
        """Compute the stat's values.

        Args:
            pixels: images from ``prepare``, (n, ...) or n tensors.
            tokens: the texts' tokens, length n.
        """
        head = self.head

        def run(batch: range) -> list[float]:
            import torch

            with torch.inference_mode(), threads_for(self.parameters):
                images = pixels[batch.start : batch.stop]
                inputs = {"pixel_values": as_pixels(images, self.prepare, self.levels, self.device, self.dtype)}
                if self.tokenize is not None:
                    inputs |= self._padded(tokens[batch.start : batch.stop])
                output = getattr(self.model(**inputs), head.output)
                values: list[float] = head.score(output.float(), self.operator.operator).tolist()
                return values

        return in_batches(range(len(tokens)), self.batch, run)

    def _padded(self, tokens: Sequence[Tokens]) -> dict[str, Tensor]:
        """Return padded tokens and their mask on the device, both (B, length) int64."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        lengths = torch.tensor([len(row) for row in tokens])
        limit = self.model.config.text_config.max_position_embeddings
        length = min(limit, -(-int(lengths.max()) // STEP) * STEP)
        rows = [torch.tensor(row) for row in tokens]
        padded = pad_sequence([*rows, torch.zeros(length, dtype=torch.int64)], batch_first=True)[:-1]
        mask = (torch.arange(length) < lengths[:, None]).long()
        return {"input_ids": padded.to(self.device), "attention_mask": mask.to(self.device)}


@lru_cache(maxsize=8)
def load_classifier(built: BuiltOperator, head: ClassifierHead, dtype_name: str) -> ClassifierModel:
    """Load an operator's model to its device, once per process.

    Raises:
        OperatorError: the model cannot be loaded.
    """
    import torch
    from data_juicer.utils.model_utils import get_model
    from PIL import Image

    kind = "cpu" if built.rank is None else "cuda"
    reads_captions = head.reads_caption
    fix = "set a folder with the model, or a hub id"
    with operator_context(built.name, built.limits, "while its model was loaded", fix):
        model, processor = get_model(built.operator.model_key, built.rank, built.rank is not None)
    prepare, levels = resizing(getattr(processor, "image_processor", processor))
    device = kind if built.rank is None else f"cuda:{built.rank}"
    dtype = getattr(torch, dtype_name)
    # Copy the model before a conversion, because Data-Juicer shares it between all callers.
    model = (model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)).eval()
    return ClassifierModel(
        operator=built,
        head=head,
        model=model,
        prepare=prepare,
        levels=None if levels is None else levels.to(device),
        image_bytes=prepare(Image.new("RGB", (64, 64))).nbytes,
        tokenize=_tokenize_function(processor, model) if reads_captions else None,
        device=device,
        dtype=dtype,
        batch=BatchSize((PAIRS_AT_ONCE if reads_captions else AT_ONCE)[kind]),
        parameters=sum(weight.numel() for weight in model.parameters()),
    )


def _tokenize_function(processor: ProcessorMixin, model: PreTrainedModel) -> Callable[[list[str]], list[Tokens]]:
    """Tokenise like the matching operator, whose single image is in the first chunk of a row's text."""
    from data_juicer.utils.mm_utils import SpecialTokens, remove_special_tokens

    context = model.config.text_config.max_position_embeddings

    def tokenize(texts: list[str]) -> list[Tokens]:
        captions = [remove_special_tokens(text.split(SpecialTokens.eoc)[0]) for text in texts]
        token_ids: list[Tokens] = processor(text=captions, truncation=True, max_length=context)["input_ids"]
        return token_ids

    return tokenize
