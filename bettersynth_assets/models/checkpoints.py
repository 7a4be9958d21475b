"""Checkpoints of transformers as this project loads them. In: a folder or hub id. Out: a model or its processor.

A weight that the checkpoint lacks is an error: transformers would draw it at random and only warn. Images are prepared
by the processor's Pillow variant: the variant for torchvision, which transformers prefers, rounds resized pixels
differently and so changes scores and captions.
"""

from __future__ import annotations

from typing import Any

from bettersynth_assets.errors import ConfigError

BACKEND = "pil"
"""The variant of an image processor that transformers is asked for."""


def load_model(model_class: Any, name: str, *, dtype: Any, called: str) -> Any:
    """Load a checkpoint, in evaluation mode, on the CPU.

    Args:
        model_class: of transformers.
        name: a folder or hub id.
        dtype: torch type of the weights.
        called: what the user calls it, for the error, e.g. ``models.clip = 'weights/clip'``.

    Raises:
        ConfigError: the checkpoint lacks weights of the class, or has some of another shape.
    """
    import transformers

    transformers.logging.disable_progress_bar()  # a bar per model on the step's stderr
    # Weights of another shape are listed like missing ones, in place of an error without the checkpoint's name.
    model, found = model_class.from_pretrained(
        name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    # Buffers are not weights: they follow from the configuration.
    parameters = {key for key, _ in model.named_parameters()}
    missing = sorted(parameters & {*found["missing_keys"], *(str(entry[0]) for entry in found["mismatched_keys"])})
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ConfigError(
            f"{called}: {len(missing)} weights of {model_class.__name__} are missing there or have another shape "
            f"({shown}): name a checkpoint of that class, with all its weights"
        )
    return model.eval()


def load_processor(name: str) -> Any:
    """A checkpoint's processor, or its image processor or tokenizer where it has only one."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(name, backend=BACKEND)
