"""Answers per second to TextVQA prompts: this toolkit against the original code path, in one run on one model.

The original path answers one prompt at a time with both towers, materialised keys and values in patch-info mining, and
transformers' ``generate`` with a growing cache. Its TextVQA script prepares images in 4 worker processes, its MMBench
script between two prompts; both are timed. This toolkit uses ``toolkit.models.mgm.answering.answerer.Answerer``.

Weights are random, of MGM-2B's size and in bfloat16 (``--tiny``: a tiny model in float32, to try the command). Answers
therefore never end, and both write ``--new-tokens`` tokens. Images are generated JPEG files of 400 x 370 to 1024 x 768
pixels; there are 3,166 images for 5,000 questions, as in TextVQA. Prompts have TextVQA's form. Each word of the
question and of the instruction is one token. OCR tokens are one token per letter, equal for all questions on an image,
and drawn so that prompts have about 680 positions.

    python speed/answers.py [--prompts 1000] [--original 48] [--batch-size 128] [--new-tokens 6] [--tiny]

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from random_model import random_model
from torch.utils.data import DataLoader, Dataset

from toolkit.images.reading import read_image
from toolkit.images.squares import pad_to_square
from toolkit.models.mgm.answering.answerer import GROUP_SIZE, Answerer
from toolkit.models.mgm.answering.greedy import Batch
from toolkit.models.mgm.answering.prefixes import read_prefixes
from toolkit.models.mgm.common.names import IMAGE_TOKEN_INDEX
from toolkit.models.mgm.common.speed import REFERENCE, speed_for
from toolkit.models.mgm.configuration_mgm import MGMConfig
from toolkit.models.mgm.modeling_mgm import MGMGemmaForCausalLM
from toolkit.models.mgm.processing_mgm import MGMProcessor
from toolkit.models.mgm.tiny import tiny_config
from toolkit.models.mgm.vision.pixels import Pixels
from toolkit.models.tiny_tokenizer import tiny_tokenizer
from toolkit.questions.prompts import Prompt
from toolkit.tokens import with_image

INSTRUCTION = "Answer the question using a single word or phrase."
SIZES = ((400, 370), (500, 375), (640, 480), (768, 1024), (1024, 683), (1024, 768))
WORDS = "what is the number brand name written on this sign of of time which colour does it say".split()  # noqa: SIM905
QUESTIONS_PER_IMAGE = 5000 / 3166


def main() -> None:
    """Run the command; see the module docstring."""
    parser = argparse.ArgumentParser(description="Answers per second, this toolkit against the original code path.")
    parser.add_argument("--prompts", type=int, default=1000, help="prompts per pass of this toolkit")
    parser.add_argument(
        "--original", type=int, default=48, help="prompts for the original code path, at least 2; 0 skips it"
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=6)
    parser.add_argument("--workers", type=int, help="workers of this toolkit; default: one per core, at most 16")
    parser.add_argument("--compiled", action="store_true", help="use torch.compile, which takes minutes to start")
    parser.add_argument(
        "--per-picture", type=float, default=QUESTIONS_PER_IMAGE, help="questions per image; MMBench has 3.72"
    )
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.original == 1 or args.original < 0:
        parser.error(f"--original {args.original}: the first answer is not timed; give at least 2, or 0 to skip it")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(tiny=args.tiny, device=device)
    config: Any = model.config
    processor = MGMProcessor.for_config(config, make_tokenizer())
    answerer = Answerer(
        model=model, processor=processor, batch_size=args.batch_size, max_new_tokens=args.new_tokens,
        workers=args.workers, stop=frozenset(),
    )  # fmt: skip
    fast = speed_for({"compiled": args.compiled}, device)
    with tempfile.TemporaryDirectory() as folder:
        prompts = make_prompts(Path(folder), args.prompts, args.per_picture)
        peer_prompts = prompts[: args.original]
        model.speed = fast
        answerer(prompts[: max(2 * args.batch_size, 4 * GROUP_SIZE)])
        first, answers, memory = timed(lambda: answerer(prompts))
        model.speed = REFERENCE
        peer = partial(original, model, processor, peer_prompts, args.new_tokens)
        textvqa, expected = each_after_the_first(peer(workers=4)) if peer_prompts else (None, [])
        mmbench = each_after_the_first(peer(workers=0))[0] if peer_prompts else None
        model.speed = fast
        second, _, _ = timed(lambda: answerer(prompts))
        part_seconds = part_times(answerer, prompts[: args.batch_size])
    rate = len(prompts) / ((first + second) / 2)
    lengths = [processor.positions(processor.encode_prompt(with_image(p.text))) for p in prompts]
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "cores": len(os.sched_getaffinity(0)),
        "prompts": len(prompts),
        "pictures": len({p.image for p in prompts}),
        "positions_per_prompt": [min(lengths), round(sum(lengths) / len(lengths)), max(lengths)],
        "new_tokens": args.new_tokens,
        "batch_size": args.batch_size,
        "compiled": args.compiled,
        "answers_per_s": round(rate, 2),
        "answers_per_s_of_each_pass": [round(len(prompts) / seconds, 2) for seconds in (first, second)],
        "original_prompts": len(peer_prompts),
        "original_answers_per_s": textvqa and round(1 / textvqa, 2),
        "original_answers_per_s_pictures_in_line": mmbench and round(1 / mmbench, 2),
        "ratio": textvqa and round(rate * textvqa, 2),
        "ratio_pictures_in_line": mmbench and round(rate * mmbench, 2),
        "same_answers": f"{sum(a.text == b for a, b in zip(answers, expected, strict=False))} of {len(peer_prompts)}",
        "peak_gib": memory,
        "milliseconds": part_seconds,
    }
    print(json.dumps(result))


def make_model(*, tiny: bool, device: str) -> MGMGemmaForCausalLM:
    """Build a model with random weights on the device."""
    # Larger initial weights than for training, so that the tiny model's answers differ.
    config = tiny_config(max_position_embeddings=2048, initializer_range=0.5) if tiny else MGMConfig()
    model = random_model(config, device=device, dtype=torch.float32 if tiny else torch.bfloat16).eval()
    generation: Any = model.generation_config
    generation.eos_token_id = None  # both write all tokens
    return model


def make_tokenizer() -> Any:
    """Build a tokenizer with one token per byte and per word of the question and the instruction."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["Reference OCR token:"])
    tokenizer.add_tokens(sorted({f" {word}" for word in [*WORDS, *INSTRUCTION.split()]}))
    return tokenizer


