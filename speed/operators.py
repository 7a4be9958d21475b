"""Rows per second of every operator through a recipe's code path, against Data-Juicer's where that differs.

    python speed/operators.py [--rows 2000] [--image-rows 256] [--peer-rows 128] [--full] [--only NAME …]
        [--dtype bfloat16] [--seed FILE]

Images are generated JPEG files of about 400 × 370 at 40 KB with captions of random words, or come from a seed file in
the kit's format. Image models have random weights: tiny ones, or with ``--full`` the size of the public ones (ViT-B/16,
CLIP ViT-B/32, ViT-L/14, BLIP ITM base, OWL-ViT base). Text models are trained on a few sentences; their size hardly
matters. Runs on a GPU if there is one. Each operator first processes ``WARM`` rows, which loads its model. Prints one
line of JSON per operator; operators whose package is not installed are reported as skipped. If a recipe uses another
code path than Data-Juicer, ``data_juicer_rows_per_s`` is the operator called row by row on the same files, alternating
with the recipe's path. Files come from the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import transformers as hf
from clip_scores import SIZES, read_rows, write_model, write_rows
from header_filters import seed_rows

import bettersynth_assets  # noqa: F401 (first: makes transformers usable with a torch without CUDA)
from bettersynth_assets.config.operator_models import OperatorModels
from bettersynth_assets.config.profile import Gpu, Profile, load_profile
from bettersynth_assets.operators.built import BuiltOperator
from bettersynth_assets.operators.catalog import spec_of
from bettersynth_assets.operators.data_juicer import build_operators
from bettersynth_assets.operators.local_models import needs_of
from bettersynth_assets.operators.process import run_process
from bettersynth_assets.operators.sandbox import operator_environment, registry
from bettersynth_assets.scheduler.devices import resolve_devices
from toolkit.tokens import kit_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny_models import image_models, text_models
from tiny_models.profile_models import make_all

WARM = 8
ROUNDS = 3
"""Alternating rounds of the recipe's path and Data-Juicer's; the best of each counts, because load only slows down."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operator with the arguments of a recipe."""

    name: str
    arguments: dict[str, Any]
    peer: bool = False
    """Whether the recipe's path differs from Data-Juicer's, which is then measured too."""
    embedded: bool = False
    """Whether the operator receives embeddings as stored by clip_scores."""

    @property
    def reads(self) -> str:
        """``caption``, ``header`` or ``image``; determines the number of rows."""
        return "header" if self.embedded else spec_of(self.name).cost


CASES = (
    Case(name="words_num_filter", arguments={"min_num": 5}),
    Case(name="word_repetition_filter", arguments={"rep_len": 10, "max_ratio": 0.3}),
    Case(name="language_id_score_filter", arguments={"min_score": 0.9}),
    Case(name="perplexity_filter", arguments={"max_ppl": 100}),
    Case(name="text_action_filter", arguments={}),
    Case(name="text_entity_dependency_filter", arguments={}),
    Case(name="document_deduplicator", arguments={}),
    Case(name="document_minhash_deduplicator",
         arguments={"window_size": 2, "num_bands": 20, "num_rows_per_band": 10}),
    Case(name="random_selector", arguments={"select_ratio": 0.5}),
    Case(name="clip_score_filter", arguments={"min_score": 0.0}),
    Case(name="image_shape_filter", arguments={"min_width": 400}, peer=True),
    Case(name="image_aspect_ratio_filter", arguments={"max_ratio": 1.1},
         peer=True),
    Case(name="image_size_filter", arguments={"min_size": "38 KiB"}, peer=True),
    Case(name="kmeans_diversity_selector", arguments={"clusters": 20, "share": 0.5}, embedded=True),
    Case(name="kmeans_diversity_selector", arguments={"clusters": 20, "share": 0.5}),
    Case(name="image_near_duplicate_deduplicator", arguments={}),
    Case(name="image_text_similarity_filter", arguments={"hf_clip": "clip"},
         peer=True),
    Case(name="image_watermark_filter", arguments={}, peer=True),
    Case(name="image_nsfw_filter", arguments={}, peer=True),
    Case(name="image_aesthetics_filter", arguments={"min_score": 0.0}, peer=True),
    Case(name="image_text_matching_filter", arguments={}, peer=True),
    Case(name="phrase_grounding_recall_filter", arguments={}, peer=True),
)  # fmt: skip


