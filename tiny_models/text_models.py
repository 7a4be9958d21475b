"""Small trained text models in the file formats of fastText, SentencePiece, KenLM, spaCy and NLTK.

Each is trained here within seconds on a few sentences with the captions' vocabulary.
"""

from __future__ import annotations

import math
import random
import struct
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

ENGLISH = (
    "a red square on the left of a blue circle",
    "two dogs run in the park near the door",
    "the small cat sat on the mat and looked at the dog",
    "a large yellow circle in the sky",
    "the man sees a green square by the window today",
)
FRENCH = (
    "un carré rouge à gauche du cercle bleu",
    "deux chiens courent dans le parc près de la porte",
    "le petit chat est assis sur le tapis et regarde le chien",
    "un grand cercle jaune dans le ciel",
    "l' homme voit un carré vert par la fenêtre aujourd'hui",
)
# Word, Penn tag, head (by position) and relation of each word.
PARSED = (
    "two/CD/1/nummod dogs/NNS/2/nsubj run/VBP/2/ROOT",
    "the/DT/1/det cat/NN/2/nsubj sat/VBD/2/ROOT on/IN/2/prep the/DT/5/det mat/NN/3/pobj",
    "the/DT/1/det man/NN/2/nsubj sees/VBZ/2/ROOT a/DT/4/det dog/NN/2/dobj",
    "a/DT/2/det red/JJ/2/amod square/NN/2/ROOT on/IN/2/prep the/DT/5/det left/NN/3/pobj",
    "a/DT/2/det small/JJ/2/amod circle/NN/2/ROOT near/IN/2/prep a/DT/6/det blue/JJ/6/amod square/NN/3/pobj",
    "a/DT/1/det dog/NN/2/nsubj looked/VBD/2/ROOT at/IN/2/prep the/DT/5/det cat/NN/3/pobj",
)
POS = {
    "CD": "NUM", "NNS": "NOUN", "NN": "NOUN", "VBP": "VERB", "VBD": "VERB", "VBZ": "VERB", "DT": "DET", "IN": "ADP",
    "JJ": "ADJ",
}  # fmt: skip


def make_fasttext(path: Path, dim: int = 8, seed: int = 0) -> Path:
    """Write a classifier of English and French words in fastText's binary format (version 12, softmax, no n-grams)."""
    import torch

    labels = {"en": ENGLISH, "fr": FRENCH}
    counts = Counter(word for sentences in labels.values() for text in sentences for word in text.split())
    words = {word: index for index, word in enumerate(sorted(counts))}
    examples = [
        (torch.tensor([words[word] for word in text.split()]), target)
        for target, sentences in enumerate(labels.values())
        for text in sentences
    ]
    torch.manual_seed(seed)
    vectors = torch.empty(len(words), dim).uniform_(-1 / dim, 1 / dim).requires_grad_()
    outputs = torch.zeros(len(labels), dim, requires_grad=True)
    steps = torch.optim.SGD([vectors, outputs], lr=5.0)
    targets = torch.tensor([target for _, target in examples])
    for _ in range(60):
        means = torch.stack([vectors[indices].mean(0) for indices, _ in examples])
        loss = torch.nn.functional.cross_entropy(means @ outputs.T, targets)
        steps.zero_grad()
        loss.backward()
        steps.step()
    settings = (dim, 5, 60, 1, 5, 1, 3, 3, 0, 0, 0, 100)  # loss 3 is softmax, model 3 is supervised
    blob = struct.pack("<2i", 793712314, 12) + struct.pack("<12id", *settings, 1e-4)
    entries = [(word, counts[word], 0) for word in words]
    entries += [(f"__label__{label}", len(texts), 1) for label, texts in labels.items()]
    blob += struct.pack("<3i2q", len(entries), len(words), len(labels), sum(counts.values()), -1)
    for text, count, kind in entries:
        blob += text.encode() + b"\0" + struct.pack("<qb", count, kind)
    for matrix in (vectors, outputs):
        blob += struct.pack("<?2q", False, *matrix.shape) + matrix.detach().numpy().astype("<f4").tobytes()
    path.write_bytes(blob)
    return path