def make_prompts(folder: Path, count: int, per_image: float) -> list[Prompt]:
    """Write the images and return prompts in TextVQA's form."""
    choose = random.Random(0)
    images = [folder / f"{number}.jpg" for number in range(max(1, round(count / per_image)))]
    with ThreadPoolExecutor() as pool:
        list(pool.map(_write_image, images, range(len(images))))
    chosen = images + choose.choices(images, k=count - len(images))
    choose.shuffle(chosen)
    ocr = {image: _ocr_tokens(choose) for image in images}
    return [
        Prompt(id=str(number), image=image, text=f"{_question(choose)}\n{ocr[image]}\n {INSTRUCTION}")
        for number, image in enumerate(chosen)
    ]


def _question(choose: random.Random) -> str:
    return "".join(f" {word}" for word in choose.choices(WORDS, k=choose.randint(5, 14))) + "?"


def _ocr_tokens(choose: random.Random) -> str:
    letters = min(250, max(4, round(choose.lognormvariate(4.0, 0.7))))
    return "Reference OCR token: " + "".join(choose.choices("ABCDEFGHIKLMNOPRSTU,0123456789", k=letters))


def _write_image(path: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    size = SIZES[seed % len(SIZES)]
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    noise = draw.integers(-12, 13, smooth.shape, dtype=np.int16)
    Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=85)


class _OneByOne(Dataset[Any]):
    """Images of the prompts, prepared as by the original loader."""

    def __init__(self, prompts: Sequence[Prompt], processor: MGMProcessor) -> None:
        self.prompts, self.processor = prompts, processor

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, number: int) -> Pixels:
        source = self.prompts[number].image
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            padded = pad_to_square(opened.convert("RGB"))
        batch: Any = self.processor.image_processor.preprocess(padded, return_tensors="pt")
        aux = batch["pixel_values"]
        side = self.processor.image_size
        low = torch.nn.functional.interpolate(aux, size=(side, side), mode="bilinear", align_corners=False)
        return Pixels(low, aux)


def original(
    model: MGMGemmaForCausalLM, processor: MGMProcessor, prompts: Sequence[Prompt], new_tokens: int, *, workers: int
) -> Iterator[str]:
    """Yield answers one at a time, computed as by the original code."""
    loader = DataLoader(_OneByOne(prompts, processor), batch_size=None, num_workers=workers)
    for prompt, pixels in zip(prompts, loader, strict=True):
        ids = torch.tensor([processor.encode_prompt(with_image(prompt.text))], device=model.device)
        images, images_aux = (p.to(model.device, model.dtype) for p in pixels)
        with torch.inference_mode():
            generated = model.generate(
                ids, images=images, images_aux=images_aux, do_sample=False, max_new_tokens=new_tokens, pad_token_id=0
            )
        yield processor.tokenizer.batch_decode(generated, skip_special_tokens=True)[0].strip()


def each_after_the_first(answers: Iterator[str]) -> tuple[float, list[str]]:
    """Return mean seconds per answer and the answers; the first, which starts workers and warms up, is not timed."""
    first_answer = [next(answers)]
    seconds, remaining, _ = timed(lambda: list(answers))
    return seconds / len(remaining), first_answer + remaining


def timed(function: Callable[[], Any]) -> tuple[float, Any, float]:
    """Return seconds, the result, and the peak GPU memory in GiB."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = function()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return seconds, result, round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else 0.0


@torch.inference_mode()
def part_times(answerer: Answerer, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Time each part of this toolkit alone, in ms: ``GROUP_SIZE`` images, one batch of questions, one token."""
    model, processor = answerer.model, answerer.processor
    files = [prompt.image for prompt in prompts][:GROUP_SIZE]

    def best(function: Callable[[], Any]) -> tuple[float, Any]:
        runs = [timed(function) for _ in range(3)]
        return round(1000 * min(run[0] for run in runs), 2), runs[-1][1]

    prepare, squares = best(lambda: processor.squares([read_image(file, sample_id="") for file in files], aspect="pad"))
    on_device = squares.to(model.device)
    towers, features = best(lambda: model.encode_images(*(p.to(model.dtype) for p in processor.normalise(on_device))))
    project, embeds = best(lambda: model.project_images(features))
    ids = [processor.encode_prompt(with_image(prompt.text)) for prompt in prompts]
    at = ids[0].index(IMAGE_TOKEN_INDEX)
    prefix_time, prefix = best(lambda: read_prefixes(model, ids[0][:at], embeds))
    picked = prefix.pick([number % len(files) for number in range(len(ids))])
    questions, batch = best(lambda: Batch(model, picked, [row[at + 1 :] for row in ids]))

    def one_more() -> None:
        batch.advance(batch.tokens())

    token, _ = best(one_more)
    return {
        f"prepare {len(files)} images in one process": prepare,
        "towers": towers,
        "project": project,
        "prefixes": prefix_time,
        f"{len(ids)} questions": questions,
        "one token": token,
    }


if __name__ == "__main__":
    main()
