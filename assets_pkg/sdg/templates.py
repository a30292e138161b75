"""Question templates: pairs from a text's own structure, where a heading, title, question or summary is about the text
below it.

The question is removed from the passage, so that the pair cannot be solved by matching strings. Random sentences as
questions (inverse cloze task) and keyword queries are not used: measured on human queries they gain nothing or harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from assets_pkg.corpus.segmentation import split_sections, split_sentences
from assets_pkg.sdg.question_filters import MIN_QUESTION_WORDS, content_words, rejection_reason, strip_markup
from resources.language import ENGLISH, language_of
from storage.artifacts import Passage

Template = Literal["question", "title", "heading", "summary", "definition", "lead"]

_CODE_NAME = re.compile(r"[\w.]*[._]\w[\w.]*(\(.*)?|\w+\(.*|[a-z]+[A-Z]\w*|[a-z0-9]+", re.DOTALL)
_DEFINITION = re.compile(
    r"(?:An?|The)?\s*(?P<term>[\w][\w \-/']{2,60}?)\s+(?P<verb>is|are)\s+(?:an?|the|any|one of)\s+\S",
    re.IGNORECASE,
)
_PRONOUN = re.compile(
    r"(this|that|it|these|those|there|here|he|she|they|we|you|which|what|each|if)\b", re.IGNORECASE
)
_QUESTION_MARKS = ("?", "？", "؟")
_SPECIAL_NAME = re.compile(r"(^|\.)_\w")


@dataclass(frozen=True)
class TemplatePair:
    """A question, and the passage that answers it with the question removed; ``rejection``: why it is not used, or
    empty."""

    kind: Template
    question: str
    doc_id: str
    chunk_id: int
    positive: str
    answer: str
    rejection: str


@dataclass(frozen=True)
class _Opening:
    """The first passage of a section: its heading's lines, and the text below."""

    heading: str
    head: str
    body: str


def apply_templates(passage: Passage) -> TemplatePair | None:
    """The pair of the section that this passage begins; None for a later passage of a section.

    Of the templates the first valid one is used; if none is valid, the first with its ``rejection``.
    """
    opening = _opening(passage)
    if opening is None or _SPECIAL_NAME.search(opening.heading.partition("(")[0]):
        return None
    rejected: TemplatePair | None = None
    language = language_of(passage.text)
    for kind, question, positive, answer in _candidates(passage, opening, language):
        least = MIN_QUESTION_WORDS - (kind in ("definition", "question"))
        reason = rejection_reason(question, answer, least, language)
        pair = TemplatePair(kind, question, passage.doc_id, passage.chunk_id, positive, answer, reason)
        if not reason:
            return pair
        rejected = rejected or pair
    return rejected


def _opening(passage: Passage) -> _Opening | None:
    first = passage.chunk_id == 1
    sections = split_sections(passage.text, plain_title=first)
    section = sections[-1]
    if sections[0].heading:
        # A passage of split code may begin with a comment that looks like a heading; its own heading is right.
        if section.heading != passage.section:
            return None
    elif not first or len(sections) > 1:
        return None
    return _Opening(
        section.heading, passage.text[: section.body].strip(), passage.text[section.body :].strip()
    )


def _candidates(
    passage: Passage, opening: _Opening, language: str
) -> Iterator[tuple[Template, str, str, str]]:
    """Template, question, positive text and the part of it that answers; the most specific template first."""
    body = opening.body
    asked = _heading_question(passage.title, opening.heading, language)
    if asked:
        kind: Template = "heading"
        if asked.endswith(_QUESTION_MARKS):
            kind = "question"
        elif passage.chunk_id == 1 and opening.heading == passage.title:
            kind = "title"
        yield kind, asked, body, body
    sentence, rest, alone = _first_sentence(body, language)
    kept = f"{opening.head}\n\n{rest}".strip()
    if alone and rest:
        yield "summary", strip_markup(sentence), kept, rest
    if language == ENGLISH and (term := _defined_term(sentence)):
        yield "definition", term, passage.text, body
    if not asked:
        yield "lead", strip_markup(sentence), kept, rest


def _heading_question(title: str, heading: str, language: str) -> str:
    """The heading as a question, with the document's title before a short one; empty if it is code."""
    asked = strip_markup(heading)
    if not asked or _CODE_NAME.fullmatch(asked):
        return ""
    if (
        asked.endswith(_QUESTION_MARKS)
        or len(set(content_words(asked, language))) >= MIN_QUESTION_WORDS
        or title == heading
    ):
        return asked
    return "" if _CODE_NAME.fullmatch(title) else f"{strip_markup(title)}: {asked}"


def _first_sentence(body: str, language: str) -> tuple[str, str, bool]:
    """The body's first sentence, the rest, and whether the sentence is a paragraph by itself."""
    paragraph = re.split(r"\n[ \t]*\n", body, maxsplit=1)[0]
    sentence = next(iter(split_sentences(paragraph, language)), "")
    rest = body[len(sentence) :].strip()
    return sentence.strip(), rest, len(sentence.strip()) == len(paragraph.strip())


def _defined_term(sentence: str) -> str:
    """``What is coroutine wrapper?`` for ``A coroutine wrapper is an object ...``, else an empty text."""
    match = _DEFINITION.match(sentence)
    if not match or _PRONOUN.match(match["term"]):
        return ""
    return f"What {match['verb'].lower()} {match['term']}?"