def make_perplexity(folder: Path) -> Path:
    """Write ``en.sp.model``, trained on the English sentences, and a bigram model of its pieces, ``en.arpa.bin``."""
    import sentencepiece

    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in ENGLISH for _ in range(20)]),
        model_prefix=str(folder / "en.sp"),
        vocab_size=60,
        model_type="bpe",
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "en.sp.model"))
    sentences = [["<s>", *pieces.encode_as_pieces(text), "</s>"] for text in ENGLISH]
    (folder / "en.arpa.bin").write_text(arpa(sentences), encoding="utf-8")
    return folder


def arpa(sentences: Sequence[Sequence[str]], discount: float = 0.5) -> str:
    """Return a bigram model with absolute discounting and back-off as ARPA text."""
    ones = Counter(word for words in sentences for word in words if word != "<s>")
    twos = Counter(pair for words in sentences for pair in pairwise(words))
    total = sum(ones.values()) + 1  # the unknown word counts once
    chances = {word: count / total for word, count in ones.items()} | {"<unk>": 1 / total}
    lines = ["\\data\\", f"ngram 1={len(chances) + 1}", f"ngram 2={len(twos)}", "", "\\1-grams:"]
    for word in [*sorted(chances), "<s>"]:
        followers = {second: count for (first, second), count in twos.items() if first == word}
        seen = sum(followers.values())
        left = discount * len(followers) / seen / (1 - sum(chances[item] for item in followers)) if seen else 1.0
        lines.append(f"{math.log10(chances.get(word, 1e-99)):.6f}\t{word}\t{math.log10(left):.6f}")
    lines += ["", "\\2-grams:"]
    firsts = Counter(first for words in sentences for first in words[:-1])
    lines += [
        f"{math.log10((count - discount) / firsts[first]):.6f}\t{first} {second}"
        for (first, second), count in sorted(twos.items())
    ]
    return "\n".join([*lines, "", "\\end\\", ""])


def parsed_sentences() -> list[list[tuple[str, str, int, str]]]:
    return [
        [(word, tag, int(head), dep) for word, tag, head, dep in (item.split("/") for item in line.split())]
        for line in PARSED
    ]


def make_spacy(folder: Path) -> Path:
    """Write an English pipeline with tagger, parser and the map from tags to parts of speech."""
    import spacy
    from spacy.tokens import Doc
    from spacy.training import Example

    spacy.util.fix_random_seed(0)
    pipeline = spacy.blank("en")
    pipeline.add_pipe("tagger")
    pipeline.add_pipe("parser", config={"min_action_freq": 1})
    examples = []
    for sentence in parsed_sentences():
        words, tags, heads, deps = (list(column) for column in zip(*sentence, strict=True))
        gold = Doc(pipeline.vocab, words=words, tags=tags, heads=heads, deps=deps)
        examples.append(Example(Doc(pipeline.vocab, words=words), gold))
    optimizer = pipeline.initialize(lambda: examples)
    for _ in range(25):
        pipeline.update(examples, sgd=optimizer)
    ruler = pipeline.add_pipe("attribute_ruler")
    for tag, pos in POS.items():
        ruler.add(patterns=[[{"TAG": tag}]], attrs={"POS": pos})
    pipeline.to_disk(folder)
    return folder


def make_nltk(folder: Path) -> Path:
    """Write NLTK data: punkt's tables and the perceptron tagger, in the layout of ``nltk.downloader``."""
    import nltk
    from nltk.tag.perceptron import PerceptronTagger
    from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

    folder.mkdir(parents=True, mode=0o700)
    nltk.data.path.insert(0, str(folder))
    trainer = PunktTrainer()
    trainer.train("\n".join(f"{text.capitalize()}." for text in ENGLISH))
    sentences = folder / "tokenizers" / "punkt_tab"
    sentences.mkdir(parents=True)
    save_punkt_params(trainer.get_params(), dir=str(sentences / "english"))
    state = random.getstate()
    random.seed(0)
    tagger = PerceptronTagger(load=False)
    tagged = [[(word, tag) for word, tag, _, _ in sentence] for sentence in parsed_sentences()]
    (folder / "taggers").mkdir()
    tagger.train(tagged, save_loc=str(folder / "taggers" / "averaged_perceptron_tagger_eng"), nr_iter=10)
    random.setstate(state)
    nltk.data.path.remove(str(folder))
    return folder
