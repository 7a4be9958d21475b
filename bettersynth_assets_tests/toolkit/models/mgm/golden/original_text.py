"""Tokenizer, ids and labels by the original MGM code; imported by ``make_mgm_golden.py``, in its environment."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import rows
import sentencepiece
import tokenizers
import transformers
from mgm import conversation as conversation_lib
from mgm.mm_utils import tokenizer_image_token
from mgm.train import train


def row_numbers(tokenizer: Any, turns: list[list[str]], has_image: bool) -> dict[str, Any]:
    """Return ids and labels of one row by the original's two steps."""
    source = [{"from": speaker, "value": text} for speaker, text in turns]
    if has_image:
        data = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
        source = train.preprocess_multimodal([copy.deepcopy(source)], data)[0]
    encoded = train.preprocess_gemma([source], tokenizer, has_image=has_image)
    return {"input_ids": encoded["input_ids"][0].tolist(), "labels": encoded["labels"][0].tolist()}


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """Return ids of an evaluation prompt, built as in the original's evaluation."""
    talk = conversation_lib.conv_templates["gemma"].copy()
    talk.append_message(talk.roles[0], f"<image>\n{question}")
    talk.append_message(talk.roles[1], None)
    return tokenizer_image_token(talk.get_prompt(), tokenizer)


def make_tokenizer(folder: Path) -> tuple[Any, Any]:
    """Write tokenizers of Gemma's class: BPE, byte fallback, no dummy prefix, marks and line breaks whole."""
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "text"
        text.write_text("\n".join(rows.TRAINING_TEXT), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=f"{scratch}/tokenizer", vocab_size=560, model_type="bpe", byte_fallback=True,
            add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity",
            split_digits=True, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
            bos_piece="<bos>", unk_piece="<unk>", user_defined_symbols=rows.SYMBOLS, hard_vocab_limit=False,
            minloglevel=2, character_coverage=0.99,
        )  # fmt: skip
        slow = transformers.GemmaTokenizer(
            f"{scratch}/tokenizer.model", additional_special_tokens=["<start_of_turn>", "<end_of_turn>"]
        )
        slow.save_pretrained(scratch)
        tokenizer = transformers.GemmaTokenizerFast.from_pretrained(scratch)
        # The public tokenizer.json lists the runs of line breaks as added tokens.
        tokenizer.add_tokens([tokenizers.AddedToken(s, normalized=False) for s in rows.SYMBOLS if s.startswith("\n")])
        tokenizer.save_pretrained(folder)
    (folder / "tokenizer.model").unlink(missing_ok=True)
    return slow, transformers.AutoTokenizer.from_pretrained(folder, model_max_length=2048, padding_side="right")