def roles_of(case: Case) -> set[str]:
    """Return the keys of the profile's models that an operator loads."""
    model = spec_of(case.name).model
    named = {model.role} if model else set()
    return named | {need.role for need in needs_of(case.name, case.arguments)}


def missing_package(case: Case) -> str | None:
    """Return a package that an operator imports and that is not installed, or None."""
    packages = [package for need in needs_of(case.name, case.arguments) for package in need.packages]
    return next((package for module, package in packages if find_spec(module) is None), None)


def write_models(root: Path, captions: list[str], roles: set[str], *, full: bool) -> dict[str, str]:
    """Write the models of the given roles; return their folders by role."""
    tiny = make_all(root / "tiny")
    aesthetics = "aesthetics-predictor-v2-linear"
    makers: dict[str, Callable[[], Path]] = {
        "clip": lambda: tiny.clip,
        "watermark": lambda: tiny.watermark,
        "nsfw": lambda: tiny.watermark,
        "aesthetics": lambda: image_models.make_aesthetics(root / aesthetics, tiny.clip),
        "matching": lambda: image_models.make_blip_itm(root / "matching", captions),
        "grounding": lambda: image_models.make_owlvit(root / "grounding", tiny.clip),
        "language_id": lambda: text_models.make_fasttext(root / "language_id.bin"),
        "perplexity": lambda: text_models.make_perplexity(root / "perplexity"),
        "spacy": lambda: text_models.make_spacy(root / "spacy"),
        "nltk": lambda: text_models.make_nltk(root / "nltk"),
    }
    folders = {role: makers[role]() for role in sorted(roles)}
    for role in sorted(roles & FULL.keys()) if full else ():
        large = root / "full" / (aesthetics if role == "aesthetics" else role)
        FULL[role](large, folders[role])
        folders[role] = large
    return {role: str(folder) for role, folder in folders.items()}


