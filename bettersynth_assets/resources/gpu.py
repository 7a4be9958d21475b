"""What steps that use models may take, as Dagster shows it. In: the profile's ``gpu`` section. Out: ``Settings``."""

from __future__ import annotations

from dataclasses import replace

import dagster as dg
from pydantic import Field

from bettersynth_assets.config.profile import Gpu
from bettersynth_assets.config.settings import Settings


class GpuResource(dg.ConfigurableResource):
    """Devices, precision, batch sizes and memory of the steps that use models; what is left out is the profile's."""

    devices: str | None = Field(default=None, description="`auto`: every visible GPU, else the CPU; `cpu`; or `0,1`.")
    dtype: str | None = Field(default=None, description="float32 or bfloat16.")
    decode: str | None = Field(default=None, description="pillow, or nvjpeg: JPEG files are decoded on the GPU.")
    compiled: bool | None = Field(default=None, description="Compile CLIP's layers.")
    clip_batch: int | None = Field(default=None, description="Image-text pairs scored at once.")
    caption_batch: int | None = Field(default=None, description="Images captioned at once.")
    memory_limit_gib: float | None = Field(
        default=None, description="Most GPU memory that a step may take; empty: all."
    )
    workers: str | None = Field(
        default=None,
        description='Processes for a step\'s shards: a number in quotes ("2"), or `auto`, one per GPU, else per core.',
    )
    pool: str | None = Field(default=None, description="`local` or `ray`: where these processes are.")
    ray_address: str | None = Field(default=None, description="`host:port` of the Ray cluster, or `auto`.")

    @classmethod
    def of(cls, gpu: Gpu) -> GpuResource:
        """The resource that shows a profile's own values."""
        values = gpu.model_dump()
        if isinstance(gpu.devices, list):
            values["devices"] = ",".join(str(index) for index in gpu.devices)
        values["workers"] = str(gpu.workers)
        # A launch gives these as numbers; left empty, `auto` stays the profile's.
        numbers = {name: None if values[name] == "auto" else values[name] for name in ("clip_batch", "caption_batch")}
        return cls(**{name: value for name, value in (values | numbers).items() if name in cls.model_fields})

    def apply(self, settings: Settings) -> Settings:
        """``settings`` with this launch's values in the place of the profile's.

        Raises:
            ConfigError: a value that a profile could not hold either.
        """
        shown = type(self).model_fields
        changed = {
            name: value for name in Gpu.model_fields if name in shown and (value := getattr(self, name)) is not None
        }
        if changed.get("devices") not in ("auto", "cpu", None):
            changed["devices"] = [part.strip() for part in changed["devices"].split(",")]
        gpu = Gpu.parse(settings.profile.gpu.model_dump() | changed, where="resource gpu")
        return replace(settings, profile=settings.profile.model_copy(update={"gpu": gpu}))
