from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assets_pkg.finetune.data import read_train_data, read_validation_data
from assets_pkg.finetune.errors import TrainingDataError
from storage.artifacts import MinedTrainSet


def change(mined: MinedTrainSet, folder: Path, **fields: Any) -> Path:
    """A copy of the training file whose first row has other fields."""
    content = json.loads(mined.unrolled.read_text())
    content["data"][0] |= fields
    content["corpus"]["path"] = str(mined.path / "corpus")
    path = folder / "train.json"
    path.write_text(json.dumps(content))
    return path


def test_rows_have_their_first_negatives_and_all_texts(mined: MinedTrainSet) -> None:
    data = read_train_data(mined.unrolled, 2)
    raw = json.loads(mined.unrolled.read_text())["data"]
    assert [e.question_id for e in data.examples] == [row["question_id"] for row in raw]
    assert all(
        e.negatives == tuple(doc["id"] for doc in row["neg_doc"][:2])
        for e, row in zip(data.examples, raw, strict=True)
    )
    assert set(data.passages) == {n for e in data.examples for n in (e.positive, *e.negatives)}


def test_rows_of_one_question_know_each_others_positives(mined: MinedTrainSet) -> None:
    data = read_train_data(mined.unrolled, 0)
    pair = [e for e in data.examples if e.question_id in ("q3_0", "q3_1")]
    assert data.known_positives[pair[0].question] == {pair[0].positive, pair[1].positive}


def test_validation_pool_holds_every_positive_and_is_bounded(mined: MinedTrainSet) -> None:
    data = read_validation_data(mined.path / "val.json", 20)
    assert data is not None
    assert len(data.questions) == 8
    assert len(data.pool) == 20
    assert set().union(*data.positives.values()) <= set(data.pool)


def test_no_validation_file_or_rows_means_none(mined: MinedTrainSet, tmp_path: Path) -> None:
    assert read_validation_data(tmp_path / "val.json", 20) is None
    (tmp_path / "val.json").write_text('{"corpus": {"path": "./corpus/"}, "data": []}')
    assert read_validation_data(tmp_path / "val.json", 20) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": " "}, "q0_0: 'question' is empty"),
        ({"pos_doc": []}, "q0_0: 'pos_doc' is empty"),
        ({"pos_doc": [{"id": "d_missing"}]}, "q0_0 names passage d_missing"),
    ],
)
def test_a_broken_row_is_named(
    mined: MinedTrainSet, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingDataError, match=message):
        read_train_data(change(mined, tmp_path, **fields), 2)


def test_a_set_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text('{"corpus": {"path": "./corpus/"}, "data": []}')
    with pytest.raises(TrainingDataError, match=r"empty\.json: no training rows: add documents"):
        read_train_data(tmp_path / "empty.json", 0)
