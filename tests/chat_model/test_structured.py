"""JSON out of what models say."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resources.chat_model.structured import clean_surrogates
from resources.chat_model.structured import json_values as lazy_values

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def json_values(text: str) -> list[object]:
    return list(lazy_values(text))


OBJECTS = st.dictionaries(st.text(min_size=1), VALUES, min_size=1, max_size=4)
PROSE = st.text(st.characters(blacklist_characters="{}[]`<>", blacklist_categories=["Cs"]))


@given(OBJECTS, PROSE, PROSE)
def test_an_object_is_found_in_prose(value: dict[str, object], before: str, after: str) -> None:
    assume("</think>" not in json.dumps(value))
    assert json_values(before + json.dumps(value) + after)[0] == value


@pytest.mark.slow
@given(OBJECTS, OBJECTS)
def test_reasoning_before_the_answer_does_not_count(
    draft: dict[str, object], value: dict[str, object]
) -> None:
    thought = f"<think>maybe {json.dumps(draft)}, {{ or [not</think>"
    assert json_values(thought + json.dumps(value))[0] == value


@pytest.mark.slow
@given(OBJECTS, OBJECTS)
def test_a_draft_in_prose_does_not_count(draft: dict[str, object], value: dict[str, object]) -> None:
    assume("</think>" not in json.dumps([draft, value]))
    assert json_values(f"First {json.dumps(draft)}.\nNo: {json.dumps(value)}")[0] == value


def test_a_fence_counts_before_what_stands_around_it() -> None:
    assert json_values('Such as {"a": 0}:\n```json\n{"a": 1}\n```\nnot {"a": 2}')[0] == {"a": 1}


def test_the_mark_that_ends_reasoning_may_stand_in_a_string() -> None:
    assert json_values('{"a": "x </think> y"}')[0] == {"a": "x </think> y"}


def test_the_whole_parts_of_cut_json_are_found() -> None:
    assert json_values('{"pairs": [{"number": 1}, {"number": 2}, {"num') == [{"number": 2}, {"number": 1}]


def test_there_may_be_no_json() -> None:
    assert json_values("") == json_values("no, sorry") == json_values("17") == json_values("{" * 5000) == []


def test_very_deep_json_is_no_json() -> None:
    assert json_values("[" * 100_000 + "]" * 100_000) == []


def test_lone_surrogates_become_replacement_characters() -> None:
    value, *_ = json_values(r'{"a\ud83d": ["\udc00x", "\ud83d\ude00"]}')
    assert value == {"a\ufffd": ["\ufffdx", "\U0001f600"]}
    json.dumps(value, ensure_ascii=False).encode()


@given(st.text(st.characters()))
def test_cleaning_leaves_text_without_surrogates_alone(text: str) -> None:
    cleaned = clean_surrogates(text)
    cleaned.encode()
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert cleaned == text


def test_reasoning_ends_at_its_first_mark() -> None:
    assert json_values('<think>{"a": 0}</think>{"</think>": 1}')[0] == {"</think>": 1}
