"""``caption_mapper``: our captioners as a Data-Juicer operator. Reads an image, writes the text.

For plain ``dj-process``; in a recipe of this project the ``caption`` section does this and also scores and chooses. The
text stays unchanged if the caption is degenerate (see ``caption_cleaning``; reserved tokens count), if the row has no
image, or if a served captioner fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Mapper

from bettersynth_assets.config.recipe import CaptionSection
from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.models.captioners.caption_cleaning import clean
from bettersynth_assets.models.captioners.captioner import Captioner, captioner_class
from bettersynth_assets.models.image_chunks import chunks
from bettersynth_assets.operators.catalog import register_spec
from bettersynth_assets.operators.spec import OperatorSpec
from toolkit.tokens import kit_text

NAME = "caption_mapper"

register_spec(OperatorSpec(name=NAME, synthesises=True))


@OPERATORS.register_module(NAME)
class CaptionMapper(Mapper):
    """Replace each row's text with a caption by BLIP-2 or LLaVA."""

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        captioner: str = "Salesforce/blip2-opt-2.7b",
        prompt: str = "",
        max_new_tokens: int = 30,
        sampling: dict[str, Any] | None = None,
        caption_batch: int = 32,
        dtype: str = "float32",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Set up the mapper.

        Args:
            captioner: folder or hub id of a BLIP-2 or LLaVA checkpoint.
            prompt: as in the recipe's ``caption`` section, like the next two.
            max_new_tokens: maximum number of tokens of a caption.
            sampling: temperature, top_p, top_k and seed; a row's ``id``, else its image's path, selects its random
                numbers.
            caption_batch: images per model call.
            dtype: ``float32`` or ``bfloat16``.
            *args: arguments of Data-Juicer.
            **kwargs: arguments of Data-Juicer.

        Raises:
            ConfigError: a value is out of range.
        """
        super().__init__(*args, **kwargs)
        values = {"prompt": prompt, "max_new_tokens": max_new_tokens, "sampling": sampling}
        self.section = CaptionSection.parse(values, where=NAME)
        self.captioner, self.caption_batch, self.dtype = captioner, caption_batch, dtype
        self._loaded: Captioner | None = None

    def process_batched(self, samples: dict[str, list[Any]], rank: int | None = None) -> dict[str, list[Any]]:
        """Caption a batch; an image that cannot be decoded raises its ``ImageError``."""
        rows = [index for index, images in enumerate(samples[self.image_key]) if images]
        paths = [Path(samples[self.image_key][index][0]) for index in rows]
        keys = [str(samples["id"][index]) for index in rows] if "id" in samples else [str(path) for path in paths]
        captioner, section = self._captioner(rank), self.section
        prompt = section.prompt or captioner.default_prompt
        for chunk in chunks(paths, captioner.batch.requested, [captioner.prepare]):
            for error in chunk.errors.values():
                raise error
            captions = captioner.captions(
                chunk.inputs[0],
                prompt=prompt,
                max_new_tokens=section.max_new_tokens,
                sampling=section.sampling,
                keys=[keys[at] for at in chunk.good],
            )
            for at, caption in zip(chunk.good, captions, strict=True):
                if isinstance(caption, str) and (text := clean(caption, prompt)[0]):
                    samples[self.text_key][rows[at]] = kit_text(text)
        return samples

    def _captioner(self, rank: int | None) -> Captioner:
        if self._loaded is None:
            model = resolve_model(self.captioner, role="captioner")
            device = f"cuda:{rank or 0}" if self.use_cuda() else "cpu"
            self._loaded = captioner_class(model)(model.name, device=device, dtype=self.dtype, batch=self.caption_batch)
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        """Drop the loaded model, which Data-Juicer's hashing and worker processes cannot use."""
        return {**self.__dict__, "_loaded": None}
