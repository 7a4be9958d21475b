"""``regenerate_image_mapper``: new images from captions as a Data-Juicer operator. Reads the text, writes ``images``.

For plain ``dj-process``, after filters that leave the rows to be processed; in a recipe of this project the
``regenerate`` section does this. The text stays, the new file is in ``image_dir``, and ``parent_images`` keeps the
previous ``images``. A row that the safety checker refuses at every try keeps its image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Mapper
from data_juicer.utils.mm_utils import remove_special_tokens

from bettersynth_assets.config.recipe import RegenerateSection
from bettersynth_assets.config.resolved_model import resolve_model
from bettersynth_assets.errors import ConfigError
from bettersynth_assets.models.diffusion import ImageMaker, check_package, save_image
from bettersynth_assets.operators.catalog import register_spec
from bettersynth_assets.operators.spec import OperatorSpec
from toolkit.files import digest_of

NAME = "regenerate_image_mapper"

register_spec(OperatorSpec(name=NAME, synthesises=True))


@OPERATORS.register_module(NAME)
class RegenerateImageMapper(Mapper):
    """Generate a new image for each row from its text."""

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        diffusion: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        image_dir: str = "",
        steps: int = 30,
        guidance: float = 7.5,
        side: int | None = None,
        tries: int = 3,
        seed: int = 1024,
        diffusion_batch: int = 8,
        dtype: str = "float32",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Set up the mapper.

        Args:
            diffusion: folder or hub id of a text-to-image pipeline of ``diffusers``.
            image_dir: folder of the new images.
            steps: as in the recipe's ``regenerate`` section, like the next four.
            guidance: how closely the image follows the text.
            side: pixels; None for the model's default.
            tries: maximum number of tries for an image that the safety checker refuses.
            seed: random seed of the noise, combined with the row's ``id``, or its image's path if it has none.
            diffusion_batch: images per model call.
            dtype: ``float32`` or ``bfloat16``.
            *args: arguments of Data-Juicer.
            **kwargs: arguments of Data-Juicer.

        Raises:
            ConfigError: ``image_dir`` or the package ``diffusers`` is missing, or a value is out of range.
        """
        super().__init__(*args, **kwargs)
        check_package()
        if not image_dir:
            raise ConfigError(f"{NAME}: image_dir is missing: set it to a folder for the new images")
        values = {"steps": steps, "guidance": guidance, "side": side, "tries": tries, "seed": seed}
        self.section = RegenerateSection.parse(values, where=NAME)
        self.diffusion, self.image_dir = diffusion, str(Path(image_dir).absolute())
        self.diffusion_batch, self.dtype = diffusion_batch, dtype
        self._maker: ImageMaker | None = None

    def process_batched(self, samples: dict[str, list[Any]], rank: int | None = None) -> dict[str, list[Any]]:
        """Generate the images of a batch."""
        if self._maker is None:
            device = f"cuda:{rank or 0}" if self.use_cuda() else "cpu"
            model = resolve_model(self.diffusion, role="diffusion")
            self._maker = ImageMaker(model.name, device=device, dtype=self.dtype, batch=self.diffusion_batch)
        parent_images = [list(images) for images in samples[self.image_key]]
        captions = [remove_special_tokens(text) for text in samples[self.text_key]]
        keys = [str(key) for key in samples.get("id", parent_images)]
        new_images = list(parent_images)
        for index, image in self._maker.images(captions, keys, self.section):
            if image is not None:
                name = digest_of(keys[index], captions[index], self.section.model_dump(), self.diffusion)[:24]
                path = Path(self.image_dir, f"{name}.jpg")
                save_image(image, path)
                new_images[index] = [str(path)]
        return {**samples, self.image_key: new_images, "parent_images": parent_images}

    def __getstate__(self) -> dict[str, Any]:
        """Drop the loaded model, which Data-Juicer's hashing and worker processes cannot use."""
        return {**self.__dict__, "_maker": None}
