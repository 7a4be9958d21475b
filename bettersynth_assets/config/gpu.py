"""The profile's ``gpu`` section: what the steps that use models may take. The Dagster resource ``gpu`` has its fields.

A new field counts in the keys of every stage that uses a model, unless it is marked with the uses that it counts for
(``clip``, ``captioner``, ``diffusion``, ``operators``, ``training``, ``evaluation``) or as counting for none.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bettersynth_assets.config.model import ConfigModel
from toolkit.settings import CountsFor, NotInKey

Count = Literal["auto"] | Annotated[int, Field(ge=1)]
PLACE = NotInKey("where shards are processed; their rows are the same")
COST = CountsFor("cost")


class Gpu(ConfigModel):
    """What the steps that use models may take."""

    devices: Annotated[Literal["auto", "cpu"] | list[int], COST] = "auto"
    """``auto``: every visible GPU, else the CPU; a list asks for those GPUs and fails without them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of models."""
    decode: Annotated[Literal["pillow", "nvjpeg"], CountsFor("clip", "captioner", "operators")] = "pillow"
    """What makes pixels of JPEG files for CLIP and captioners: Pillow in threads, or the GPU, many times faster; its
    decoder rounds otherwise, so scores move (docs/operators.md says how far)."""
    compiled: Annotated[bool, CountsFor("clip")] = False
    """Compile CLIP's layers: some ten seconds for each process, then more rows/s on a GPU."""
    clip_batch: Annotated[Count, CountsFor("clip")] = 64
    """Image-text pairs scored at once; ``auto``: what fits on the GPU, found once and kept (on the CPU, 64)."""
    caption_batch: Annotated[Count, CountsFor("captioner")] = 32
    """Images captioned at once; ``auto`` as for ``clip_batch`` (on the CPU, 32)."""
    batch_sizes: Annotated[str | None, PLACE] = None
    """File where ``auto`` sizes are kept; None: ``batch_sizes.json`` beside the profile's data."""
    diffusion_batch: Annotated[int, CountsFor("diffusion")] = Field(default=8, ge=1)
    """Images made at once."""
    memory_limit_gib: Annotated[float | None, COST] = None
    """Most GPU memory that a step may take; None: all."""
    workers: Annotated[Count, PLACE] = 1
    """Processes for a stage's shards, each with a GPU of its own, or its share of the cores; ``auto``: one per GPU,
    else per core. 1 is the step's own process."""
    pool: Annotated[Literal["local", "ray"], PLACE] = "local"
    """``ray``: the workers are actors of a Ray cluster whose nodes all see the data root, seed and models."""
    ray_address: Annotated[str, PLACE] = "auto"
    """``host:port`` of the cluster; ``auto``: the one whose node this machine is."""
