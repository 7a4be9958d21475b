"""Check that a stage uses the contest's global batch: 256 for pre-training, 128 for fine-tuning.

    python -m toolkit.preprocess.check_global_batch_size pretrain --gpus 8 --per-gpu 8 --accumulation 4

In: three numbers. Out: exit code 0, or 2 with a message that states the product and the fix. The kit's own check
ignores a mismatch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

GLOBAL_BATCH = {"pretrain": 256, "finetune": 128}


class BatchError(ValueError):
    """A global batch that differs from the contest's."""


def check_global_batch(stage: str, *, gpus: int, per_gpu: int, accumulation: int) -> None:
    """Raise :class:`BatchError` unless the product of the three numbers is the stage's global batch."""
    if min(gpus, per_gpu, accumulation) < 1:
        raise BatchError(
            f"{stage}: gpus {gpus}, per-gpu {per_gpu} and accumulation {accumulation}: set each to at least 1"
        )
    product, wanted = gpus * per_gpu * accumulation, GLOBAL_BATCH[stage]
    if product != wanted:
        raise BatchError(
            f"{stage}: {gpus} gpus × {per_gpu} per gpu × {accumulation} accumulation = {product}, not {wanted}; change "
            "the batch per gpu or the accumulation"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.preprocess.check_global_batch_size")
    parser.add_argument("stage", choices=tuple(GLOBAL_BATCH))
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--per-gpu", type=int, required=True)
    parser.add_argument("--accumulation", type=int, required=True)
    options = parser.parse_args(arguments)
    try:
        check_global_batch(options.stage, gpus=options.gpus, per_gpu=options.per_gpu, accumulation=options.accumulation)
    except BatchError as error:
        parser.exit(2, f"error: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
