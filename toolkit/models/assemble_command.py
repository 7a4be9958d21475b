"""What the commands that assemble a base model share: their arguments, their errors, and the checkpoint they write."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def assemble_parser(module: str, description: str, parts: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with one folder for each part, ``--output`` and ``--dtype``."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    for name in (*parts, "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    return parser


def write_assembled(parser: argparse.ArgumentParser, output: Path, assemble: Callable[[], tuple[Any, Any]]) -> int:
    """Write a checkpoint and print its size; unusable parts end the process with exit code 2 and their message.

    Args:
        parser: of the command.
        output: folder of the checkpoint.
        assemble: returns model and processor.
    """
    try:
        model, processor = assemble()
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    model.save_pretrained(output)
    processor.save_pretrained(output)
    print(f"{output}: {model.num_parameters():,} parameters")
    return 0
