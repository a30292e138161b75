"""``retune forget`` deletes every kept answer of a chat model: those about texts and those about images."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.chat_model.cache import AnswerCache
from storage.artifact_store import ArtifactStore, BuildKey
from storage.artifacts import Artifact
from storage.files import write_atomic
from storage.formats.qa_records import QAEvaluations, SourceRecord, dump_record
from tests.command.conftest import Workplace, make_workplace
from tests.image_text.vision_stub import Vision, vision_model

ANSWER = rb"A plain lightsteelblue\nsquare."
"""As JSON, so as the endpoint gave it: the published captions hold it with a space instead of the line break."""

LEFT = SourceRecord(
    file_name=["left.md"],
    source_id="left.md",
    chunks=[],
    deduplicated_qa_pairs=[],
    qa_evaluations=QAEvaluations(evaluations=[]),
)
"""What an old version has of a document that left the corpus."""


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
    store = ArtifactStore(captioned.home / "output")
    store.build(
        Artifact,
        BuildKey("synthetic_qa", "1", {}),
        lambda folder: write_atomic(folder / "qa_records.jsonl", dump_record(LEFT).decode()),
    )
    assert files_with(captioned.home, ANSWER)
    set_aside = captioned.home / "output" / ".cache" / "embeddings" / "vectors.sqlite.damaged"
    set_aside.parent.mkdir(exist_ok=True)
    set_aside.write_text("vectors of its texts")

    code, output = captioned.retune("forget", "lost.md")
    assert code == 1
    assert "'lost.md'; nothing was deleted" in output
    assert "Traceback" not in output
    assert files_with(captioned.home, ANSWER)
    assert store.versions("synthetic_qa")

    code, output = captioned.retune("forget", "left.md", "--dry-run")
    assert code == 0, output
    assert files_with(captioned.home, ANSWER)

    code, output = captioned.retune("forget", "left.md")
    assert code == 0, output
    assert "all kept answers of chat models are deleted" in output
    (kept,) = (
        line
        for line in output.splitlines()
        if line.startswith("kept: image_text_pairs, captions, image_text_")
    )
    assert "they are made of inputs of their own" in kept
    assert files_with(captioned.home, ANSWER) == []
    assert not set_aside.exists()
    assert store.versions("synthetic_qa") == []
