"""Filters for questions: their words, and why a question is rejected."""

from __future__ import annotations

import re

import regex

from resources.language import ENGLISH

MIN_QUESTION_WORDS = 3
MAX_QUESTION_WORDS = 40
MIN_ANSWER_WORDS = 8
"""Counted in content words: those that are not in :data:`STOP_WORDS`."""

_STOP_TEXT = (
    "a an and any are as at be been being but by can could did do does each etc for from given had has have he "
    "her his how if in into is it its itself may more most must my no nor not of on one only or other our out "
    "own return returned returning returns same self set sets get gets shall she should so some such than that "
    "the their them then there these they this those to too two under up us use used uses using value values "
    "was we were what when where which while who whom why will with would you your"
)
STOP_WORDS = frozenset(_STOP_TEXT.split())

_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}]{1,2}|\p{Katakana}+|[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]{1,4}"
    r"|[^\W_\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+"
)
"""A word; of scripts that write no spaces, as many characters as their words have on average."""
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_BOILERPLATE = re.compile(
    r"(initialize self|see (help|also|the|pep)\b|(return|implement) (self|repr|str|hash|iter|len|key)\b"
    r"|helper (for|function|method)\b|create and return a new object|internal (use|helper|routine|function|method)"
    r"|deprecated|undocumented|obsolete|todo|fixme|copyright|licen[sc]e|all rights reserved|warning:|same as\b"
    r"|like\b|equivalent to\b|overridden|override\b|see above|table of contents)",
    re.IGNORECASE,
)
_CODE = re.compile(r"\)\s*->|^\w+ ->|>>>|==|[A-Za-z_]\w+\s*=\s*\w|[{}]")
_MARKUP = (
    (re.compile(r":[a-zA-Z:]+:`~?([^`<]+)(?: <[^`]*>)?`"), r"\1"),
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"(`{1,2}|\*{1,2})(\S(?:[^`*]*\S)?)\1"), r"\2"),
)


def strip_markup(text: str) -> str:
    """One line without inline markup of Markdown and reStructuredText, and without final punctuation."""
    for pattern, kept in _MARKUP:
        text = pattern.sub(kept, text)
    return " ".join(text.split()).rstrip(" .:;,")


def content_words(text: str, language: str = ENGLISH) -> list[str]:
    """Lower-case words without single letters, and of English texts without stop words."""
    stop_words = STOP_WORDS if language == ENGLISH else frozenset[str]()
    return [word for word in words(text) if word not in stop_words and len(word) > 1]


def words(text: str) -> list[str]:
    """All words in lower case, with numbers, without punctuation and underscores. Of scripts without spaces: pieces as
    long as their words are on average, by which a text's length can be counted."""
    return _WORD.findall(text.lower())


def normalize_question(question: str) -> str:
    """The words of a question: equal for questions that are the same."""
    return " ".join(words(question))


def rejection_reason(
    question: str, answer: str, least_words: int = MIN_QUESTION_WORDS, language: str = ENGLISH
) -> str:
    """Why this pair should not be used, or an empty text. ``answer`` is the text that must be found. Rules about
    English words are for texts in that ``language`` alone."""
    count = len(set(content_words(question, language)))
    if count < least_words:
        return "question too short"
    if (
        max(len(question.split()), len(words(question)) if _UNSPACED.search(question) else 0)
        > MAX_QUESTION_WORDS
    ):
        return "question too long"
    if language == ENGLISH and _BOILERPLATE.match(question):
        return "boilerplate"
    if _CODE.search(question) or question.count("(") != question.count(")"):
        return "question is code"
    if len(content_words(answer, language)) < MIN_ANSWER_WORDS:
        return "answer too short"
    return "question copied in the answer" if _is_copied(question, answer) else ""


def _is_copied(question: str, answer: str) -> bool:
    """Whether the question's words stand in the answer, in its order."""
    if _UNSPACED.search(question):  # pieces of words begin anywhere
        return "".join(words(question)) in "".join(words(answer))
    return f" {normalize_question(question)} " in f" {normalize_question(answer)} "
