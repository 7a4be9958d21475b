"""Configuration of MGM: Gemma's fields, the two vision towers, and their connection to the language model.

In: keyword arguments, or the ``config.json`` of a checkpoint. Out: :class:`MGMConfig`, which completely determines the
architecture; names of paths never matter. The defaults describe MGM-2B (Mini-Gemini on gemma-2b-it).
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, GemmaConfig, PretrainedConfig

PROJECTOR_TYPES = ("mlp2x_gelu",)
DROP_PATHS = ("off", "training", "always")
LOGITS_DTYPES = ("float32", "bfloat16")

_CLIP_L_336: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
_CONVNEXT_L: dict[str, Any] = {
    "depths": [3, 3, 27, 3], "dims": [192, 384, 768, 1536], "drop_path_rate": 0.1, "layer_scale_init": 1e-6,
}  # fmt: skip
_GEMMA_2B: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8,
    "num_key_value_heads": 1, "head_dim": 256, "hidden_act": "gelu",
}  # fmt: skip


class MGMConfig(GemmaConfig):
    """Complete configuration of an MGM model.

    Args:
        vision_config: fields of a ``CLIPVisionConfig``, the low-resolution tower with N = (image_size/patch_size)²
            tokens.
        vision_aux_config: the ConvNeXt tower: ``depths`` and ``dims`` (four each), ``drop_path_rate``,
            ``layer_scale_init``.
        image_size_aux: side of the high-resolution input in pixels. The side of its stride-4 map must be a multiple of
            8 times the side of the low-resolution grid, so that each token has one square window of whole cells at all
            four strides.
        image_grid: number of tiles per side into which the input is split; only 1 is implemented.
        mm_vision_select_layer: index of the CLIP hidden state that is used (negative; -1 is the output of the last
            layer). The class token is always dropped.
        mm_projector_type: ``mlp2x_gelu``.
        mm_projector_output_scale: factor on the projector's output; 1.0 in the public architecture. For a language
            model with small embeddings (the miniature), set it to their standard deviation, so that image embeddings
            start at the scale of word embeddings.
        mm_feature_norm: normalise the low-resolution tokens over their channels, without parameters, before mining
            and projector, so that a tower with features of any scale can be used. False in the public architecture.
        aux_drop_path: when the frozen ConvNeXt applies stochastic depth. ``always`` reproduces the original code, which
            keeps it in training mode even during evaluation, so that its features are random; ``training`` applies it
            in training only; ``off`` (default) never.
        logits_dtype: dtype of the logits from which the loss is computed: ``float32``, or ``bfloat16`` to use the
            output of the language model's head without a cast, as in transformers 4.38, which the kit pins.
        text_config: optional Gemma fields as one dictionary, e.g. ``gemma_config.to_dict()``; keyword arguments
            override them.

    Raises:
        ValueError: a size does not match or a value is unknown; the message names it.
    """

    model_type = "mgm_gemma"
    sub_configs = {"vision_config": CLIPVisionConfig}  # noqa: RUF012 (transformers reads it from the class)

    def __init__(
        self,
        vision_config: dict[str, Any] | CLIPVisionConfig | None = None,
        vision_aux_config: dict[str, Any] | None = None,
        image_size_aux: int = 768,
        image_grid: int = 1,
        mm_vision_select_layer: int = -2,
        mm_projector_type: str = "mlp2x_gelu",
        mm_projector_output_scale: float = 1.0,
        mm_feature_norm: bool = False,
        aux_drop_path: str = "off",
        logits_dtype: str = "float32",
        text_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(vision_config, PretrainedConfig):
            self.vision_config = vision_config
        else:
            self.vision_config = CLIPVisionConfig(**(_CLIP_L_336 if vision_config is None else vision_config))
        self.vision_aux_config = {**_CONVNEXT_L, **(vision_aux_config or {})}
        self.image_size_aux = image_size_aux
        self.image_grid = image_grid
        self.mm_vision_select_layer = mm_vision_select_layer
        self.mm_projector_type = mm_projector_type
        self.mm_projector_output_scale = mm_projector_output_scale
        self.mm_feature_norm = mm_feature_norm
        self.aux_drop_path = aux_drop_path
        self.logits_dtype = logits_dtype
        inherited = {k: v for k, v in (text_config or {}).items() if k not in ("model_type", "architectures")}
        fields = {**_GEMMA_2B, **inherited, **kwargs}
        # GemmaConfig replaces "gelu" with the tanh approximation and warns; MGM uses the exact function.
        super().__init__(**{**fields, "hidden_act": "gelu_pytorch_tanh"})
        self.hidden_act = fields["hidden_act"]
        self._validate()

    def _validate(self) -> None:
        if self.mm_projector_type not in PROJECTOR_TYPES:
            raise ValueError(f"mm_projector_type {self.mm_projector_type!r} is unknown; use one of {PROJECTOR_TYPES}")
        for name, value, known in (
            ("aux_drop_path", self.aux_drop_path, DROP_PATHS), ("logits_dtype", self.logits_dtype, LOGITS_DTYPES),
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown; use one of {', '.join(known)}")
        if self.image_grid != 1:
            raise ValueError(f"image_grid {self.image_grid} is not implemented; use 1")
        depths, dims = self.vision_aux_config["depths"], self.vision_aux_config["dims"]
        if len(depths) != 4 or len(dims) != 4:
            raise ValueError(f"vision_aux_config needs four depths and four dims, not depths={depths}, dims={dims}")
        layers = self.vision_config.num_hidden_layers
        if not -layers <= self.mm_vision_select_layer <= -1:
            raise ValueError(
                f"mm_vision_select_layer {self.mm_vision_select_layer} is out of range: this CLIP tower allows "
                f"-{layers} to -1"
            )
        if self.image_size_aux % (32 * self.tokens_per_side):
            raise ValueError(
                f"image_size_aux {self.image_size_aux} must be a multiple of 32 times the "
                f"{self.tokens_per_side} tokens per side of the low-resolution tower"
            )

    @property
    def image_size(self) -> int:
        """Side of the low-resolution input in pixels."""
        side: Any = self.vision_config.image_size
        return int(side)

    @property
    def tokens_per_side(self) -> int:
        """Low-resolution tokens per side (24 in MGM-2B)."""
        patch: Any = self.vision_config.patch_size
        return self.image_size // int(patch)

    @property
    def image_tokens(self) -> int:
        """Number of embeddings per image (576 in MGM-2B)."""
        return self.tokens_per_side**2

    @property
    def mm_hidden_size(self) -> int:
        """Channels of a low-resolution token (1024 in MGM-2B)."""
        return int(self.vision_config.hidden_size)

    @property
    def mm_hidden_size_aux(self) -> int:
        """Channels of the four ConvNeXt maps together (2880 in MGM-2B)."""
        return sum(self.vision_aux_config["dims"])


AutoConfig.register(MGMConfig.model_type, MGMConfig)
