"""Loss of a batch from its merged embeddings.

::

    embeds (B, L, h) ─► decoder ─► hidden states ─► logits of labelled positions ─► cross-entropies ─► weighted sum
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo import maybe_mark_dynamic

from toolkit.models.mgm.common.speed import compiled
from toolkit.models.mgm.language.decoder import decode

if TYPE_CHECKING:
    from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer

    from toolkit.models.mgm.backbone import MGMGemmaModel
    from toolkit.models.mgm.common.speed import Speed


def loss_and_logits(
    core: MGMGemmaModel, head: Tensor, layout: Mapping[str, Tensor], embeds: Tensor, weights: Tensor | None, *,
    speed: Speed, **kwargs: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute loss and logits of merged embeddings.

    Args:
        core: the model without its head.
        head: (vocabulary, h) weights of the head.
        layout: from :func:`toolkit.models.mgm.language.merging.lay_out`, with labels.
        embeds: (B, L, h), padded on the right.
        weights: (B,) weight of each row's tokens; None averages over all tokens.
        speed: selects the implementation.
        kwargs: passed to transformers' Gemma if ``speed.fused_decoder`` is off.

    Returns:
        The loss, and logits (S, vocabulary) of the S labelled positions.
    """
    labelled = layout["labelled"]
    if speed.fused_decoder:
        hidden = decode(core, embeds, speed, layout["label_at"])
        if speed.labelled_last_layer:
            labelled = layout["label_slot"]
    else:
        hidden = _transformers_decoder(core, embeds, layout["mask"], **kwargs)
    targets = layout["targets"]
    logits = F.linear(hidden.flatten(0, 1)[labelled], head.to(hidden.dtype))
    run = compiled(token_losses) if speed.compiled else token_losses
    if speed.compiled:
        maybe_mark_dynamic(logits, 0)
        maybe_mark_dynamic(targets, 0)
    losses = run(logits, targets, core.config.logits_dtype == "float32").float()
    if weights is None:
        return losses.sum() / len(targets), logits
    return (losses * weights[layout["label_row"]]).sum(), logits


def token_losses(logits: Tensor, targets: Tensor, widen: bool) -> Tensor:
    """Compute cross-entropies: (S, vocabulary), (S,) -> (S,); ``widen`` casts the logits to float32."""
    return F.cross_entropy(logits.float() if widen else logits, targets, reduction="none")


def _transformers_decoder(core: MGMGemmaModel, embeds: Tensor, mask: Tensor, **kwargs: Any) -> Tensor:
    """Run transformers' decoder; cast float32 weights to the embeddings' dtype, as ``decode`` does."""
    first = cast("GemmaDecoderLayer", core.layers[0])
    mixed = first.mlp.up_proj.weight.dtype != embeds.dtype
    with torch.autocast(embeds.device.type, dtype=embeds.dtype if mixed else None, enabled=mixed):
        output = core(inputs_embeds=embeds, attention_mask=mask, use_cache=False, **kwargs)
    hidden: Tensor = output.last_hidden_state
    return hidden.to(embeds.dtype)
