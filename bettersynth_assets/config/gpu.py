"""The profile's ``gpu`` section: devices, precision and batch sizes of the stages that use models.

The Dagster resource ``gpu`` has the same fields. A new field is part of the keys of every stage that uses a model,
unless it is marked: ``CountsFor`` lists the uses in whose keys it is included (``clip``, ``captioner``, ``diffusion``,
``operators``, ``training``, ``evaluation``), ``NotInKey`` excludes it from all keys.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bettersynth_assets.config.model import ConfigModel
from toolkit.settings import CountsFor, NotInKey

Count = Literal["auto"] | Annotated[int, Field(ge=1)]
PLACE = NotInKey("determines where shards are processed, not their rows")
COST = CountsFor("cost")


class Gpu(ConfigModel):
    """Devices, precision and batch sizes of the stages that use models."""

    devices: Annotated[Literal["auto", "cpu"] | list[int], COST] = "auto"
    """``auto`` uses every visible GPU, or the CPU if there is none. A list requires these GPUs."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of models."""
    decode: Annotated[Literal["pillow", "nvjpeg"], CountsFor("clip", "captioner", "operators")] = "pillow"
    """JPEG decoder for CLIP and captioners: ``pillow`` decodes in threads, ``nvjpeg`` on the GPU, which is many times
    faster. nvJPEG rounds differently, which changes scores slightly (docs/operators.md)."""
    compiled: Annotated[bool, CountsFor("clip")] = False
    """Compile CLIP's layers. This takes about ten seconds per process and increases the throughput on a GPU."""
    clip_batch: Annotated[Count, CountsFor("clip")] = 64
    """Image-text pairs per batch. ``auto`` determines once what fits on the GPU and stores it (on the CPU: 64)."""
    caption_batch: Annotated[Count, CountsFor("captioner")] = 32
    """Images per captioning batch; ``auto`` as for ``clip_batch`` (on the CPU: 32)."""
    batch_sizes: Annotated[str | None, PLACE] = None
    """File that stores the ``auto`` batch sizes; None uses ``batch_sizes.json`` next to the profile's data."""
    diffusion_batch: Annotated[int, CountsFor("diffusion")] = Field(default=8, ge=1)
    """Images generated per batch."""
    memory_limit_gib: Annotated[float | None, COST] = None
    """Maximum GPU memory of a process; None sets no limit."""
    workers: Annotated[Count, PLACE] = 1
    """Worker processes for the shards of a stage, each with its own GPU or its share of the cores. ``auto`` starts one
    per GPU, or one per core without GPUs. 1 processes the shards in the step's process."""
    pool: Annotated[Literal["local", "ray"], PLACE] = "local"
    """``local`` starts worker processes on this machine. ``ray`` starts them as actors on a Ray cluster, all of whose
    nodes must have access to the data root, the seed file and the models."""
    ray_address: Annotated[str, PLACE] = "auto"
    """``host:port`` of the Ray cluster; ``auto`` uses the cluster to which this machine belongs."""
