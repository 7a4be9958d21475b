"""Tiny random checkpoints in the file formats of public repositories, and a hub cache that holds them.

The formats are those of the repositories named in docs/operators.md: SigLIP has a SentencePiece model and ends and
pads captions with the same token, SigLIP 2 has Gemma's ``tokenizer.json``, MetaCLIP 2 XLM-RoBERTa's and a processor
that squashes images, CLIP byte pairs, a ``preprocessor_config.json`` of the first form and a pickle of tensors.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_models.profile_models import WORDS, make_clip
from tiny_models.scorers import (
    LIMIT,
    SIDE,
    SIZES,
    SQUASH,
    TEXT,
    VISION,
    make_open_clip_of,
    randomised,
)

UNLIMITED = 1000000000000000019884624838656
"""``model_max_length`` of a tokenizer without a limit, such as Gemma's."""


def into_cache(home: Path, name: str, folder: Path, *, absent: tuple[str, ...] = ()) -> None:
    """Write a folder's files below ``HF_HOME`` in the layout of the hub's client: blobs, links to them, a reference.

    Args:
        home: the value of ``HF_HOME``.
        name: of the repository.
        folder: its files.
        absent: requested files that are not in the repository, which the client also records.
    """
    place = home / "hub" / f"models--{name.replace('/', '--')}"
    revision = hashlib.sha1(name.encode()).hexdigest()
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    (place / "blobs").mkdir()
    (place / "snapshots" / revision).mkdir(parents=True)
    for file in absent:
        (place / ".no_exist" / revision).mkdir(parents=True, exist_ok=True)
        (place / ".no_exist" / revision / file).touch()
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        blob = hashlib.sha256(content).hexdigest()
        (place / "blobs" / blob).write_bytes(content)
        (place / "snapshots" / revision / path.name).symlink_to(Path("../../blobs") / blob)


def _write(folder: Path, **files: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values, indent=2))


def _sentences() -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=8)) for _ in range(400)]


def _text(vocabulary: int, **more: int) -> dict[str, Any]:
    return {**SIZES, "vocab_size": vocabulary, "max_position_embeddings": LIMIT, **more}


def make_public_clip(folder: Path) -> Path:
    """As openai/clip-vit-base-patch32: a pickle of tensors with buffers, the first form of the processor's file."""
    import torch
    from transformers import CLIPModel

    model = randomised(CLIPModel.from_pretrained(make_clip(folder)))
    weights = dict(model.state_dict())
    for tower, positions in (("text_model", LIMIT), ("vision_model", 17)):
        weights[f"{tower}.embeddings.position_ids"] = torch.arange(positions)[None]
    torch.save(weights, folder / "pytorch_model.bin")
    for saved in ("model.safetensors", "processor_config.json", "tokenizer.json"):
        (folder / saved).unlink(missing_ok=True)
    _write(
        folder,
        preprocessor_config={
            "crop_size": 32, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3,
            "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711], "size": 32,
        },
    )  # fmt: skip
    return folder


def make_public_metaclip2(folder: Path) -> Path:
    """As facebook/metaclip-2-worldwide-huge-quickgelu: XLM-RoBERTa's tokens, squashed images; weights in shards."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import MetaClip2Config, MetaClip2Model

    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*((special, 0.0) for special in specials), *((f"▁{word}", -3.0) for word in WORDS)]
    pieces += [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    tokens = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokens.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokens.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    text = _text(len(pieces), bos_token_id=0, eos_token_id=2, pad_token_id=1)
    config = MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=16)
    randomised(MetaClip2Model(config)).save_pretrained(folder, max_shard_size="60KB")
    tokens.save(str(folder / "tokenizer.json"))
    _write(
        folder,
        tokenizer_config={
            "tokenizer_class": "XLMRobertaTokenizer", "model_max_length": LIMIT, "bos_token": "<s>",
            "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
        },
        preprocessor_config={
            "image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor", "do_center_crop": True,
            "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3, "rescale_factor": 1 / 255,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
            "size": {"height": SIDE, "width": SIDE}, "crop_size": {"height": SIDE, "width": SIDE},
        },
    )  # fmt: skip
    return folder


def _siglip_processor(side: int) -> dict[str, Any]:
    return {
        "image_processor_type": "SiglipImageProcessor", "processor_class": "SiglipProcessor", "do_normalize": True,
        "do_rescale": True, "do_resize": True, "resample": 3, "rescale_factor": 1 / 255, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "size": {"height": side, "width": side},
    }  # fmt: skip


def sentencepiece_model() -> bytes:
    """A SentencePiece model with the ids of T5's, as SigLIP has: padding 0, end 1, unknown 2."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_sentences()), model_writer=model, vocab_size=80, hard_vocab_limit=False, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, add_dummy_prefix=False, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def make_public_siglip(folder: Path) -> Path:
    """As google/siglip-base-patch16-224: ``spiece.model``, and ``</s>`` both ends a caption and fills its row up."""
    import sentencepiece
    from transformers import SiglipConfig, SiglipModel

    pieces = sentencepiece_model()
    size = sentencepiece.SentencePieceProcessor(model_proto=pieces).get_piece_size()
    text = _text(size, bos_token_id=0, eos_token_id=1, pad_token_id=1, projection_size=32)
    randomised(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))).save_pretrained(folder)
    (folder / "spiece.model").write_bytes(pieces)
    _write(
        folder,
        tokenizer_config={
            "tokenizer_class": "SiglipTokenizer", "processor_class": "SiglipProcessor", "model_max_length": LIMIT,
            "do_lower_case": True, "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>",
            "model_input_names": ["input_ids"], "sp_model_kwargs": {}, "additional_special_tokens": [],
        },
        preprocessor_config=_siglip_processor(SIDE),
    )  # fmt: skip
    return folder


