"""Caption files of every shape, and what is wrong with the others."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.judges.captions import read_captions, read_texts
from assets_pkg.judges.errors import CaptionError


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("a.json", {"1": "one", "2": " two "}),
        ("a.json", [{"id": "1", "summary": "one"}, {"id": "2", "summary": "two", "file_link": "x"}]),
        ("a.json", [{"video_id": 1, "caption": "one"}, {"video_id": 2, "text": "two"}]),
        ("a.csv", 'id,caption\n1,one\n2,"two"\n'),
        ("a.csv", '\ufeffvideo_id,other,summary\n1,x,"one"\n2,x," two"\n'),
        ("a.tsv", "id\ttext\n1\tone\n2\ttwo\n"),
        ("a.jsonl", '{"id": "1", "reference": "one"}\n\n{"id": "2", "reference": "two"}\n'),
    ],
)
def test_every_shape_is_read(tmp_path: Path, name: str, document: Any) -> None:
    assert read_texts(write(tmp_path / name, document)) == {"1": "one", "2": "two"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not JSON"),
        ("3", "must be a list of objects or an object"),
        ([], "has no captions"),
        ({"1": "  "}, "key '1': the caption of '1' is empty"),
        ({"1": None}, "is empty or not a text"),
        (["x"], "entry 1: must be an object"),
        ([{"id": "1"}], "entry 1: has none of summary, reference, caption, text"),
        ([{"text": "a"}], "entry 1: has none of id"),
        ([{"id": "1", "text": "a"}, {"id": "1", "text": "b"}], "entry 2: '1' is there twice"),
        ('{"1": "a", "1": "b"}', "the key '1' comes twice in one object"),
        ([{"id": ["1"], "text": "a"}], "entry 1: its id must be a text or a number"),
        ([{"id": None, "text": "a"}], "entry 1: its id must be a text or a number"),
        ('{"1": "\\ud800"}', "has half a surrogate pair"),
        ("[" * 300 + "]" * 300, "nested more than 100 deep"),
        ("[" * 100_000, "nested more than 100 deep"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, document: Any, message: str) -> None:
    path = write(tmp_path / "a.json", document)
    with pytest.raises(CaptionError, match=message) as error:
        read_texts(path)
    assert str(path) in str(error.value)


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"id": 1, "text": "a"}\n{"id": 2, "text": "\u00fc"}'.encode("latin-1"))
    with pytest.raises(CaptionError, match=r"a\.jsonl:2: not UTF-8 \(byte 0xfc at 19\)"):
        read_texts(path)
    path.write_text('{"id": 1, "text": "a"}', "utf-16")
    with pytest.raises(CaptionError, match=r"a\.jsonl:1: not UTF-8 \(UTF-16\)"):
        read_texts(path)


def test_a_byte_order_mark_and_other_line_ends_within_texts_do_no_harm(tmp_path: Path) -> None:
    text = "one\u2028two\u0085three"
    row = json.dumps({"id": "1", "text": text}, ensure_ascii=False)
    for name, content in (("a.jsonl", row), ("a.json", f"[{row}]")):
        (tmp_path / name).write_text(content, "utf-8-sig")
        assert read_texts(tmp_path / name) == {"1": text}


ENTRIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "text", "clip_id", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(document=ENTRIES)
def test_any_document_is_read_or_refused_in_words(
    document: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("captions")
    for name in ("a.json", "a.jsonl"):
        with contextlib.suppress(CaptionError):
            assert all(
                text.encode() for text in read_texts(write(folder / name, json.dumps(document))).values()
            )


def test_gaps_are_errors_unless_allowed(tmp_path: Path) -> None:
    references = write(tmp_path / "references.json", {"1": "one", "2": "two", "3": "three"})
    folder = tmp_path / "predictions"
    write(folder / "a.json", {"1": "x", "2": "y", "3": "z"})
    write(folder / "b.json", {"1": "x", "3": "w", "9": "not asked for"})
    with pytest.raises(CaptionError, match=r"captions are missing: b lacks 1 \(2\)"):
        read_captions(references, folder)
    captions = read_captions(references, folder, allow_gaps=True)
    assert (captions.clips, captions.left_out) == (("1", "3"), {"2": ["b"]})
    assert captions.unknown == {"b": ["9"]}
    assert captions.notes() == [
        "b describes 1 (9) without a reference: not judged",
        "1 of 3 clips are left out for all captioners",
    ]


@pytest.mark.parametrize("empty", ["", "  \n", None])
def test_an_empty_caption_is_a_gap(empty: Any, tmp_path: Path) -> None:
    references = write(tmp_path / "references.json", {"1": "one", "2": "two"})
    write(tmp_path / "p" / "a.json", {"1": "x", "2": empty})
    write(tmp_path / "p" / "b.json", {"1": "y", "2": "z"})
    with pytest.raises(CaptionError, match=r"a\.json: key '2': the caption of '2' is empty"):
        read_captions(references, tmp_path / "p")
    captions = read_captions(references, tmp_path / "p", allow_gaps=True)
    assert (captions.clips, captions.left_out, captions.empty) == (("1",), {"2": ["a"]}, {"a": ["2"]})
    assert captions.notes()[0] == "a has an empty caption for 1 (2): left out for all captioners"


def test_captioners_with_the_same_captions_are_named_before_anything_is_judged(tmp_path: Path) -> None:
    references = write(tmp_path / "references.json", {"1": "one", "2": "two"})
    write(tmp_path / "p" / "a.json", {"1": "x", "2": "y", "9": "not judged"})
    write(tmp_path / "p" / "b.json", {"2": " y", "1": "x"})
    with pytest.raises(CaptionError, match="a and b have the same captions for all 2 clips: remove one"):
        read_captions(references, tmp_path / "p")


def test_files_that_macos_leaves_are_no_captioners(tmp_path: Path) -> None:
    references = write(tmp_path / "references.json", {"1": "one"})
    write(tmp_path / "p" / "a.json", {"1": "x"})
    (tmp_path / "p" / "._a.json").write_bytes(b"\x00\x05\x16\x07")
    assert list(read_captions(references, tmp_path / "p").predictions) == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,caption\n1,a,b\n", "line 2: has more cells"),
        ("id,caption\n1\n", "line 2: the caption of '1' is empty"),
        ("clip,caption\n1,a\n", "line 2: has none of id"),
        ("id,caption\n1,a\n1,b\n", "line 3: '1' is there twice"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match=message):
        read_texts(write(tmp_path / "a.csv", content))


def test_a_folder_without_captioners_is_an_error(tmp_path: Path) -> None:
    references = write(tmp_path / "references.json", {"1": "one"})
    with pytest.raises(CaptionError, match="no such folder"):
        read_captions(references, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptionError, match=r"has no \.json, \.jsonl, \.csv, \.tsv file"):
        read_captions(references, tmp_path / "empty")
    write(tmp_path / "two" / "a.json", {"1": "x"})
    write(tmp_path / "two" / "a.jsonl", '{"id": "1", "text": "x"}')
    with pytest.raises(CaptionError, match="two files for a"):
        read_captions(references, tmp_path / "two")


def test_the_digest_follows_what_is_judged(tmp_path: Path) -> None:
    references = write(tmp_path / "references.json", {"1": "one", "2": "two"})
    write(tmp_path / "p" / "a.json", {"1": "x", "2": "y"})
    before = read_captions(references, tmp_path / "p").digest()
    write(tmp_path / "p" / "a.json", {"2": "y", "1": "x", "3": "not asked for"})
    assert read_captions(references, tmp_path / "p").digest() == before
    write(tmp_path / "p" / "a.json", {"1": "x", "2": "z"})
    assert read_captions(references, tmp_path / "p").digest() != before
