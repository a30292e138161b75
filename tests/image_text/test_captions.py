"""What of a vision model's answer is a caption, and which captioner is refused for which images."""

from __future__ import annotations

import pytest

from assets_pkg.image_text.captions import Caption, check_captioner, read_caption
from assets_pkg.image_text.errors import BenchmarkError
from resources.chat_model.client import ChatAnswer


def read(text: str, *, truncated: bool = False, refused: bool = False) -> Caption:
    return read_caption("x", ChatAnswer(text, truncated, refused, 1, 1))


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("A pump\non a bench. ", "A pump on a bench."),
        ("<think>\nIs it a pump?\n</think>\n\nA pump.", "A pump."),
        ("<think></think>A pump.", "A pump."),
        ("Let me see.\n</think>\nA pump.", "A pump."),
        ("A pump with the text <5 bar>.", "A pump with the text <5 bar>."),
        ("A sign that says I cannot swim.", "A sign that says I cannot swim."),
    ],
)
def test_the_caption_is_what_follows_the_reasoning(text: str, caption: str) -> None:
    made = read(text)
    assert (made.caption, made.reason) == (caption, None)
    assert made.reasoning is ("think" in text)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (read("", refused=True), "refused"),
        (read("I'm sorry, but I can't help with that."), "refused"),
        (read("I\u2019m unable to describe this image."), "refused"),
        (read("<think>Hm.</think> I cannot describe it."), "refused"),
        (read("A pump on a", truncated=True), "cut at caption_max_tokens"),
        (read("<think>It may be", truncated=True), "cut at caption_max_tokens"),
        (read("<think>It may be"), "only reasoning"),
        (read("<think>Hm.</think> "), "only reasoning"),
        (read(" \n"), "empty answer"),
    ],
)
def test_an_answer_without_a_whole_caption_gives_none(answer: Caption, reason: str) -> None:
    assert (answer.caption, answer.reason) == (None, reason)


def test_the_rule_for_colours_is_refused_for_other_images_before_any_is_read() -> None:
    check_captioner("nearest_colour", "colours://xkcd")
    check_captioner("vlm", "photos")
    check_captioner("none", "photos")
    with pytest.raises(BenchmarkError, match=r"image_text\.captioner=vlm .* or image_text\.captioner=none"):
        check_captioner("nearest_colour", "photos")
