"""LLaVA: transformers' own ``LlavaForConditionalGeneration``, whatever its vision tower and language model."""
