"""Data-Juicer's image classifiers, many images a call. In: rows and operators. Out: stats, as the operators write them.

The operators themselves give their models one image a call and decode it anew each. Here a row's image is decoded once
for all classifiers of a list, by ``records.images``' one rule, and each model, the operator's own, is given batches.
What the numbers mean, and who is refused, stays the operator's. One of them classifies an image with its caption: that
is read as the row holds it when it is scored, into the operator's own tokens, padded to one length per batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bettersynth_assets.errors import UserError
from bettersynth_assets.images.decoding import chunks
from bettersynth_assets.images.pixels import as_pixels, resizing
from bettersynth_assets.models.batching import BatchSize, in_batches, threads_for
from bettersynth_assets.operators.data_juicer import MATCHING, BuiltOperator
from bettersynth_assets.operators.row_calls import ROW_ERRORS, STATS, Row

AT_ONCE = {"cpu": 64, "cuda": 256}
"""Images a call."""
PAIRS_AT_ONCE = {"cpu": 16, "cuda": 256}
"""Images with captions a call; BLIP's base model takes about 60 MB for each, in float32."""
KEPT_BYTES = 2_000_000_000
"""Of images as later classifiers read them (150 KB each at 224 pixels a side, 440 KB at 384), kept until they come."""
STEP = 16
"""Captions are padded to a multiple of so many tokens: there are few lengths for a device to plan for."""

Tokens = list[int]


def _second(logits: Any, operator: Any) -> Any:
    return logits.softmax(-1)[:, 1]


def _aesthetics(logits: Any, operator: Any) -> Any:
    return logits.flatten() / (10.0 if operator.need_normalized_by_ten else 1.0)


CLASSIFIERS: dict[str, tuple[str, str, Callable[[Any, Any], Any]]] = {
    "image_watermark_filter": ("image_watermark_prob", "logits", _second),
    "image_nsfw_filter": ("image_nsfw_score", "logits", _second),
    "image_aesthetics_filter": ("image_aesthetics_scores", "logits", _aesthetics),
    MATCHING: ("image_text_matching_score", "itm_score", _second),
}
"""By operator: its stat, the model's output (B, ...) that tells it, and from that to the stat's values (B,)."""


@dataclass(frozen=True, kw_only=True)
class _Model:
    """An operator's model."""

    model: Any
    prepare: Callable[[Any], Any]
    levels: Any
    image_bytes: int
    """Of what ``prepare`` makes of one image."""
    read: Callable[[list[str]], list[Tokens]] | None
    """From texts to tokens; None where the model sees images alone."""
    device: str
    dtype: Any
    batch: BatchSize
    parameters: int


def classifies(built: BuiltOperator) -> bool:
    """Whether ``classify`` is an operator's way; one that flips images is called as it is."""
    flips = (getattr(built.operator, f"{way}_flip", False) for way in ("horizontal", "vertical"))
    return built.name in CLASSIFIERS and not any(flips)


def classify(built: BuiltOperator, rows: Sequence[Row], later: Sequence[BuiltOperator]) -> dict[int, BaseException]:
    """Put a classifier's stat into each row.

    Args:
        built: one of those that ``classifies`` accepts.
        rows: those that reach it.
        later: classifiers that some of the rows will reach; what they read of the images is made now.

    Returns:
        Errors of images that cannot be decoded and captions that cannot be read, by the row's position.
    """
    own = _loaded(built)
    tokens = _tokens(own, [row.sample["text"] for row in rows])
    failed = {index: found for index, found in enumerate(tokens) if isinstance(found, BaseException)}

    def put(at: Sequence[int], pixels: Any) -> None:
        values = _values(built, own, pixels, [tokens[index] for index in at])
        for index, value in zip(at, values, strict=True):
            rows[index].sample[STATS][CLASSIFIERS[built.name][0]] = [value]

    size = own.batch.asked
    left = [index for index in range(len(rows)) if index not in failed]
    kept = [index for index in left if built in rows[index].pixels]
    for first in range(0, len(kept), size):
        part = kept[first : first + size]
        put(part, [rows[index].pixels.pop(built) for index in part])
    todo = sorted({*left} - {*kept})
    for part, others in _parts(todo, rows, later):
        prepares = [own.prepare, *(_loaded(other).prepare for other in others)]
        paths = [Path(rows[index].sample["images"][0]) for index in part]
        for chunk in chunks(paths, size, prepares, decode=built.decode, device=own.device):
            failed.update({part[at]: error for at, error in chunk.errors.items()})
            good = [part[at] for at in chunk.good]
            put(good, chunk.inputs[0])
            for other, inputs in zip(others, chunk.inputs[1:], strict=True):
                for index, pixels in zip(good, inputs.cpu(), strict=True):
                    rows[index].pixels[other] = pixels
    return dict(sorted(failed.items()))


