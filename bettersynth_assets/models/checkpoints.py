"""Loads transformers checkpoints. In: a folder or hub id. Out: a model or its processor.

A weight that the checkpoint lacks is an error; transformers would initialise it at random and only warn. Safetensors
files have precedence; ``.bin`` files are loaded with ``weights_only``, so code in them does not run. Images are
prepared by the processor's Pillow variant: the torchvision variant, which transformers prefers, rounds resized pixels
differently and so changes scores and captions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from bettersynth_assets.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BACKEND = "pil"
"""Variant of image processors that transformers is asked for."""


@contextmanager
def tensors_only(label: str) -> Iterator[None]:
    """Report a ``.bin`` file that ``torch.load`` refused because it holds more than tensors.

    Args:
        label: the checkpoint's name for the user, for the error.

    Raises:
        ConfigError: there is such a file.
    """
    try:
        yield
    except UnpicklingError as error:
        raise ConfigError(
            f"{label}: its weights are a pickle that holds more than tensors, and such files are never loaded: use a "
            "checkpoint in safetensors"
        ) from error


def load_model(model_class: type[PreTrainedModel], name: str, *, dtype: torch.dtype, label: str) -> Any:
    """Load a checkpoint in evaluation mode on the CPU.

    Args:
        model_class: class of transformers.
        name: a folder or hub id.
        dtype: torch type of the weights.
        label: the checkpoint's name for the user, for errors, e.g. ``models.clip = 'weights/clip'``.

    Raises:
        ConfigError: the checkpoint lacks weights of the class, has some of another shape, or is a pickle with code.
    """
    import transformers

    transformers.logging.disable_progress_bar()  # one bar per model on the step's stderr
    # List weights of another shape like missing ones; the error of transformers lacks the checkpoint's name.
    with tensors_only(label):
        loaded: Any = model_class.from_pretrained(
            name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    model, loading_info = loaded
    # Buffers are not weights: they follow from the configuration.
    parameters = {key for key, _ in model.named_parameters()}
    missing = sorted(
        parameters & {*loading_info["missing_keys"], *(str(entry[0]) for entry in loading_info["mismatched_keys"])}
    )
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ConfigError(
            f"{label}: {len(missing)} weights of {model_class.__name__} are missing or have another shape "
            f"({shown}): use a checkpoint of that class with all its weights"
        )
    return model.eval()


def load_processor(name: str) -> Any:
    """Load a checkpoint's processor, or its image processor or tokenizer if it only has one."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(name, backend=BACKEND)
