"""General pairs beside those of the documents: how many, whose, and that training sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.sections.finetune import MixSettings
from assets_pkg.finetune.data import Example, TrainData
from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.mixing import with_general_pairs
from assets_pkg.finetune.train import finetune
from storage.formats.beir import BeirDocument, BeirQuery, write_beir
from tests.finetune.conftest import CPU, TrainingInputs

OWN = TrainData(
    [Example(f"q{n}", f"own question {n}", f"d{n}", (f"d{n + 1}",)) for n in range(8)],
    {f"d{n}": f"own passage {n}" for n in range(9)},
    {f"own question {n}": frozenset({f"d{n}"}) for n in range(8)},
)


@pytest.fixture
def general(tmp_path: Path) -> Path:
    folder = tmp_path / "general"
    documents = [BeirDocument(f"d{n}", f"general passage {n}", "Title") for n in range(20)]
    queries = [BeirQuery(f"q{n}", f"general question {n}") for n in range(10)]
    qrels = {f"q{n}": {f"d{n}": 1, f"d{n + 10}": 2, "d19": 0} for n in range(9)}  # q9 has no judgement
    write_beir(folder, documents, queries, qrels)
    return folder


@pytest.mark.parametrize(("share", "rows"), [(0.2, 2), (0.5, 8), (0.9, 9)])
def test_the_share_is_of_all_rows(general: Path, share: float, rows: int) -> None:
    """8 own rows: a fifth of 10 is 2, half of 16 is 8; nine tenths would be 72, and there are 9."""
    mixed = with_general_pairs(OWN, MixSettings(path=str(general), share=share), seed=1)
    assert mixed.examples[:8] == OWN.examples
    added = mixed.examples[8:]
    assert len(added) == rows == len({row.question_id for row in added})
    for row in added:
        number = int(row.question.rpartition(" ")[2])
        assert mixed.passages[row.positive] == f"Title general passage {number + 10}"  # the best judged
        assert mixed.known_positives[row.question] == {row.positive}
    assert OWN.passages.items() <= mixed.passages.items()
    assert len(mixed.passages) == len(OWN.passages) + rows
    assert mixed == with_general_pairs(OWN, MixSettings(path=str(general), share=share), seed=1)


def test_an_answer_that_is_missing_is_named(general: Path) -> None:
    (general / "corpus.jsonl").write_text(json.dumps({"_id": "d0", "text": "alone"}) + "\n")
    with pytest.raises(TrainingDataError, match="lacks the answer d1"):
        with_general_pairs(OWN, MixSettings(path=str(general), share=0.5), seed=1)


@pytest.mark.slow
def test_training_counts_them(general: Path, inputs: TrainingInputs, tmp_path: Path) -> None:
    settings = inputs.settings(mix=MixSettings(path=str(general), share=0.1))
    notes: list[str] = []
    finetune(inputs.mined, inputs.base, inputs.model, settings, CPU, tmp_path, note=notes.append)
    assert notes[0].startswith("plan: 53 examples")  # 48 own ones and 5
    summary: dict[str, Any] = json.loads((tmp_path / "summary.json").read_text())
    assert summary["plan"]["examples"] == 53
    assert summary["trained"]


def test_pairs_without_any_contrast_are_refused() -> None:
    for changed in ("method=adapter", "in_batch_negatives=false"):
        with pytest.raises(ProfileError, match="general pairs have no mined negatives"):
            load_profile("laptop", ["finetune.mix={path: /somewhere, share: 0.2}", f"finetune.{changed}"])
