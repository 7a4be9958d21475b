"""A byte-level tokenizer for the tiny models of tests."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from toolkit.tokens import END_OF_TURN, START_OF_TURN


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer: 0 pad, 1 eos, 2 bos, 3 unk, 4 and 5 Gemma's turn marks, then the 256 bytes."""
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", START_OF_TURN, END_OF_TURN]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*marks, *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        additional_special_tokens=marks[4:], padding_side="left",
    )  # fmt: skip
