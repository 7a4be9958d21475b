"""Trains the shipped weights.

    python -m bettersynth_assets.miniature.training.make_weights [--device cuda] [--only mgm,clip]

In: random seeds only. Out: ``weights/{clip,clip_hf,watermark,blip2,mgm,llava}`` in float16 safetensors, and
``weights/QUALITY.json`` with figures measured on held-out scenes. On a CPU the command takes hours, or less with a
small ``--budget`` (share of the full training steps).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import toolkit  # noqa: F401 (makes torchvision importable with a CPU build of torch)
from toolkit.locks import locked_folder

WEIGHTS = Path(__file__).parents[1] / "weights"
MODELS = ("clip", "watermark", "blip2", "clip_tower", "convnext_tower", "language", "mgm", "llava")
IMAGES, LESSONS = 160_000, 600_000
STEPS = {"clip": 600, "watermark": 4000, "blip2": 8000, "clip_tower": 3240, "convnext_tower": 3240, "language": 10000}
BATCH = {"clip": 512, "watermark": 256, "blip2": 512, "clip_tower": 256, "convnext_tower": 256, "language": 512}
SEED = 7


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, train the requested models and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if available, else cpu")
    parser.add_argument("--only", default=",".join(MODELS), help=f"comma-separated names of: {', '.join(MODELS)}")
    parser.add_argument("--budget", type=float, default=1.0, help="share of the full number of steps and rows")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--bank", type=Path, help="folder that keeps the training data for later calls")
    options = parser.parse_args(arguments)
    selected = options.only.split(",")
    if unknown := set(selected) - set(MODELS) - {"bank"}:
        parser.error(f"--only names unknown models {sorted(unknown)}; use {', '.join(MODELS)}")
    with tempfile.TemporaryDirectory() as temporary:
        bank = options.bank or Path(temporary)
        _train_selected(selected, bank, options.out, options.device or _best_device(), options.budget)


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _train_selected(selected: list[str], bank: Path, out: Path, device: str, budget: float) -> None:
    import torch

    from bettersynth_assets.miniature.tokenizer import base_tokenizer
    from bettersynth_assets.miniature.training.bank import make_bank
    from toolkit.tensor_files import apply_umask

    torch.backends.cuda.matmul.allow_tf32 = True
    start = time.monotonic()
    # A smaller budget also means fewer rows, but enough to hold some out.
    scale = min(1.0, budget)
    images, lessons = max(2000, int(IMAGES * scale)), max(2000, int(LESSONS * scale))
    if selected != ["llava"]:  # llava is converted from the MGM base
        make_bank(bank, images=images, lessons=lessons, random_seed=SEED)
    print(f"bank ready after {time.monotonic() - start:.0f} s", flush=True)
    vocabulary = base_tokenizer().get_vocab_size()
    for name, make in _makers(bank, out, device, vocabulary, budget).items():
        if name in selected:
            start = time.monotonic()
            figures = make()
            apply_umask(out)
            spent: dict[str, object] = {"seconds": round(time.monotonic() - start), "device": device}
            if name in STEPS:
                spent |= {"steps": _steps(name, budget), "rows": lessons if name == "language" else images}
            _record_figures(out, name, {**figures, **spent})


def _steps(name: str, budget: float) -> int:
    return max(2, int(STEPS[name] * budget))


def _makers(
    bank: Path, out: Path, device: str, vocabulary: int, budget: float
) -> dict[str, Callable[[], dict[str, float]]]:
    """Map each model to the function that makes it, in dependency order."""

    def settings(name: str) -> dict[str, object]:
        return {
            "steps": _steps(name, budget),
            "batch": BATCH[name] if device == "cuda" else 64,
            "device": device,
            "random_seed": SEED,
        }

    def clip() -> dict[str, float]:
        from bettersynth_assets.miniature.training import scorer, scorer_hf

        model = scorer.train_scorer(bank, vocabulary=vocabulary, **settings("clip"))  # type: ignore[arg-type]
        scorer.save(model, out / "clip", vocabulary)
        scorer_hf.save(model, out / "clip_hf", vocabulary)
        return scorer.measure(model, bank, vocabulary)

    def watermark() -> dict[str, float]:
        from bettersynth_assets.miniature.training.watermark import train_watermark

        return train_watermark(bank, out / "watermark", **settings("watermark"))  # type: ignore[arg-type]

    def blip2() -> dict[str, float]:
        from bettersynth_assets.miniature.training.captioner import train_captioner

        return train_captioner(bank, out / "blip2", vocabulary=vocabulary, **settings("blip2"))  # type: ignore[arg-type]

    def tower(kind: str) -> dict[str, float]:
        from bettersynth_assets.miniature.training import mgm_base, towers

        model, figures = towers.train_tower(
            kind,
            bank,
            vocabulary=vocabulary,
            **settings(f"{kind}_tower"),  # type: ignore[arg-type]
        )
        mgm_base.save_part(model, bank / f"{kind}_tower.safetensors")
        return figures

    def language() -> dict[str, float]:
        from bettersynth_assets.miniature.training import language_model, mgm_base

        model, figures = language_model.train_language_model(
            bank,
            vocabulary=vocabulary,
            **settings("language"),  # type: ignore[arg-type]
        )
        mgm_base.save_part(model, bank / "language.safetensors")
        return figures

    def mgm() -> dict[str, float]:
        from bettersynth_assets.miniature.training import mgm_base

        return mgm_base.assemble(bank, out / "mgm", vocabulary)

    def llava() -> dict[str, float]:
        from bettersynth_assets.miniature.training import llava_base

        return llava_base.assemble(out / "mgm", out / "llava")

    return {
        "clip": clip, "watermark": watermark, "blip2": blip2, "clip_tower": lambda: tower("clip"),
        "convnext_tower": lambda: tower("convnext"), "language": language, "mgm": mgm,
        "llava": llava,
    }  # fmt: skip


def _record_figures(out: Path, name: str, figures: dict[str, object]) -> None:
    """Print the figures of one model and add them to ``QUALITY.json``."""
    print(name, json.dumps(figures), flush=True)
    path = out / "QUALITY.json"
    with locked_folder(out):  # several processes may train different models at the same time
        figures_by_model = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**figures_by_model, name: figures}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
