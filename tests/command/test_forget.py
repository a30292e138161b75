"""``retune forget`` deletes every kept answer of a chat model: those about texts and those about images."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.chat_model.cache import AnswerCache
from tests.command.conftest import Workplace, make_workplace
from tests.image_text.vision_stub import Vision, vision_model

ANSWER = rb"A plain lightsteelblue\nsquare."
"""As JSON, so as the endpoint gave it: the published captions hold it with a space instead of the line break."""


@pytest.fixture
def captioned(tmp_path: Path) -> Workplace:
    """After four images were captioned through an endpoint, with an answer in the previous version's file too."""
    workplace = make_workplace(tmp_path / "project", Path("no-model-is-needed"), documents=1)
    with vision_model(Vision()) as vision:
        code, output = workplace.retune(
            "image-text",
            "captioner=vlm",
            f"caption_base_url={vision.url}",
            "num_pairs_limit=4",
            "image_text_models=[all-minilm-l6-v2]",
        )
    assert code == 0, output
    former = AnswerCache(workplace.home / "output" / ".cache" / "answers.sqlite")
    former.put(b"key", {"text": "A plain lightsteelblue\nsquare."})
    former.close()
    return workplace


def files_with(folder: Path, content: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and content in path.read_bytes()]


def test_no_file_holds_an_answer_after_a_document_is_forgotten(captioned: Workplace) -> None:
    assert files_with(captioned.home, ANSWER)
    code, output = captioned.retune("forget", "left.md")
    assert code == 0, output
    assert "all kept answers are deleted" in output
    assert files_with(captioned.home, ANSWER) == []
