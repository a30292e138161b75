"""From documents to records, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.errors import SdgError
from assets_pkg.sdg.offline import generate_offline
from assets_pkg.sdg.question_filters import normalize_question
from storage.formats.qa_records import SourceRecord, read_records
from tests.corpus.making import write_corpus
from tests.sdg.making import WordEncoder, cut

FILLER = "It is written for the engineers of the large transonic wind tunnel and their many visitors."
TEXTS = {
    "drag.md": f"# Drag of thin wings\n\nInduced drag falls with the aspect ratio of the wing. {FILLER} {FILLER}\n\n"
    f"## Measured drag of flaps\n\nThe balance reads forces on flaps twice a second. {FILLER}\n",
    "empty.md": "# Nothing much\n\nToo little below it.\n",
    "lift.txt": f"lift of slender bodies .\n\nlift grows with the angle of attack until the flow leaves. {FILLER}\n",
    "same_1.md": f"# Notes on tunnel safety\n\nWear goggles near the balance chamber hatch. {FILLER}\n",
    "same_2.md": f"# Notes on tunnel safety\n\nKeep the hatch of the settling chamber closed. {FILLER}\n",
}


@pytest.fixture(scope="module")
def settings() -> SdgSettings:
    return load_profile("laptop").sdg


def generate(
    texts: dict[str, str], folder: Path, settings: SdgSettings, sentences: int = 2
) -> dict[str, SourceRecord]:
    corpus = write_corpus(folder / "corpus", texts)
    passages = cut(corpus, folder / "passages", sentences)
    (folder / "qa").mkdir()
    generate_offline(corpus, passages, settings, WordEncoder(), folder / "qa")
    return {record.source_id: record for record in read_records(folder / "qa" / "qa_records.jsonl")}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, settings: SdgSettings
) -> tuple[Path, dict[str, SourceRecord]]:
    folder = tmp_path_factory.mktemp("made")
    return folder / "qa", generate(TEXTS, folder, settings)


def test_one_record_a_document_with_all_its_passages(made: tuple[Path, dict[str, SourceRecord]]) -> None:
    _, records = made
    assert list(records) == sorted(TEXTS)
    drag = records["drag.md"]
    assert drag.text == TEXTS["drag.md"]
    assert [chunk.chunk_id for chunk in drag.chunks] == [1, 2, 3]
    assert drag.chunks[1].text == FILLER
    assert drag.generator == "offline"


def test_the_question_is_cut_out_of_its_passage_only(made: tuple[Path, dict[str, SourceRecord]]) -> None:
    _, records = made
    drag = records["drag.md"]
    questions = [(pair.question, pair.segment_ids) for pair in drag.deduplicated_qa_pairs]
    assert questions == [("Drag of thin wings", [1]), ("Measured drag of flaps", [3])]
    texts = {chunk.chunk_id: chunk.text for chunk in drag.chunks}
    assert texts[1].startswith("Induced drag falls")
    assert texts[3].startswith("The balance reads")
    for record in records.values():
        chunks = {chunk.chunk_id: chunk for chunk in record.chunks}
        for pair in record.deduplicated_qa_pairs:
            (segment,) = pair.segment_ids
            assert normalize_question(pair.question) not in normalize_question(chunks[segment].text)
            assert chunks[segment].word_count == len(chunks[segment].text.split())
    assert records["empty.md"].chunks[0].text == "# Nothing much\n\nToo little below it."


def test_scores_are_round_trip_ranks(made: tuple[Path, dict[str, SourceRecord]]) -> None:
    _, records = made
    (evaluation,) = records["lift.txt"].qa_evaluations.evaluations
    assert evaluation.overall.score == 10
    assert evaluation.overall.assessment == "title; round-trip rank 1 of 7"
    assert evaluation.relevance is None


def test_ambiguous_and_thin_pairs_are_rejected_with_the_reason(
    made: tuple[Path, dict[str, SourceRecord]],
) -> None:
    folder, records = made
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [(row["document"], row["question"], row["reason"].partition(":")[0]) for row in rejected] == [
        ("empty.md", "Nothing much", "question too short"),
        ("same_1.md", "Notes on tunnel safety", "ambiguous"),
        ("same_2.md", "Notes on tunnel safety", "ambiguous"),
    ]
    assert not records["same_1.md"].deduplicated_qa_pairs
    assert records["same_1.md"].chunks[0].text.startswith("# Notes on tunnel safety")


def test_summary(made: tuple[Path, dict[str, SourceRecord]]) -> None:
    summary = json.loads((made[0] / "summary.json").read_text())
    assert summary["documents"] == 5
    assert (summary["pairs"], summary["rejected"]) == (3, 3)
    assert summary["pairs_by_kind"] == {"title": 2, "heading": 1}
    assert summary["rank_within_100"] == 3


def test_progress_ends_at_its_total_with_copies_of_a_passage(tmp_path: Path, settings: SdgSettings) -> None:
    """Of the copies one is cut to answer its question, and the other is searched as it is: two texts of one."""
    corpus = write_corpus(tmp_path / "corpus", {"a.md": TEXTS["drag.md"], "b.md": TEXTS["drag.md"]})
    passages = cut(corpus, tmp_path / "passages", 2)
    (tmp_path / "qa").mkdir()
    seen: list[tuple[int, int]] = []
    generate_offline(
        corpus,
        passages,
        settings,
        WordEncoder(),
        tmp_path / "qa",
        lambda done, total, *_, **__: seen.append((done, total)),
    )
    assert seen[-1] == (5, 5)  # two questions' passages, their two copies, and the filler
    assert passages.summary()["distinct_texts"] == 3


def test_the_same_question_over_the_same_text_counts_once(tmp_path: Path, settings: SdgSettings) -> None:
    records = generate({"a.md": TEXTS["drag.md"], "b.md": TEXTS["drag.md"]}, tmp_path, settings)
    assert [len(record.deduplicated_qa_pairs) for record in records.values()] == [2, 0]


def test_the_same_input_gives_the_same_bytes(
    made: tuple[Path, dict[str, SourceRecord]], tmp_path: Path, settings: SdgSettings
) -> None:
    generate(TEXTS, tmp_path, settings)
    for name in ("qa_records.jsonl", "rejected.jsonl", "summary.json"):
        assert (tmp_path / "qa" / name).read_bytes() == (made[0] / name).read_bytes()


def test_documents_without_structure_are_an_error(tmp_path: Path, settings: SdgSettings) -> None:
    with pytest.raises(SdgError, match=r"question too short.*sdg\.generator=llm"):
        generate({"a.txt": "Short one. Short two."}, tmp_path, settings)