def write_gemma_tokenizer(folder: Path, *, lowers: bool = False) -> int:
    """Write Gemma's byte pairs with an end token and no start token, as in SigLIP 2; it has no length limit.

    Returns:
        The size of the vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    tokens.normalizer = (  # type: ignore[assignment]
        normalizers.Sequence([normalizers.Lowercase(), space]) if lowers else space
    )
    tokens.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")  # type: ignore[assignment]
    tokens.train_from_iterator(
        [word for sentence in _sentences() for word in (sentence[:1], *(f"▁{word}" for word in sentence.split()))],
        trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False),  # type: ignore[call-arg]
    )
    tokens.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])  # type: ignore[assignment]
    tokens.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokens.save(str(folder / "tokenizer.json"))
    _write(
        folder,
        tokenizer_config={
            "tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, "bos_token": "<bos>",
            "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", "padding_side": "right",
            "model_max_length": UNLIMITED, "model_input_names": ["input_ids"],
        },
    )  # fmt: skip
    return tokens.get_vocab_size()


def make_public_siglip2(folder: Path) -> Path:
    """As google/siglip2-base-patch16-224: class and ``model_type`` of SigLIP, tokens of Gemma."""
    from transformers import SiglipConfig, SiglipModel

    size = write_gemma_tokenizer(folder)
    text = _text(size, bos_token_id=2, eos_token_id=1, pad_token_id=0, projection_size=32)
    randomised(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))).save_pretrained(folder)
    _write(folder, preprocessor_config=_siglip_processor(SIDE))
    return folder


def make_public_naflex(folder: Path) -> Path:
    """As google/siglip2-base-patch16-naflex: at most 256 patches of 16 pixels, 64 tokens."""
    from transformers import Siglip2Config, Siglip2Model

    size = write_gemma_tokenizer(folder)
    text = _text(size, bos_token_id=2, eos_token_id=1, pad_token_id=0, projection_size=32)
    text["max_position_embeddings"] = 64  # the processor of transformers pads to no other length
    vision = {**SIZES, "num_patches": 256, "patch_size": 16}
    randomised(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))).save_pretrained(folder)
    processor = _siglip_processor(SIDE)
    del processor["size"]
    processor |= {"image_processor_type": "Siglip2ImageProcessor", "processor_class": "Siglip2Processor"}
    _write(folder, preprocessor_config={**processor, "patch_size": 16, "max_num_patches": 256})
    return folder


def make_public_open_clip(folder: Path) -> Path:
    """As laion/CLIP-ViT-B-32-laion2B-s34B-b79K without the files for transformers."""
    vision = {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 5}
    model = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    return make_open_clip_of(folder, model, {"size": SIDE, "interpolation": "bicubic"}, kind="CLIP")


def make_public_open_clip_siglip(folder: Path, name: str) -> Path:
    """As timm/ViT-B-16-SigLIP2: a tower of timm; the tokenizer is given by the repository's id."""
    size = write_gemma_tokenizer(folder)
    vision = {
        "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none",
        "image_size": 160,
    }  # fmt: skip
    text = {
        "context_length": LIMIT, "vocab_size": size, "hf_tokenizer_name": name, "width": 64, "heads": 2, "layers": 1,
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6},
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }  # fmt: skip
    model = {"embed_dim": 64, "init_logit_bias": -10, "vision_cfg": vision, "text_cfg": text}
    return make_open_clip_of(
        folder, model, {**SQUASH, "size": [160, 160]}, kind="CustomTextCLIP", writes_tokenizer=False
    )


REPOSITORIES: dict[str, Callable[[Path], Path]] = {
    "acme/clip": make_public_clip,
    "acme/metaclip-2": make_public_metaclip2,
    "acme/siglip": make_public_siglip,
    "acme/siglip2": make_public_siglip2,
    "acme/siglip2-naflex": make_public_naflex,
    "hf-hub:acme/open-clip": make_public_open_clip,
    "hf-hub:acme/open-clip-siglip2": lambda folder: make_public_open_clip_siglip(folder, "acme/open-clip-siglip2"),
}
"""By the name in ``models.clip``."""
