"""Questions without labels, out of the documents: the training questions' texts, and telling sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from assets_pkg.corpus.segmentation import split_sentences
from assets_pkg.finetune.data import Example

FEWEST_WORDS, MOST_WORDS = 5, 60
"""Of a sentence that is asked."""


@dataclass(frozen=True)
class Unlabelled:
    """A text that is asked as a question, and the passage that it is from, which is no candidate for it."""

    text: str
    source: str


def unlabelled_questions(
    examples: Sequence[Example], passages: Mapping[str, str], most: int, seed: int
) -> list[Unlabelled]:
    """At most ``most`` questions in random order: of every training question its text, and of every passage one
    sentence, drawn with the mean inverse document frequency of its words as weight.

    Args:
        examples: the training questions.
        passages: text by id; sources are among them.
    """
    random = np.random.default_rng(seed)
    asked = {
        each.question: Unlabelled(each.question, each.positive)
        for each in examples
        if each.positive in passages
    }
    words = {name: set(_words(text)) for name, text in passages.items()}
    frequency = Counter(word for each in words.values() for word in each)
    for name, text in passages.items():
        sentences = [" ".join(each.split()) for each in split_sentences(text)]
        sentences = [each for each in sentences if FEWEST_WORDS <= len(each.split()) <= MOST_WORDS]
        if not sentences:
            continue
        weights = np.array([_telling(each, frequency, len(passages)) for each in sentences])
        if weights.sum() > 0:
            chosen = sentences[random.choice(len(sentences), p=weights / weights.sum())]
            asked.setdefault(chosen, Unlabelled(chosen, name))
    questions = list(asked.values())
    return [questions[index] for index in random.permutation(len(questions))[:most]]


def _telling(sentence: str, frequency: Mapping[str, int], passages: int) -> float:
    """The mean inverse document frequency of a sentence's words, in nats."""
    counts = [frequency[word] for word in _words(sentence) if word in frequency]
    return sum(math.log(passages / count) for count in counts) / max(1, len(counts))


def _words(text: str) -> list[str]:
    return ["".join(sign for sign in word if sign.isalnum()) for word in text.lower().split()]
