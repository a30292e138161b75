"""The sets in the graph: eval sets that stay, sets that are there already, own pairs in every format, checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets_pkg.automation.execute import Outcome, run_assets
from assets_pkg.prep.eval_set import freeze, frozen_eval_set, import_eval_set
from storage.artifact_store import ArtifactStore
from storage.artifacts import EvalSet
from storage.formats.beir import read_queries
from tests.conftest import write_corpus
from tests.graph.harness import Project

PREP = ["eval_set", "training_set", "mined_train_set"]


@pytest.fixture(autouse=True)
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.profile_path.parent)


def store_of(project: Project) -> ArtifactStore:
    return ArtifactStore(Path(project.profile.artifact_root))


def trained_documents(project: Project) -> set[str]:
    splits = json.loads(
        (
            store_of(project).root
            / "artifacts/training_set"
            / project.version("training_set")
            / "splits.json"
        ).read_text()
    )
    return {*splits["documents"]["train"], *splits["documents"]["val"]}


def test_a_frozen_eval_set_stays_while_training_grows(project: Project) -> None:
    store = store_of(project)
    eval_set, trained = project.version("eval_set"), project.version("training_set")
    freeze(store, store.get(EvalSet, "eval_set", eval_set))
    assert project.plan().to_run == []
    run_assets(project.defs, project.instance, PREP)
    assert (project.version("eval_set"), project.version("training_set")) == (eval_set, trained)

    before = trained_documents(project)
    write_corpus(Path("documents"), 60)
    project.run(["raw_corpus", "passages", "base_model", "synthetic_qa", *PREP])
    assert project.version("eval_set") == eval_set
    after = trained_documents(project)
    assert len(after) > len(before)
    queries = read_queries(store.get(EvalSet, "eval_set", eval_set).beir)
    examined = {name for each in queries for name in each.metadata["file_name"]}
    assert examined
    assert not examined & after
    checks = check_results(project)
    assert checks["training_set:no_leakage"].passed


def test_freeze_eval_set_freezes_what_is_made_first(project: Project) -> None:
    eval_set = project.version("eval_set")
    freezing = project.with_overrides("prep.freeze_eval_set=true")
    freezing.run(PREP)
    frozen = frozen_eval_set(store_of(project))
    assert frozen is not None
    assert frozen.version == eval_set
    reshuffled = project.with_overrides("prep.freeze_eval_set=true", "prep.conversion_seed=7")
    reshuffled.run(PREP)
    assert project.version("eval_set") == eval_set


def test_an_imported_eval_set_replaces_the_split_one_and_old_measurements_do_not_count(
    project: Project,
) -> None:
    mine = Path("mine")
    (mine / "qrels").mkdir(parents=True)
    (mine / "corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "the pump of mine"}\n')
    (mine / "queries.jsonl").write_text('{"_id": "q", "text": "which pump?"}\n')
    (mine / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    taken = import_eval_set(store_of(project), mine)
    stale = {asset.name: asset for asset in project.plan().assets if asset.state == "stale"}
    assert "another eval set was frozen" in stale["eval_set"].reasons[0]
    assert run_assets(project.defs, project.instance, PREP).succeeded
    assert project.version("eval_set") == taken.version
    kept = project.version("promoted_model")
    outcome = run_assets(project.defs, project.instance, ["promoted_model"])
    assert not outcome.succeeded
    assert "current one is" in outcome.failures[0].message
    assert project.version("promoted_model") == kept


def test_the_graph_goes_on_from_files_that_are_there(project: Project, tmp_path: Path) -> None:
    made = Path("output/stage1_data_prep")
    files = (made / "train.json").resolve().parent, (made / "eval_beir").resolve()
    mined = (made / "train_mined.automodel_unrolled.json").resolve()
    from_plain = project.with_overrides(
        f"prep.train_input_file={files[0] / 'train.json'}", f"prep.eval_data_path={files[1]}"
    )
    before = {name: project.version(name) for name in PREP}
    plan = from_plain.plan(PREP)
    assert {asset.name for asset in plan.assets} == {*PREP, "base_model"}
    from_plain.run(PREP)
    assert project.version("eval_set") == before["eval_set"]
    assert project.version("mined_train_set") == before["mined_train_set"]
    from_mined = project.with_overrides(f"prep.train_input_file={mined}", f"prep.eval_data_path={files[1]}")
    from_mined.run([*PREP, "checkpoint"])
    assert from_mined.plan([*PREP, "checkpoint"]).to_run == []
    gone = project.with_overrides("prep.train_input_file=/does/not/exist.json")
    outcome = run_assets(gone.defs, project.instance, ["training_set"])
    assert "prep.train_input_file = /does/not/exist.json: no such file" in outcome.failures[0].message


def test_an_eval_set_that_is_in_training_is_stopped_by_the_check(project: Project) -> None:
    train = Path("output/stage1_data_prep/train.json").resolve()
    row = json.loads(train.read_text())["data"][0]
    leaked = Path("leaked")
    (leaked / "qrels").mkdir(parents=True)
    (leaked / "corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "nothing"}\n')
    (leaked / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": row["question"].upper()}) + "\n")
    (leaked / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    both = project.with_overrides(f"prep.train_input_file={train}", f"prep.eval_data_path={leaked}")
    mined = project.events("mined_train_set")
    outcome = run_assets(both.defs, project.instance, PREP)
    assert not outcome.succeeded
    assert any(
        "no_leakage" in failure.step and "questions: 1" in failure.message for failure in outcome.failures
    )
    assert project.events("mined_train_set") == mined
    planned = {asset.name: asset for asset in both.plan(PREP).assets}
    assert planned["training_set"].reasons == ("it failed its check no_leakage",)
    again = run_assets(both.defs, project.instance, both.plan(PREP).to_run)
    assert [failure.step for failure in again.failures] == ["check no_leakage of training_set"]
    assert project.events("mined_train_set") == mined


def test_every_check_is_in_the_ui_and_warns_of_a_small_eval_set(project: Project) -> None:
    results = check_results(project)
    assert {name.partition(":")[0] for name in results} >= set(PREP)
    small = results["eval_set:enough_queries"]
    assert (small.passed, small.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(small.metadata["widest_95_percent_interval"].value).startswith("+-0.")
    assert results["mined_train_set:passage_lengths"].metadata["passage_max_length"].value == 64


# ---- own pairs ---------------------------------------------------------------------------------------------------

ROWS = [
    {
        "question": f"what is done in case {n}?",
        "positive": f"In case {n} the valve {n} is opened.",
        "score": 8.0,
    }
    for n in range(30)
]


def as_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_list(path: Path, rows: list[Any]) -> None:
    path.write_text(json.dumps(rows))


def as_table(path: Path, rows: list[Any]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def run_own_pairs(project: Project, path: Path) -> Outcome:
    own = project.with_overrides(f"sdg.sdg_input_path={path}", "prep.quality_threshold=7")
    return run_assets(own.defs, project.instance, own.plan(PREP).to_run)


@pytest.mark.parametrize(
    ("name", "write"), [("pairs.jsonl", as_lines), ("pairs.json", as_list), ("pairs.parquet", as_table)]
)
def test_own_pairs_of_every_format_become_the_same_sets(
    project: Project, name: str, write: Callable[[Path, list[Any]], None]
) -> None:
    write(Path(name), ROWS)
    assert run_own_pairs(project, Path(name)).succeeded
    training = json.loads(Path("output/stage1_data_prep/train.json").read_text())["data"]
    eval_set = list(read_queries(Path("output/stage1_data_prep/eval_beir")))
    assert (len(training), len(eval_set)) == (21, 6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:-9]], "pairs.jsonl:30: not JSON"),
        (lambda lines: [lines[0], '{"question": 7, "positive": "x"}'], "pairs.jsonl:2: question: "),
        (
            lambda lines: [lines[0], '{"question": "q", "positive": "x", "score": 11}'],
            "pairs.jsonl:2: score: ",
        ),
    ],
)
def test_own_pairs_that_cannot_be_read_say_where_and_lose_nothing(
    project: Project, spoil: Callable[[list[str]], list[str]], message: str
) -> None:
    before = {name: project.version(name) for name in ("synthetic_qa", *PREP)}
    as_lines(Path("pairs.jsonl"), ROWS)
    Path("pairs.jsonl").write_text("\n".join(spoil(Path("pairs.jsonl").read_text().splitlines())))
    outcome = run_own_pairs(project, Path("pairs.jsonl"))
    assert not outcome.succeeded
    assert message in outcome.failures[0].message
    assert {name: project.version(name) for name in before} == before


def check_results(project: Project) -> dict[str, dg.AssetCheckEvaluation]:
    """The latest evaluation of every check of the sets."""
    keys = [
        key
        for key in project.defs.resolve_asset_graph().asset_check_keys
        if key.asset_key.to_user_string() in PREP
    ]
    found = {}
    for key in keys:
        records = project.instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        assert records, key
        event = records[0].event
        assert event is not None
        assert event.dagster_event is not None
        found[f"{key.asset_key.to_user_string()}:{key.name}"] = event.dagster_event.event_specific_data
    return found
