"""Loaders of transformers models for Data-Juicer's operators. In: a folder or hub id. Out: model and processor.

Data-Juicer 1.6.1 is written for transformers 4. Its loaders use the torchvision variant of an image processor, whose
pixels differ from those for which the operators' thresholds were set. Two of its operators call what transformers 5
removed: Owl-ViT's ``post_process_object_detection`` of the processor, and features as plain tensors.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bettersynth_assets.models.checkpoints import load_model, load_processor

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, ProcessorMixin


def load_huggingface(
    pretrained_model_name_or_path: str, *, return_model: bool = True, return_pipe: bool = False, **parameters: Any
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Replacement for ``model_utils.prepare_huggingface_model``, which still loads pipelines and lone processors."""
    import torch
    import transformers
    from data_juicer.utils import model_utils

    name = model_utils.check_model_home(pretrained_model_name_or_path)
    device = parameters.pop("device", "cpu")
    config = transformers.AutoConfig.from_pretrained(name, **parameters) if return_model and not return_pipe else None
    if config is None or hasattr(config, "auto_map"):
        parameters |= {"return_model": return_model, "return_pipe": return_pipe, "device": device}
        return model_utils.prepare_huggingface_model(name, **parameters)
    model_class = getattr(transformers, config.architectures[0])
    model = load_model(model_class, name, dtype=torch.float32, label=f"model {name!r}").to(device)
    processor = load_processor(name)
    image: Any = getattr(processor, "image_processor", None)
    if hasattr(image, "post_process_object_detection") and not hasattr(processor, "post_process_object_detection"):
        processor.post_process_object_detection = image.post_process_object_detection
    return model, processor


def load_aesthetics(
    pretrained_model_name_or_path: str, *, device: str = "cpu", **parameters: Any
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Replacement for ``model_utils.prepare_simple_aesthetics_model``, whose package needs transformers 4."""
    import torch
    from data_juicer.utils import model_utils
    from transformers import CLIPImageProcessorPil

    from bettersynth_assets.models.aesthetics import predictor_class

    name = model_utils.check_model_home(pretrained_model_name_or_path)
    model = load_model(predictor_class(name), name, dtype=torch.float32, label=f"model {name!r}").to(device)
    return model, CLIPImageProcessorPil.from_pretrained(name)


def text_pair_model(*which: Any) -> tuple[SimpleNamespace, ProcessorMixin]:
    """Replacement for ``get_model`` in ``text_pair_similarity_filter``, which expects features as plain tensors."""
    from data_juicer.utils.model_utils import get_model

    model, processor = get_model(*which)
    features = lambda **inputs: model.get_text_features(**inputs).pooler_output  # noqa: E731
    return SimpleNamespace(device=model.device, get_text_features=features), processor
