"""Sentences, by sentencex: rules for many languages, no model and no download."""

from __future__ import annotations


def split_sentences(text: str) -> list[str]:
    """The sentences of ``text``, each with the white space that follows it: joined they are ``text`` again.

    A full stop inside a word (``zipfile.ZipFile``) ends none, though sentencex thinks so; scripts that write no
    spaces have full stops of their own.
    """
    import sentencex

    sentences: list[str] = []
    for piece in sentencex.segment("en", text):  # pyright: ignore[reportAttributeAccessIssue]
        if sentences and sentences[-1][-1] in ".!?)\"'":
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return sentences
