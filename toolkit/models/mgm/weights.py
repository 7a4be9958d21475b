"""Names of MGM's public weights, and loading of the kit's ``mm_projector.bin``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from toolkit.models.mgm.common.names import CLIP, PROJECTOR, TOWERS
from toolkit.models.weights import WeightsError, check_same, copy_projector, read_tensors

_WRAPPERS = re.compile(r"^(?:base_model\.model\.|module\.|_orig_mod\.)+")
_BARE = ("mm_projector.", "vlm_uni_", "vision_tower.", "vision_tower_aux.")
# Tables that older releases of transformers stored and that are computed today.
_COMPUTED = (".embeddings.position_ids", ".rotary_emb.inv_freq")
_CLIP_PARTS = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")


def public_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by MGM's public names: without what wrappers (PEFT, DeepSpeed, compile) put in front, tables left out.

    CLIP's tower may lack its ``vision_model.``, as transformers 5 names it.
    """
    named = {}
    for name, tensor in tensors.items():
        plain = _WRAPPERS.sub("", name)
        plain = f"model.{plain}" if plain.startswith(_BARE) else plain
        if plain.startswith(tuple(f"{CLIP}{part}" for part in _CLIP_PARTS)):
            plain = f"{CLIP}vision_model.{plain.removeprefix(CLIP)}"
        if not plain.endswith(_COMPUTED):
            named[plain] = tensor
    return named


def clip_vision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision transformer of a CLIP's tensors, as ``vision_model.*``.

    Args:
        tensors: of a whole CLIP, or of its vision transformer alone; transformers 5 leaves out that prefix there.
    """
    inside = {name: tensor for name, tensor in tensors.items() if name.startswith("vision_model.")}
    return inside or {f"vision_model.{n}": tensor for n, tensor in tensors.items() if n.startswith(_CLIP_PARTS)}


def load_projector(model: nn.Module, path: Path) -> list[str]:
    """Give an MGM model the projector and mining projections of a file such as the kit's ``mm_projector.bin``.

    Returns:
        The names that were loaded: all that ``pretrain`` trains. Types and devices stay the model's.

    Raises:
        WeightsError: unreadable, incomplete, more than projector and towers, or towers that are not the model's.
    """
    tensors = public_names(read_tensors(path))
    state = model.state_dict()
    towers = {name: tensor for name, tensor in tensors.items() if name.startswith(TOWERS)}
    trained = {name: tensor for name, tensor in tensors.items() if name.startswith(PROJECTOR)}
    rest = sorted(set(tensors) - set(towers) - set(trained))
    if rest:
        raise WeightsError(f"{path}: holds {rest[0]!r}, which is part of neither projector nor towers")
    check_same(state, towers, where=str(path))
    return copy_projector(model, trained, prefixes=PROJECTOR, where=str(path))
