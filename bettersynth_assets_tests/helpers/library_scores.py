"""Scores as the checkpoint's own library makes them, and how many tokens its tokenizer gives a caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def transformers_scores(
    folder: Path, images: Sequence[Any], captions: Sequence[str], *, limit: int, model_class: Any = None, **sizes: int
) -> list[float]:
    """The cosine of what ``AutoModel`` makes of the processor's own inputs, pair by pair.

    Args:
        folder: a checkpoint.
        images: RGB.
        captions: as many.
        limit: tokens of the longest caption that is not cut.
        model_class: in place of the one that the checkpoint's configuration names.
        sizes: for the processor, where it would take others than the checkpoint's.
    """
    import torch
    from transformers import AutoModel, AutoProcessor

    model = (model_class or AutoModel).from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    settings: dict[str, Any] = {"truncation": True, "max_length": limit, "return_tensors": "pt", **sizes}
    if "siglip" in model.config.model_type:
        settings["padding"] = "max_length"
    found = []
    for image, caption in zip(images, captions, strict=True):
        inputs = processor(text=caption, images=image, **settings)
        with torch.inference_mode():
            outputs = model(**inputs)
        found.append(torch.cosine_similarity(outputs.image_embeds, outputs.text_embeds).item())
    return found


def open_clip_scores(folder: Path, images: Sequence[Any], captions: Sequence[str]) -> list[float]:
    """The cosine of OpenCLIP's own embeddings."""
    import open_clip
    import torch

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        made = model.eval().encode_image(torch.stack([transform(image) for image in images]))
        return torch.cosine_similarity(made, model.encode_text(tokenizer(list(captions)))).tolist()


def token_counter(folder: Path) -> Callable[[str], int]:
    """A function from a caption to the number of its tokens, start and end among them."""
    if not (folder / "open_clip_config.json").is_file():
        from transformers import AutoTokenizer

        plain = AutoTokenizer.from_pretrained(folder)
        return lambda caption: len(plain(caption, verbose=False)["input_ids"])
    import open_clip

    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return lambda caption: len(tokenizer.encode(caption)) + 2
    return lambda caption: len(tokenizer.tokenizer(tokenizer.clean_fn(caption), verbose=False)["input_ids"])
