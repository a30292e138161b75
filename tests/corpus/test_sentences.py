"""Sentence boundaries, worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets_pkg.corpus.segmentation import split_sentences
from resources.language import language_of


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Use zipfile.ZipFile here. Next.", ["Use zipfile.ZipFile here. ", "Next."]),
        ("See Fig. 3 by Dr. Smith, e.g. Foo. Then?", ["See Fig. 3 by Dr. Smith, e.g. Foo. ", "Then?"]),
        ("Is it (really)? Yes!\nGood.", ["Is it (really)? ", "Yes!\n", "Good."]),
        ("你好。再见。", ["你好。", "再见。"]),
        ("", []),
    ],
)
def test_boundaries(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


BY_LANGUAGE = {
    "de": [
        "Die Anlage wird am 3. Mai geprüft. ",
        "Danach, z. B. im Herbst, notiert Dr. Weber die Drücke! ",
        "Ist das klar?",
    ],
    "zh": ["水泵每两周检查一次。", "检查员把压力记录在笔记本里！", "然后更换密封件？", "好的。"],
    "ja": ["ポンプは二週間ごとに点検します。", "圧力を記録します。", "「大丈夫ですか？」と彼は言った。"],
    "th": [
        "ปั๊มน้ำได้รับการตรวจสอบทุกสองสัปดาห์ ",
        "ผู้ตรวจสอบจะบันทึกแรงดันลงในสมุดเล่มหนึ่ง และส่งให้หัวหน้างาน ",
        "จากนั้นช่างจึงเปลี่ยนซีลที่ชำรุด",
    ],
    "ar": ["يتم فحص المضخة كل أسبوعين. ", "هل هذا واضح؟ ", "يسجل الفني الضغط في دفتر."],
    "hi": [
        "पंप की हर दो सप्ताह में जाँच की जाती है। ",
        "निरीक्षक दबाव को नोटबुक में लिखता है। ",
        "फिर सील बदली जाती है।",
    ],
}


@pytest.mark.parametrize(("language", "sentences"), BY_LANGUAGE.items())
def test_boundaries_of_other_languages(language: str, sentences: list[str]) -> None:
    assert split_sentences("".join(sentences), language) == sentences


@pytest.mark.parametrize(("language", "sentences"), BY_LANGUAGE.items())
def test_the_language_is_found(language: str, sentences: list[str]) -> None:
    assert language_of("".join(sentences)) == language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The pump is inspected every two weeks, and then the seals are renewed by a fitter.", "en"),
        ("La pompe est contrôlée toutes les deux semaines. Le technicien note les pressions.", "fr"),
        ("Насос проверяют каждые две недели. Контролёр записывает давление в тетрадь.", "ru"),
        (
            "def die(das: list[int]) -> None:\n    der = das.pop()\n    return print(der, der + 1, der * 2)",
            "en",
        ),
        ("Müller, Weber, Schmidt, Köhler, Jäger, Schäfer, Krämer, Böhm, Groß, Möller, Vogel, Weiß", "en"),
        ("", "en"),
    ],
)
def test_another_language_is_found_in_running_text_only(text: str, language: str) -> None:
    assert language_of(text) == language


@given(st.text(), st.sampled_from(["en", *BY_LANGUAGE]))
def test_nothing_is_lost(text: str, language: str) -> None:
    assert "".join(split_sentences(text, language)) == text
