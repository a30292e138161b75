"""Front matter that is not as it should be: one document is skipped with the reason, and the others are read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.corpus.front_matter import FrontMatterError, split_front_matter
from tests.corpus.test_folder import LONG, read, settings, skipped

LAUGHS = "a0: &a0 [l, l, l, l, l, l, l, l, l]\n" + "\n".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ("lang: en\ntitle: Re: order of the boiler", "line 3: mapping values are not allowed here"),
        ("title: Re: order of the kiln", "line 2: mapping values"),
        ("author: @warden\nlang: en", "line 2: found character '@'"),
        ("lang: en\nlang: de", "line 3: lang comes twice"),
        ("author: {{a: b}: c}", "line 2: found unhashable key"),
        ("author: {2024-03-01: release}", "the field 'author': keys must be str"),
        ("author: {1: a, b: c}", "the field 'author': '<' not supported"),
        ('lang: "\\ud800"', "the field 'lang' has half a surrogate pair"),
        ('title: "\\ud800"', "the field 'title' has half a surrogate pair"),
        ('author: {name: ["\\udfff"]}', "the field 'author' has half a surrogate pair"),
        ("tags: &tags [*tags]", "line 2: an alias"),
        (f"tags: {'[' * 2000}{']' * 2000}", "line 2: values are nested more than 20 deep"),
        (LAUGHS, "line 3: an alias"),
        ("picture: !!binary aGk=", "the field 'picture': binary"),
        ("draft: !!bool perhaps", "KeyError"),
        ("added: !!timestamp soon", "AttributeError"),
        ("note: \x07", "special characters are not allowed"),
        (f"note: {'x' * 200_000}", "it has 200,007 characters, more than 100,000"),
    ],
)
def test_one_document_is_skipped_with_the_reason(block: str, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "bad.md").write_text(f"---\n{block}\n---\n{LONG}")
    (folder / "good.md").write_text(f"---\nlang: en\n---\n{LONG}")
    began = time.monotonic()
    corpus = read(settings(folder), tmp_path / "out")
    assert time.monotonic() - began < 5
    assert [document.doc_id for document in corpus.documents()] == ["good.md"]
    assert skipped(tmp_path / "out")["bad.md"].startswith("front matter: ")
    assert reason in skipped(tmp_path / "out")["bad.md"]
    assert corpus.summary()["skipped_by_reason"] == {"front matter": 1}


def test_a_value_that_is_not_asked_for_is_not_converted(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.md").write_text(
        f"---\nlang: en\nauthor: {{2024-03-01: x}}\npart: !!binary aGk=\n---\n{LONG}"
    )
    corpus = read(settings(folder, metadata_fields=["lang"]), tmp_path / "out")
    assert [json.loads(each.metadata) for each in corpus.documents()] == [{"lang": "en"}]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("01067", "01067"),
        ("12:30", "12:30"),
        ("1:30.5", "1:30.5"),
        ("2024-02-31", "2024-02-31"),
        ("9" * 400, "9" * 400),
        ("9" * 5000, "9" * 5000),
        ("18446744073709551616", "18446744073709551616"),
        ("9223372036854775807", 9223372036854775807),
        ("-7", -7),
        ("0", 0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0.5", 0.5),
    ],
)
def test_a_number_that_yaml_reads_otherwise_than_it_is_written_stays_text(
    written: str, value: object, tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.md").write_text(f"---\ncode: {written}\n---\n{LONG}")
    corpus = read(settings(folder), tmp_path / "out")
    assert [json.loads(each.metadata) for each in corpus.documents()] == [{"code": value}]


def test_toml_between_plus_signs_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.md").write_text(f'+++\ntitle = "The mill"\nadded = 2024-03-01\ntags = ["a"]\n+++\n{LONG}')
    (folder / "b.md").write_text(f"+++\ntitle = The mill\n+++\n{LONG}")
    (folder / "c.md").write_text(f"+++\n{LONG}\n+++\n{LONG}")
    documents = list(read(settings(folder), tmp_path / "out").documents())
    assert (documents[0].title, documents[0].text) == ("The mill", LONG)
    assert json.loads(documents[0].metadata) == {"added": "2024-03-01", "tags": ["a"]}
    assert documents[1].text.startswith("+++\n")
    assert skipped(tmp_path / "out")["b.md"].startswith("front matter: TOML: Invalid value (at line 1")


@given(st.text(alphabet=st.sampled_from("a1 -:[]{}&*!?|>'\"\\#%@`,\n\t.~ué"), max_size=60))
def test_no_block_is_an_unforeseen_error(block: str) -> None:
    text = f"---\n{block}\n---\nbody"
    try:
        fields, rest = split_front_matter(text)
    except FrontMatterError:
        return
    assert rest == text or text.endswith(rest)
    if fields and not any(mark in block for mark in "&*!:.0123456789"):
        assert fields == yaml.safe_load(block)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.integers(-(10**6), 10**6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), values, min_size=1, max_size=4))
def test_what_a_yaml_library_writes_is_read_as_it_reads_it(fields: dict[str, object]) -> None:
    block = yaml.safe_dump(fields, allow_unicode=True)
    assert split_front_matter(f"---\n{block}---\nbody") == (yaml.safe_load(block), "body")
