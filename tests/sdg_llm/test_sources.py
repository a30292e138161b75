"""Documents, bundles and sections, by hand-worked cases."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from material import make_corpus, sdg_settings

from assets_pkg.sdg.llm.documents import ManifestError, SourceDocument, count_sources, read_sources
from assets_pkg.sdg.llm.pairs import _in_its_language
from storage.formats.qa_records import Chunk

URL = "http://127.0.0.1/v1"


def sources_of(folder: Path, count: int = 5, segments: int = 4, **settings: Any) -> list[SourceDocument]:
    corpus, passages = make_corpus(folder, count, segments=segments)
    chosen = sdg_settings(URL, **settings)
    sources = list(read_sources(corpus, passages, chosen))
    assert len(sources) == count_sources(corpus, chosen)
    return sources


def test_a_document_is_a_source(tmp_path: Path) -> None:
    first, *_ = sources_of(tmp_path)
    assert (first.source_id, first.file_names, first.bundled) == ("doc00000.txt", ["doc00000.txt"], False)
    assert [chunk.chunk_id for chunk in first.chunks] == [1, 2, 3, 4]
    assert first.chunks[1].doc_id is None
    assert first.sections == [[1, 2, 3, 4]]
    assert first.prompt_text().splitlines()[:2] == [
        "=== Section 1 ===",
        "Segment 1: The plain part 0 of document 0 says so.",
    ]


def test_sections_are_runs_of_nearly_equal_length(tmp_path: Path) -> None:
    assert sources_of(tmp_path, segments=5, num_sections=2)[0].sections == [[1, 2], [3, 4, 5]]
    assert sources_of(tmp_path, segments=2, num_sections=3)[0].sections == [[1], [2]]


def test_bundles_join_documents_and_number_their_segments_through(tmp_path: Path) -> None:
    first, second, third = sources_of(tmp_path, segments=2, multi_doc=True)
    names = ["doc00000.txt", "doc00001.txt"]
    assert (first.file_names, third.file_names) == (names, ["doc00004.txt"])
    assert first.source_id == hashlib.md5("||".join(names).encode()).hexdigest()[:16]
    assert first.source_id != second.source_id
    assert [(chunk.chunk_id, chunk.doc_chunk_index, chunk.doc_id) for chunk in first.chunks] == [
        (1, 0, names[0]),
        (2, 1, names[0]),
        (3, 0, names[1]),
        (4, 1, names[1]),
    ]
    assert "\n\n=== Document Boundary ===\n\n" in first.text
    assert "Segment 3 [Doc: doc00001.txt]: The plain part 0 of document 1 says so." in first.prompt_text()
    assert not third.bundled


@pytest.mark.parametrize(
    ("strategy", "sections"),
    [
        ("sequential", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("doc_balanced", [[1, 2, 5, 6], [3, 4, 7, 8]]),
        ("interleaved", [[1, 5, 2, 6], [3, 7, 4, 8]]),
    ],
)
def test_strategies_lay_out_the_segments(tmp_path: Path, strategy: str, sections: list[list[int]]) -> None:
    first, *_ = sources_of(tmp_path, num_sections=2, multi_doc=True, bundle_strategy=strategy)
    assert first.sections == sections


@pytest.mark.parametrize("name", ["bundles.yaml", "bundles.json"])
def test_a_manifest_names_the_bundles(tmp_path: Path, name: str) -> None:
    bundles = [["doc00003.txt", "doc00001.txt"], {"docs": ["doc00002.txt"]}]
    manifest = tmp_path / name
    manifest.write_text(json.dumps(bundles))
    first, second = sources_of(tmp_path, multi_doc=True, multi_doc_manifest=str(manifest))
    assert first.file_names == ["doc00003.txt", "doc00001.txt"]
    assert first.chunks[0].text == "The plain part 0 of document 3 says so."
    assert second.file_names == ["doc00002.txt"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[[doc00001.txt, gone.txt]]", r"not in the corpus.*gone\.txt"),
        ("[[doc00001.txt, doc00001.txt]]", "bundle 1: names a document twice"),
        ("[[a, b], [a, b, c, d]]", "bundle 2: has 4 documents, more than max_docs_per_bundle = 3"),
        ("[{name: x}]", "bundle 1: must be a list"),
        ("{}", "must be a list of bundles"),
        ("[[", "not readable"),
    ],
)
def test_a_bad_manifest_is_explained(tmp_path: Path, content: str, says: str) -> None:
    manifest = tmp_path / "bundles.yaml"
    manifest.write_text(content)
    with pytest.raises(ManifestError, match=says):
        sources_of(tmp_path, multi_doc=True, multi_doc_manifest=str(manifest))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "The pump is inspected every two weeks, and then the seals of the pump are renewed by a fitter.",
            "",
        ),
        (
            "Die Pumpe wird alle zwei Wochen geprüft, und danach werden die Dichtungen von einem Monteur erneuert.",
            "de",
        ),
        ("水泵每两周检查一次。检查员把测得的压力记录在笔记本里。然后更换密封件。", "zh"),
    ],
)
def test_questions_are_asked_in_the_language_of_the_document(text: str, said: str) -> None:
    source = SourceDocument(
        "a", ["a"], text, [Chunk(text=text, chunk_id=1, doc_id="a")], [[1]], bundled=False
    )
    prompt = _in_its_language(source)
    assert ("in that language" in prompt, f"'{said}'" in prompt) == (bool(said), bool(said))