def _parts(
    todo: list[int], rows: Sequence[Row], later: Sequence[BuiltOperator]
) -> Iterator[tuple[list[int], Sequence[BuiltOperator]]]:
    """Positions of rows whose images have to be decoded, and the classifiers for which they are kept.

    The first part are those for which there is room; the later classifiers decode the others anew.
    """
    # Rows of a chunk share its memory, which goes with the last of them.
    chunk = {pixels.untyped_storage().data_ptr(): pixels for row in rows for pixels in row.pixels.values()}
    held = sum(pixels.untyped_storage().nbytes() for pixels in chunk.values())
    each = sum(_loaded(other).image_bytes for other in later)
    room = max(0, KEPT_BYTES - held) // each if each else 0
    for part, others in ((todo[:room], later), (todo[room:], [])):
        if part:
            yield part, others


def _tokens(own: _Model, texts: list[str]) -> list[Tokens | BaseException]:
    """What the model reads of each text, or why it cannot; nothing where it sees images alone."""
    if own.read is None:
        return [[] for _ in texts]
    try:
        read = own.read(texts)
    except ROW_ERRORS as error:
        return [error] if len(texts) == 1 else [found for text in texts for found in _tokens(own, [text])]
    known = own.model.get_input_embeddings().num_embeddings
    return [
        tokens
        if max(tokens, default=0) < known
        else ValueError(f"its caption has token {max(tokens)}, and the model knows {known}: tokenizer of another model")
        for tokens in read
    ]


def _values(built: BuiltOperator, own: _Model, pixels: Any, tokens: Sequence[Any]) -> list[float]:
    """The stat's values of images as the model reads them (n, ...), each with its tokens."""
    _, output, score = CLASSIFIERS[built.name]

    def run(part: range) -> list[float]:
        import torch

        with torch.inference_mode(), threads_for(own.parameters):
            images = pixels[part.start : part.stop]
            inputs = {"pixel_values": as_pixels(images, own.prepare, own.levels, own.device, own.dtype)}
            if own.read is not None:
                inputs |= _padded(tokens[part.start : part.stop], own)
            found: list[float] = score(getattr(own.model(**inputs), output).float(), built.operator).tolist()
            return found

    return in_batches(range(len(tokens)), own.batch, run)  # type: ignore[arg-type]


def _padded(tokens: Sequence[Tokens], own: _Model) -> dict[str, Any]:
    """Captions as one input of a model, on its device: tokens and which of them count, both (B, length) int64."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    lengths = torch.tensor([len(row) for row in tokens])
    length = min(own.model.config.text_config.max_position_embeddings, -(-int(lengths.max()) // STEP) * STEP)
    rows = [torch.tensor(row) for row in tokens]
    padded = pad_sequence([*rows, torch.zeros(length, dtype=torch.int64)], batch_first=True)[:-1]
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": padded.to(own.device), "attention_mask": mask.to(own.device)}


@lru_cache(maxsize=8)
def _loaded(built: BuiltOperator) -> _Model:
    import torch
    from data_juicer.utils.model_utils import get_model
    from PIL import Image

    kind, reads_captions = "cpu" if built.rank is None else "cuda", built.name == MATCHING
    try:
        model, processor = get_model(built.operator.model_key, built.rank, built.rank is not None)
    except ROW_ERRORS as error:
        raise UserError(
            f"operator {built.name!r} with {built.limits}: its model cannot be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0]}): name a folder that holds it, or a hub id"
        ) from error
    prepare, levels = resizing(getattr(processor, "image_processor", processor))
    device = kind if built.rank is None else f"cuda:{built.rank}"
    dtype = getattr(torch, built.dtype)
    # A copy of its own: Data-Juicer hands the same model to whoever asks.
    model = (model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)).eval()
    return _Model(
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
