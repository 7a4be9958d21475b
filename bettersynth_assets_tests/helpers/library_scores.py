"""Scores computed by a checkpoint's library, and the number of tokens that its tokenizer gives a caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def transformers_scores(
    folder: Path, images: Sequence[Any], captions: Sequence[str], *, limit: int, model_class: Any = None, **sizes: int
) -> list[float]:
    """Return the cosine of the embeddings of ``AutoModel`` with the inputs of its processor, pair by pair.

    Args:
        folder: a checkpoint.
        images: RGB.
        captions: as many.
        limit: maximum number of tokens of a caption.
        model_class: replaces the class in the checkpoint's configuration.
        sizes: for the processor, if it would not use those of the checkpoint.
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
    """Return the cosine of OpenCLIP's embeddings."""
    import open_clip
    import torch

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        embeddings = model.eval().encode_image(torch.stack([transform(image) for image in images]))
        return torch.cosine_similarity(embeddings, model.encode_text(tokenizer(list(captions)))).tolist()


def token_counter(folder: Path) -> Callable[[str], int]:
    """Return a function from a caption to its number of tokens, including start and end."""
    if not (folder / "open_clip_config.json").is_file():
        from transformers import AutoTokenizer

        plain = AutoTokenizer.from_pretrained(folder)
        return lambda caption: len(plain(caption, verbose=False)["input_ids"])
    import open_clip

    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        return lambda caption: len(tokenizer.encode(caption)) + 2
    return lambda caption: len(tokenizer.tokenizer(tokenizer.clean_fn(caption), verbose=False)["input_ids"])
