"""Documents into passages: nothing lost, nothing across a heading, code and lists whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.config.errors import ProfileError
from assets_pkg.corpus.document_source import CorpusError
from assets_pkg.corpus.passage_units import MAX_PASSAGE_CHARS, MAX_UNIT_CHARS, TokenLimit
from assets_pkg.corpus.passages import passages_of, split_passages
from storage.artifacts import Corpus, Document, Passages
from storage.digests import passage_id
from tests.corpus.making import chunks, write_corpus

_WORDS = "wing. lift is great! drag? e.g. Dr. Reynolds zip.Zip 3.14 flow; (see it) # - 1. ``` --- >>> x"
WORDS = st.sampled_from(_WORDS.split())
TEXTS = st.lists(
    st.tuples(WORDS, st.sampled_from([" ", "\n", "\n\n", "\n\n    ", "\n## "])), max_size=60
).map(lambda parts: "".join(word + gap for word, gap in parts))


def texts(text: str, sentences: int = 5) -> list[str]:
    return [passage.text for passage in passages_of(Document("d", "t", text), sentences)]


@given(TEXTS, st.integers(1, 6))
def test_no_word_is_lost_or_moved(text: str, sentences: int) -> None:
    made = list(passages_of(Document("d", "t", text), sentences))
    assert [word for passage in made for word in passage.text.split()] == text.split()
    assert [passage.chunk_id for passage in made] == list(range(1, len(made) + 1))
    for passage in made:
        assert passage.text == passage.text.strip() != ""
        assert text.split()[passage.start : passage.end] == passage.text.split()
        assert passage.word_count == passage.end - passage.start
        assert passage.sentence_count <= sentences
        assert passage.passage_id == passage_id(passage.text)


@given(st.text(max_size=300), st.integers(1, 4))
def test_no_character_is_lost(text: str, sentences: int) -> None:
    assert "".join("".join(texts(text, sentences)).split()) == "".join(text.split())


def test_sentences_a_passage_and_headings() -> None:
    text = "Intro one. Intro two.\n\n# Wings\n\nA first. A second. A third.\n\n## Flaps\n\nF one.\n"
    assert texts(text, 2) == [
        "Intro one. Intro two.",
        "# Wings\n\nA first. A second.",
        "A third.",
        "## Flaps\n\nF one.",
    ]
    sections = [passage.section for passage in passages_of(Document("d", "t", text), 2)]
    assert sections == ["", "Wings", "Wings", "Flaps"]


def test_a_bare_heading_opens_the_next_section() -> None:
    assert texts("# Book\n\n## Part\n\nText here.\n\n## Empty end\n") == [
        "# Book\n\n## Part\n\nText here.",
        "## Empty end",
    ]


def test_abbreviations_and_wrapped_lines_do_not_end_a_sentence() -> None:
    text = "Flow near e.g. a wing,\nas Dr. Prandtl found, is\nlaminar. Then it turns. The end."
    assert texts(text, 1) == [
        "Flow near e.g. a wing,\nas Dr. Prandtl found, is\nlaminar.",
        "Then it turns.",
        "The end.",
    ]


def test_code_and_list_items_stay_whole() -> None:
    code = "```python\nx = 1. + 2.  # First. Second.\n\ny = x\n```"
    doctest = ">>> for wing in wings:\n...     wing.lift()"
    text = f"Before. Then:\n\n{code}\n\n{doctest}\n\n- one. And more.\n  Still one.\n- two"
    assert texts(text, 1) == ["Before.", "Then:", code, doctest, "- one. And more.\n  Still one.", "- two"]


def test_long_units_are_cut_at_lines_or_words() -> None:
    lines = [f"    line {number} of the program" for number in range(100)]
    pieces = texts("\n".join(lines), 1)
    assert len(pieces) > 1
    assert [line.strip() for piece in pieces for line in piece.splitlines()] == [
        line.strip() for line in lines
    ]
    words = texts("word " * 1000, 1)
    assert all(len(piece) <= MAX_UNIT_CHARS for piece in words)
    assert all(
        len(piece) <= MAX_PASSAGE_CHARS for piece in texts("A long wing sentence of some words. " * 500, 90)
    )


def test_artifact(tmp_path: Path) -> None:
    texts = {"a.md": "# A\n\nOne. Two.", "b.txt": "Three. Four. Five.", "c.txt": "Five."}
    corpus = write_corpus(tmp_path / "in", texts)
    out = tmp_path / "out"
    out.mkdir()
    seen: list[tuple[int, int]] = []
    split_passages(
        corpus,
        chunks(2),
        out,
        lambda done, total, *_, **__: seen.append((done, total)),
    )
    passages = list(Passages(out, "passages", "v").passages())
    assert [(p.doc_id, p.chunk_id, p.text) for p in passages] == [
        ("a.md", 1, "# A\n\nOne. Two."),
        ("b.txt", 1, "Three. Four."),
        ("b.txt", 2, "Five."),
        ("c.txt", 1, "Five."),
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["documents"], summary["passages"], summary["words"]) == (3, 4, 8)
    assert summary["distinct_texts"] == 3
    assert sum(bin["passages"] for bin in summary["length_histogram"]) == 4


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "in", {f"{n}.txt": f"Text {n}. More of it." for n in range(50)})
    made: list[bytes] = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        split_passages(corpus, chunks(1), tmp_path / name)
        made.append((tmp_path / name / "passages.parquet").read_bytes())
    assert made[0] == made[1]


def test_no_passage_is_an_error(tmp_path: Path) -> None:
    corpus: Corpus = write_corpus(tmp_path / "in", {"a.txt": " \n "})
    with pytest.raises(CorpusError, match="none of the 1 documents"):
        split_passages(corpus, chunks(5), tmp_path)


def _words(texts: Sequence[str]) -> list[int]:
    """A tokenizer of words, with two special tokens."""
    return [len(text.split()) + 2 for text in texts]


@given(TEXTS, st.integers(1, 30), st.integers(5, 40))
def test_with_a_limit_of_tokens_nothing_is_lost_and_no_passage_is_longer(
    text: str, sentences: int, most: int
) -> None:
    made = list(passages_of(Document("d", "t", text), sentences, limit=TokenLimit(most, _words)))
    assert [word for passage in made for word in passage.text.split()] == text.split()
    # Headings at the end without text stay together.
    assert all(count <= most for count in _words([each.text for each in made if each.sentence_count]))
    for passage in made:
        assert text.split()[passage.start : passage.end] == passage.text.split()


def test_many_sentences_fill_the_limit_of_tokens_and_few_do_not() -> None:
    text = "# Wings\n\n" + "A long wing sentence of exactly eight words. " * 200

    def lengths(sentences: int, most: int | None) -> list[int]:
        limit = None if most is None else TokenLimit(most, _words)
        return _words([each.text for each in passages_of(Document("d", "t", text), sentences, limit=limit)])

    assert max(lengths(5, None)) == max(lengths(5, 512)) == 44
    assert max(lengths(20, 512)) == 164
    assert max(lengths(100, 512)) == 508  # 63 sentences, with the heading and the special tokens
    assert max(lengths(100, None)) < 330  # 1,600 characters


def test_a_sentence_that_is_longer_than_the_limit_is_cut_between_words() -> None:
    limit = TokenLimit(12, _words)
    made = [each.text for each in passages_of(Document("d", "t", "word " * 95), 5, limit=limit)]
    assert [len(each.split()) for each in made] == [10] * 9 + [5]
    assert [each.text for each in passages_of(Document("d", "t", "One. Two."), 5, limit=limit)] == [
        "One. Two."
    ]

    def characters(texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    pieces = list(passages_of(Document("d", "t", "x" * 25), 1, limit=TokenLimit(10, characters)))
    assert [len(each.text) for each in pieces] == [10, 10, 5]


def test_overlapping_sentences_are_repeated_within_a_section() -> None:
    text = "# A\n\nOne. Two. Three. Four. Five.\n\n# B\n\nSix. Seven."
    made = list(passages_of(Document("d", "t", text), 3, overlap=1))
    assert [each.text for each in made] == [
        "# A\n\nOne. Two. Three.",
        "Three. Four. Five.",
        "# B\n\nSix. Seven.",
    ]
    for passage in made:
        assert text.split()[passage.start : passage.end] == passage.text.split()
    with pytest.raises(ProfileError, match=r"chunk_overlap_sentences = 3: must be < sentences_per_chunk = 3"):
        chunks(3, "chunk_overlap_sentences=3")


def test_what_the_limit_ended_is_counted_and_named(tmp_path: Path) -> None:
    corpus = write_corpus(
        tmp_path / "in", {"a.md": "One two. " * 30, "b.md": "word " * 60, "c.md": "One. Two."}
    )
    split_passages(corpus, chunks(20), tmp_path, limit=TokenLimit(22, _words))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["limit"] == "22 tokens"
    assert (summary["passages"], summary["ended_by_limit"], summary["ended_in_sentence"]) == (7, 4, 2)
    assert {"document": "b.md", "passage": 1, "section": ""}.items() <= summary["ended_examples"][2].items()
    (tmp_path / "chars").mkdir()
    split_passages(corpus, chunks(5), tmp_path / "chars")
    assert json.loads((tmp_path / "chars/summary.json").read_text())["ended_by_limit"] == 0