def _clip(folder: Path, tiny: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    write_model(folder, SIZES["vit-b-32"])


def _classifier(folder: Path, tiny: Path) -> None:
    hf.ViTForImageClassification(hf.ViTConfig(num_labels=2)).save_pretrained(folder)
    hf.ViTImageProcessor().save_pretrained(folder)


def _aesthetics(folder: Path, tiny: Path) -> None:
    from aesthetics_predictor import AestheticsPredictorV2Linear

    large = SIZES["vit-l-14-336"]["vision"] | {"image_size": 224}
    model: Any = AestheticsPredictorV2Linear(hf.CLIPVisionConfig(**large, projection_dim=768))
    model.save_pretrained(folder)
    tokens = hf.CLIPTokenizerFast.from_pretrained(tiny)
    hf.CLIPProcessor(hf.CLIPImageProcessor(), tokens).save_pretrained(folder)


def _matching(folder: Path, tiny: Path) -> None:
    hf.BlipForImageTextRetrieval(hf.BlipConfig()).save_pretrained(folder)
    tokens = hf.BertTokenizerFast.from_pretrained(tiny)
    hf.BlipProcessor(hf.BlipImageProcessor(), tokens).save_pretrained(folder)


def _grounding(folder: Path, tiny: Path) -> None:
    hf.OwlViTForObjectDetection(hf.OwlViTConfig()).save_pretrained(folder)
    tokens = hf.CLIPTokenizerFast.from_pretrained(tiny)
    hf.OwlViTProcessor(hf.OwlViTImageProcessor(), tokens).save_pretrained(folder)


FULL = {
    "clip": _clip, "watermark": _classifier, "nsfw": _classifier, "aesthetics": _aesthetics, "matching": _matching,
    "grounding": _grounding,
}  # fmt: skip
"""Write random models of the public ones' sizes, with the tokenizers of the tiny ones."""


def draw_captions(rows: int) -> list[str]:
    """Return captions of 4 to 14 English words."""
    draw = np.random.default_rng(0)
    words = sorted({word for text in text_models.ENGLISH for word in text.split()})
    return [" ".join(draw.choice(words, int(draw.integers(4, 15)))) for _ in range(rows)]


def by_data_juicer(built: BuiltOperator, table: pa.Table) -> float:
    """Measure rows per second of a filter that is called row by row and opens its files itself."""
    rank = {} if built.rank is None else {"rank": built.rank}

    def work(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            text = kit_text(row["caption"])
            batch = {"text": [text], "images": [[row["image"]]], "__dj__stats__": [{}], "__dj__meta__": [{}]}
            next(iter(built.operator.process(built.operator.compute_stats(batch, **rank))))

    rows = table.select(["caption", "image"]).to_pylist()
    with operator_environment():
        work(rows[:1])
        start = time.perf_counter()
        work(rows)
        return len(rows) / (time.perf_counter() - start)


def forget_captions() -> None:
    """Clear the cache of parsed captions, which a lone operator would not profit from."""
    from data_juicer.utils.model_utils import MODEL_ZOO

    for model in MODEL_ZOO.values():
        getattr(model, "cache_clear", lambda: None)()


def measure(case: Case, table: pa.Table, profile: Profile, peer_rows: int) -> dict[str, Any]:
    """Measure one operator; return its line of JSON."""
    arguments = {
        name: getattr(profile.models, value) if name == "hf_clip" else value for name, value in case.arguments.items()
    }
    models, device = OperatorModels(profile.models), resolve_devices(profile.gpu)[0]
    (built,) = build_operators([{case.name: arguments}], models, profile.gpu, device=device)
    embeddings = np.random.default_rng(0).standard_normal((table.num_rows, 512)).astype(np.float32)

    def run(rows: pa.Table) -> Any:
        return run_process(
            rows,
            [built],
            stage="benchmark",
            image_root=Path("/"),
            rescore=None if "hf_clip" in arguments else len,  # type: ignore[arg-type]
            embeddings=embeddings[: rows.num_rows] if case.embedded else None,
        )

    run(table.slice(table.num_rows - WARM))
    speeds, peers = [], []
    for _ in range(ROUNDS):
        forget_captions()
        processed = run(table)
        assert not processed.quarantine.num_rows, processed.quarantine.to_pylist()[0]
        speeds.append(table.num_rows / processed.operators[0]["seconds"])
        if case.peer:
            peers.append(by_data_juicer(built, table.slice(0, peer_rows)))
    line: dict[str, Any] = {
        "operator": case.name, "reads": "embedding" if case.embedded else case.reads, "rows": table.num_rows,
        "kept": processed.kept.num_rows, "rows_per_s": round(max(speeds), 1),
    }  # fmt: skip
    if case.peer:
        line |= {"data_juicer_rows_per_s": round(max(peers), 1), "ratio": round(max(speeds) / max(peers), 2)}
    return line


def main() -> None:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser(description="Rows per second of every operator through a recipe's code path.")
    parser.add_argument("--rows", type=int, default=2000, help="rows for operators that open no image")
    parser.add_argument("--image-rows", type=int, default=256)
    parser.add_argument("--peer-rows", type=int, default=128)
    parser.add_argument("--full", action="store_true", help="image models of the size of the public ones")
    parser.add_argument("--only", nargs="*", default=[], help="operators to measure; only their packages are needed")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="dtype of classifiers")
    parser.add_argument("--seed", type=Path)
    args = parser.parse_args()
    registry()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if args.seed:
            paths, captions = read_rows(args.seed, args.rows)
        else:
            paths, captions = write_rows(root / "images", args.rows)[0], draw_captions(args.rows)
        selected = [case for case in CASES if not args.only or case.name in args.only]
        cases = [case for case in selected if not missing_package(case)]
        for case in selected:
            if package := missing_package(case):
                print(json.dumps({"operator": case.name, "skipped": f"package {package} is not installed"}), flush=True)
        named = write_models(root, captions, set().union(*map(roles_of, cases)), full=args.full)
        profile = load_profile("miniature")
        decode = "pillow" if resolve_devices(Gpu()) == ["cpu"] else "nvjpeg"
        models = profile.models.model_copy(update=named)
        gpu = Gpu(devices="auto", dtype=args.dtype, decode=decode, clip_batch=profile.gpu.clip_batch)  # type: ignore[arg-type]
        profile = profile.model_copy(update={"models": models, "gpu": gpu})
        table, _ = seed_rows([path.absolute() for path in paths], captions, profile.limits)
        device = resolve_devices(gpu)[0]
        for case in cases:
            rows = table.slice(0, args.image_rows) if case.reads == "image" else table
            line = measure(case, rows, profile, args.peer_rows)
            where = {
                "device": device,
                "cores": len(os.sched_getaffinity(0)),
                "full_size": args.full,
                "dtype": args.dtype,
            }
            print(json.dumps(line | where), flush=True)


if __name__ == "__main__":
    main()
