"""The stage prep by command: pairs from a file, a file that is broken, the eval set's life."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command.conftest import Workplace, make_workplace

PREP = Path("output/embed/stage1_data_prep")
DOCUMENTS = 30


def document(number: int) -> dict[str, Any]:
    """A record of the recipe: two passages, a question about each."""
    return {
        "file_name": [f"case-{number:02}.md"],
        "source_id": f"case-{number:02}.md",
        "text": "",
        "chunks": [
            {"text": f"In case {number} the valve {number} is opened.", "chunk_id": 1},
            {"text": f"After case {number} the pump {number} is cleaned.", "chunk_id": 2},
        ],
        "deduplicated_qa_pairs": [
            {"question": f"what is opened in case {number}?", "answer": "a valve", "segment_ids": [1]},
            {"question": f"what is cleaned after case {number}?", "answer": "a pump", "segment_ids": [2]},
        ],
        "qa_evaluations": {"evaluations": [{"overall": {"score": 9.0}}, {"overall": {"score": 8.0}}]},
    }


def documents_with_faults() -> list[dict[str, Any]]:
    """Thirty records; the third has an unknown segment, the fifth an unworthy pair; the last two are the
    first again, and another text under its id."""
    records = [document(number) for number in range(DOCUMENTS)]
    records[2]["deduplicated_qa_pairs"][1]["segment_ids"] = [7]
    records[4]["qa_evaluations"]["evaluations"][0]["overall"]["score"] = 3.0
    other = document(0)
    other["chunks"][0]["text"] = "Quite another text."
    return [*records, document(0), other]


FAULTS = {
    (3, 2): "segment_does_not_exist",
    (5, 1): "below_quality_threshold",
    (31, 1): "repeated_pair",
    (31, 2): "repeated_pair",
    (32, 1): "source_id_of_another_text",
    (32, 2): "source_id_of_another_text",
}
"""Reasons by record and pair."""


def as_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("sets"), tiny_model, documents=1)


def prep(workplace: Workplace, tiny_model: Path, file: Path, *more: str) -> tuple[int, str]:
    code, output = workplace.retune(
        "prep",
        "-c",
        "laptop",
        f"base_model={tiny_model}",
        f"sdg_input_path={file}",
        "quality_threshold=7",
        *more,
    )
    return code, " ".join(output.split())


def version(workplace: Workplace, name: str) -> str:
    return str((workplace.home / PREP / name).resolve())


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def made(workplace: Workplace, tiny_model: Path) -> str:
    """What was printed while the sets were made."""
    file = workplace.home / "pairs.jsonl"
    as_lines(file, documents_with_faults())
    code, output = prep(workplace, tiny_model, file)
    assert code == 0, output
    return output


def test_the_sets_are_made_and_every_rejection_has_its_place(workplace: Workplace, made: str) -> None:
    training, validation = (read(workplace.home / PREP / f"{name}.json")["data"] for name in ("train", "val"))
    eval_set = (workplace.home / PREP / "eval_beir/queries.jsonl").read_text().splitlines()
    assert len(training) + len(validation) + len(eval_set) == 2 * DOCUMENTS - 2
    rejected = map(json.loads, (workplace.home / PREP / "rejected.jsonl").read_text().splitlines())
    assert {row["where"]: row["reason"] for row in rejected} == {
        f"pairs.jsonl:{record}, pair {pair}": reason for (record, pair), reason in FAULTS.items()
    }
    assert "6 pairs left out, such as pairs.jsonl:31, pair 1: repeated_pair" in made
    mined = read(workplace.home / PREP / "train_mined.automodel_unrolled.json")["data"]
    assert len(mined) == len(training)
    assert all(len(row["neg_doc"]) <= 5 and len(row["pos_doc"]) == 1 for row in mined)
    assert any(len(row["neg_doc"]) == 5 for row in mined)  # the margin leaves some fewer


def test_a_file_that_cannot_be_read_says_where_and_nothing_made_is_lost(
    workplace: Workplace, made: str, tiny_model: Path
) -> None:
    names = ("train.json", "eval_beir", "train_mined.automodel_unrolled.json")
    before = {name: version(workplace, name) for name in names}
    records = [document(number) for number in range(DOCUMENTS)]
    records[6]["deduplicated_qa_pairs"][0]["question"] = 7
    damaged = workplace.home / "damaged.jsonl"
    as_lines(damaged, records)
    code, output = prep(workplace, tiny_model, damaged)
    assert code == 1
    assert "damaged.jsonl:7: deduplicated_qa_pairs.0.question: " in output
    assert "Traceback" not in output
    assert {name: version(workplace, name) for name in names} == before
    assert all(Path(path).exists() for path in before.values())


def test_the_eval_set_is_shown_frozen_replaced_and_released(tmp_path: Path, tiny_model: Path) -> None:
    workplace = make_workplace(tmp_path / "workplace", tiny_model, documents=1)

    def eval_set_command(*arguments: str) -> tuple[int, str]:
        command, *rest = arguments
        code, output = workplace.retune("eval-set", command, *rest, "-c", "laptop")
        return code, " ".join(output.split())

    assert eval_set_command("show") == (0, "there is no eval set yet: `retune prep` makes one")
    code, output = eval_set_command("freeze")
    assert (code, "there is no eval set to freeze: run `retune prep` first" in output) == (1, True)

    pairs = workplace.home / "pairs.jsonl"
    as_lines(pairs, [document(number) for number in range(DOCUMENTS)])
    assert prep(workplace, tiny_model, pairs)[0] == 0
    first = version(workplace, "eval_beir")
    code, output = eval_set_command("show")
    assert (code, "split from the pairs, not frozen" in output, "test_questions: 12" in output) == (
        0,
        True,
        True,
    )

    code, output = eval_set_command("freeze")
    assert (code, "is now frozen" in output) == (0, True)
    assert ": frozen" in eval_set_command("show")[1]

    broken = workplace.home / "broken"
    write_beir(broken, "q\tgone\t1")
    code, output = eval_set_command("import", str(broken))
    assert (code, "not in corpus.jsonl, the first is gone of query q" in " ".join(output.split())) == (
        1,
        True,
    )
    assert version(workplace, "eval_beir") == first
    mine = workplace.home / "mine"
    write_beir(mine, "q\ta\t1")
    code, output = eval_set_command("import", str(mine))
    assert (code, "and frozen; next: `retune prep`" in output) == (0, True)
    assert prep(workplace, tiny_model, pairs)[0] == 0
    assert (workplace.home / PREP / "eval_beir/qrels/test.tsv").read_text().splitlines()[1:] == ["q\ta\t1"]

    assert "is released" in eval_set_command("release")[1]
    assert "no eval set is frozen" in eval_set_command("release")[1]


def write_beir(folder: Path, judgement: str) -> None:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "the lathe of mine"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "which lathe?"}\n')
    (folder / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judgement}\n")
