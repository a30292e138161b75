"""Question-answer pairs that a text's own structure holds: a heading, title, question or summary is about
the text below it.

The question's words are cut out of the passage, so that finding it means understanding and not matching of
strings. Random sentences as questions (inverse cloze task) and keyword queries are left out on purpose: measured on
human queries they gain nothing or harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from assets_pkg.corpus.segmentation import split_sections, split_sentences
from assets_pkg.sdg.question_filters import MIN_QUESTION_WORDS, content_words, objection, plain
from storage.artifacts import Passage

Kind = Literal["question", "title", "heading", "summary", "definition", "lead"]

_CODE_NAME = re.compile(r"[\w.]*[._]\w[\w.]*(\(.*)?|\w+\(.*|[a-z]+[A-Z]\w*|[a-z0-9]+", re.DOTALL)
_DEFINITION = re.compile(
    r"(?:An?|The)?\s*(?P<term>[\w][\w \-/']{2,60}?)\s+(?P<verb>is|are)\s+(?:an?|the|any|one of)\s+\S",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"(this|that|it|these|those|there|here|he|she|they|we|you|which|what|each|if)\b", re.IGNORECASE
)
_SPECIAL_NAME = re.compile(r"(^|\.)_\w")


@dataclass(frozen=True)
class Pair:
    """A question, the passage that answers it, and that passage's text with the question cut out."""

    kind: Kind
    question: str
    doc_id: str
    chunk_id: int
    positive: str
    answer: str
    objection: str


@dataclass(frozen=True)
class _Opening:
    """The first passage of a section: its heading's lines, and the text below."""

    heading: str
    head: str
    body: str


def pair_of(passage: Passage) -> Pair | None:
    """The best pair of the section that this passage opens; None inside a section.

    Where no kind of pair is good, the most telling one is returned with its ``objection``.
    """
    opening = _opening(passage)
    if opening is None or _SPECIAL_NAME.search(opening.heading.partition("(")[0]):
        return None
    refused: Pair | None = None
    for kind, question, positive, answer in _attempts(passage, opening):
        least = MIN_QUESTION_WORDS - (kind in ("definition", "question"))
        reason = objection(question, answer, least)
        pair = Pair(kind, question, passage.doc_id, passage.chunk_id, positive, answer, reason)
        if not reason:
            return pair
        refused = refused or pair
    return refused


def _opening(passage: Passage) -> _Opening | None:
    first = passage.chunk_id == 1
    sections = split_sections(passage.text, plain_title=first)
    section = sections[-1]
    if sections[0].heading:
        # Code cut in the middle may start with a comment that looks like a heading: the passage knows better.
        if section.heading != passage.section:
            return None
    elif not first or len(sections) > 1:
        return None
    return _Opening(
        section.heading, passage.text[: section.body].strip(), passage.text[section.body :].strip()
    )


def _attempts(passage: Passage, opening: _Opening) -> Iterator[tuple[Kind, str, str, str]]:
    """Kind, question, positive text and its part that answers; the most telling kind first."""
    body = opening.body
    asked = _heading_question(passage.title, opening.heading)
    if asked:
        kind: Kind = "heading"
        if asked.endswith("?"):
            kind = "question"
        elif passage.chunk_id == 1 and opening.heading == passage.title:
            kind = "title"
        yield kind, asked, body, body
    sentence, rest, alone = _first_sentence(body)
    kept = f"{opening.head}\n\n{rest}".strip()
    if alone and rest:
        yield "summary", plain(sentence), kept, rest
    if term := _defined_term(sentence):
        yield "definition", term, passage.text, body
    if not asked:
        yield "lead", plain(sentence), kept, rest


def _heading_question(title: str, heading: str) -> str:
    """The heading as a question; a short one needs the document's title to be understood."""
    asked = plain(heading)
    if not asked or _CODE_NAME.fullmatch(asked):
        return ""
    if asked.endswith("?") or len(set(content_words(asked))) >= MIN_QUESTION_WORDS or title == heading:
        return asked
    return "" if _CODE_NAME.fullmatch(title) else f"{plain(title)}: {asked}"


def _first_sentence(body: str) -> tuple[str, str, bool]:
    """The body's first sentence, what follows, and whether the sentence is a paragraph of its own."""
    paragraph = re.split(r"\n[ \t]*\n", body, maxsplit=1)[0]
    sentence = next(iter(split_sentences(paragraph)), "")
    rest = body[len(sentence) :].strip()
    return sentence.strip(), rest, len(sentence.strip()) == len(paragraph.strip())


def _defined_term(sentence: str) -> str:
    """``What is a coroutine wrapper?`` for ``A coroutine wrapper is an object ...``, else nothing."""
    match = _DEFINITION.match(sentence)
    if not match or _PRONOUN.match(match["term"]):
        return ""
    return f"What {match['verb'].lower()} {match['term']}?"
