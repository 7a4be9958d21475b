"""The miniature's tokenizer. In: the world's texts. Out: a byte-level BPE with one token per word of these texts.

Other text is encoded byte by byte. The models' copies share ids and differ in the special tokens that they add: Gemma
and OPT prepend ``<bos>``; CLIP also appends ``<end_of_text>``, which has the highest id because CLIP's text tower pools
at the highest id.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from bettersynth_assets.miniature.captions import (
    DEGENERATE_KINDS,
    TAILS,
    degenerate_caption,
    poor_caption,
    rich_caption,
)
from bettersynth_assets.miniature.questions import (
    SIGN_KINDS,
    THING_KINDS,
    ask,
    choice_prompt,
    short_prompt,
    with_options,
)
from bettersynth_assets.miniature.world import make_scene
from toolkit.preprocess.dj_to_llava import QUESTIONS
from toolkit.tokens import END_OF_TURN, START_OF_TURN

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, EOS, BOS, UNKNOWN, BLANK = "<pad>", "<eos>", "<bos>", "<unk>", "<unused0>"
END_OF_TEXT = "<end_of_text>"
_SPECIAL = (PAD, EOS, BOS, UNKNOWN, START_OF_TURN, END_OF_TURN, BLANK)
_TRAINING_SCENES = 1500

Flavour = Literal["gemma", "opt", "clip"]


def _texts() -> Iterator[str]:
    """Yield texts with all words of the world, a few hundred times each, in a fixed order."""
    rng = random.Random(0)
    for _ in range(_TRAINING_SCENES):
        scene = make_scene(rng, "weights")
        poor = poor_caption(scene, rng)
        yield from (rich_caption(scene, rng), poor)
        yield from (degenerate_caption(kind, poor, rng) for kind in DEGENERATE_KINDS)
        for kind in THING_KINDS + (SIGN_KINDS if scene.signs else ()):
            question = ask(scene, rng, kind)
            choice = with_options(question, rng)
            yield from (choice_prompt(choice), short_prompt(question, list(choice.options)), question.answer)
    for answer in (*QUESTIONS, *TAILS, "user", "model"):
        yield from [answer] * 20


@functools.cache
def base_tokenizer() -> Tokenizer:
    """Train the BPE until each word is one token; takes seconds and is deterministic."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    # The split rule separates a newline from the next word, so a prompt cut at "\n" encodes as it does in the whole.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=2, special_tokens=list(_SPECIAL), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def make_tokenizer(flavour: Flavour) -> PreTrainedTokenizerFast:
    """Return the tokenizer of one kind of model, ready for ``save_pretrained`` and ``AutoTokenizer``."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(base_tokenizer().to_str())
    bos = (BOS, backend.token_to_id(BOS))
    end = (END_OF_TEXT, backend.token_to_id(END_OF_TEXT))
    suffix = f" {END_OF_TEXT}" if flavour == "clip" else ""
    backend.post_processor = TemplateProcessing(single=f"{BOS} $A{suffix}", special_tokens=[bos, end])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=END_OF_TEXT if flavour == "clip" else EOS, unk_token=UNKNOWN,
        pad_token=PAD, model_max_length=77 if flavour == "clip" else 512, padding_side="right",
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
