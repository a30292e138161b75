"""Which question a section gives, and that the question is gone from its passage. All cases worked by hand."""

from __future__ import annotations

import pytest

from assets_pkg.corpus.passages import passages_of
from assets_pkg.corpus.segmentation import title_of
from assets_pkg.sdg.question_filters import rejection_reason
from assets_pkg.sdg.templates import TemplatePair, apply_templates
from storage.artifacts import Document

BODY = "The boundary layer grows along the plate, and its thickness follows the square root of the distance."


def pairs(text: str, stem: str = "notes", sentences: int = 5) -> list[TemplatePair]:
    document = Document("d", title_of(text, stem), text)
    return [pair for passage in passages_of(document, sentences) if (pair := apply_templates(passage))]


def only(text: str, stem: str = "notes") -> TemplatePair:
    (pair,) = pairs(text, stem)
    return pair


def test_title_over_an_abstract() -> None:
    pair = only(f"shear flow past a flat plate .\n\n{BODY} A second sentence.")
    assert (pair.kind, pair.question) == ("title", "shear flow past a flat plate")
    assert pair.positive == f"{BODY} A second sentence."
    assert not pair.rejection


def test_summary_of_a_docstring_keeps_the_name_and_loses_the_summary() -> None:
    pair = only(f"# module.join(a, b)\n\nJoin two pathname components.\n\n{BODY}")
    assert (pair.kind, pair.question) == ("summary", "Join two pathname components")
    assert pair.positive == f"# module.join(a, b)\n\n{BODY}"
    assert pair.answer == BODY


def test_first_sentence_where_no_summary_stands_alone() -> None:
    pair = only(f"# module.join(a, b)\n\nJoin two pathname\ncomponents. {BODY}")
    assert (pair.kind, pair.question) == ("lead", "Join two pathname components")
    assert pair.positive == f"# module.join(a, b)\n\n{BODY}"


def test_heading_over_text() -> None:
    first, second = pairs(
        f"# Wind tunnel handbook\n\n## Growth of laminar layers\n\n{BODY}\n\n## Setup\n\n{BODY}"
    )
    assert (first.kind, first.question, first.positive) == ("heading", "Growth of laminar layers", BODY)
    assert (second.kind, second.question) == ("heading", "Wind tunnel handbook: Setup")
    assert second.positive == BODY


def test_question_over_its_answer() -> None:
    text = f"# Common questions\n\nQ: How thick are layers?\n{BODY}\n\n## Why does drag rise so quickly?\n\n{BODY}"
    assert [(pair.kind, pair.question, pair.positive) for pair in pairs(text)] == [
        ("question", "How thick are layers?", BODY),
        ("question", "Why does drag rise so quickly?", BODY),
    ]


def test_definition() -> None:
    sentence = "A laminar boundary layer is a thin sheet of fluid next to the plate where viscosity rules the motion."
    pair = only(f"# boundary.layer\n\n{sentence}")
    assert (pair.kind, pair.question) == ("definition", "What is laminar boundary layer?")
    assert pair.positive == f"# boundary.layer\n\n{sentence}"


GERMAN = (
    "Der Prüfer kommt jede zweite Woche und misst den Druck in allen Leitungen der Anlage, bevor er die Werte in ein "
    "Heft einträgt. Danach werden die Dichtungen erneuert, die nicht mehr halten."
)


def test_rules_about_english_words_are_for_english_texts() -> None:
    _, pair = pairs(
        f"# Handbuch der Pumpen\n\n## Wartung der Anlage\n\n{GERMAN}\n\n## Was will der Prüfer\n\n{GERMAN}"
    )
    assert (pair.kind, pair.question, pair.rejection) == ("heading", "Was will der Prüfer", "")
    assert rejection_reason("Like a rolling stone", GERMAN, language="en") == "boilerplate"
    assert rejection_reason("Like a rolling stone", GERMAN, language="de") == ""


def test_markup_is_no_part_of_a_question() -> None:
    pair = only(
        f"# m.f()\n\nOpen the ``archive`` with :class:`~zipfile.ZipFile` and [pathlib](url) paths.\n\n{BODY}"
    )
    assert pair.question == "Open the archive with zipfile.ZipFile and pathlib paths"


def test_only_the_first_passage_of_a_section_asks() -> None:
    text = f"# m.f()\n\nJoin two pathname components.\n\n{BODY} {BODY}"
    assert [pair.chunk_id for pair in pairs(text, sentences=2)] == [1]


def test_a_comment_in_cut_code_is_no_heading() -> None:
    lines = "".join(f"# comment number {n} about the wind tunnel\nx{n} = {n}\n" for n in range(60))
    text = f"# m.f()\n\nJoin two pathname components.\n\n{BODY}\n\n```\n{lines}```\n"
    assert [pair.question for pair in pairs(text)] == ["Join two pathname components"]


@pytest.mark.parametrize(
    ("text", "rejection"),
    [
        (f"# m.f()\n\nReturn a string.\n\n{BODY}", "question too short"),
        (f"# m.f()\n\nInitialize self.  See help(type(self)).\n\n{BODY}", "question too short"),
        (f"# m.f()\n\nHelper for pickling several odd objects.\n\n{BODY}", "boilerplate"),
        (f"# m.f()\n\nJoin two pathname components.\n\nRaises {BODY[:30]}", "answer too short"),
        (f"# m.f()\n\nJoin two pathname components.\n\nTo join two pathname components: {BODY}", "copied"),
        (f"# m.f()\n\nwrap(text, width) -> list of all lines\n\n{BODY}", "question is code"),
        (f"# m.f()\n\n{'wing ' * 50}.\n\n{BODY}", "question too"),
    ],
)
def test_rejected_with_a_reason(text: str, rejection: str) -> None:
    assert rejection in only(text).rejection


def test_private_and_special_names_give_nothing() -> None:
    assert pairs(f"# m.__init__(self)\n\nJoin two pathname components.\n\n{BODY}") == []


@pytest.mark.parametrize(
    ("heading", "body"),
    [
        (
            "怎样检查锅炉的阀门",
            "戴上手套，慢慢转动阀门，然后把压力和温度记在本子上。如果它发出响声，请立刻通知车间。",
        ),
        (
            "ボイラーの弁はどう点検しますか？",
            "手袋をはめて、弁をゆっくり回し、圧力と温度を帳面に記録します。",
        ),
        (
            "วิธีตรวจสอบวาล์วของหม้อไอน้ำ",
            "สวมถุงมือแล้วหมุนวาล์วช้าๆ จากนั้นบันทึกความดันและอุณหภูมิลงในสมุด",
        ),
        (
            "बॉयलर के वाल्व की जाँच कैसे करें",
            "दस्ताने पहनें और वाल्व को धीरे-धीरे घुमाएँ, फिर दबाव और तापमान को रजिस्टर में लिखें।",
        ),
    ],
)
def test_headings_of_every_script_are_questions(heading: str, body: str) -> None:
    (pair,) = pairs(f"## {heading}\n\n{body}")
    assert (pair.question, pair.positive, pair.rejection) == (heading, body, "")


def test_a_chinese_question_that_stands_in_its_answer_is_copied() -> None:
    heading = "怎样检查锅炉的阀门"
    (pair,) = pairs(f"## {heading}\n\n戴上手套。我们在这里说明{heading}，然后把压力和温度记在本子上。")
    assert pair.rejection == "question copied in the answer"


def test_a_chinese_question_may_be_too_short() -> None:
    assert (
        rejection_reason("阀门", "戴上手套，慢慢转动阀门，然后把压力和温度记在本子上。")
        == "question too short"
    )
