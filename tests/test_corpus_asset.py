"""Documents from an asset of the user's own, and artifacts for one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets_pkg import build_definitions, load_artifact, load_profile
from assets_pkg.orchestration.downstream import NoArtifactError
from assets_pkg.orchestration.history import latest
from assets_pkg.orchestration.stale_status import StaleStatuses
from storage.artifacts import Passages
from tests.conftest import write_corpus, write_profile

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
CORPUS, PASSAGES = dg.AssetKey(["faq", "raw_corpus"]), dg.AssetKey(["faq", "passages"])


class Host:
    """A project with an asset ``texts`` that makes ``made`` documents, and one that counts passages."""

    def __init__(self, home: Path, model: Path, instance: dg.DagsterInstance):
        self.instance, self.home = instance, home
        self.metadata: dict[str, Any] = {"path": dg.MetadataValue.path(home / "texts")}
        self.version: str | None = "1"
        profile = write_profile(home / "p.yaml", corpus=home / "none", model=model, root=home / "output")
        host = self

        @dg.asset
        def texts() -> dg.MaterializeResult:
            version = None if host.version is None else dg.DataVersion(host.version)
            return dg.MaterializeResult(metadata=host.metadata, data_version=version)

        @dg.asset(deps=[PASSAGES])
        def counted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            passages = load_artifact(context, PASSAGES)
            assert isinstance(passages, Passages)
            return dg.MaterializeResult(metadata={"passages": passages.count()})

        self.defs = dg.Definitions.merge(
            build_definitions(
                load_profile(str(profile)), key_prefix="faq", corpus_asset=texts, include=["sensors"]
            ),
            dg.Definitions(assets=[texts, counted]),
        )

    def run(self, *assets: str | dg.AssetKey) -> dg.ExecuteInProcessResult:
        keys = [asset if isinstance(asset, dg.AssetKey) else dg.AssetKey(asset) for asset in assets]
        job = self.defs.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            run_config=QUIET, instance=self.instance, asset_selection=keys, raise_on_error=False
        )

    def tick(self) -> dg.RunRequest | dg.SkipReason:
        sensor = self.defs.resolve_sensor_def("faq__corpus_when_documents_change")
        with dg.build_sensor_context(instance=self.instance, definitions=self.defs) as context:
            return sensor(context)  # type: ignore[return-value]

    def status(self) -> str:
        return StaleStatuses(self.defs, self.instance).status(CORPUS)


@pytest.fixture
def host(tmp_path: Path, tiny_model: Path) -> Iterator[Host]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Host(tmp_path, tiny_model, instance)


@pytest.mark.slow
def test_documents_come_from_the_asset_and_are_read_again_when_it_makes_others(host: Host) -> None:
    write_corpus(host.home / "texts", 6)
    graph = host.defs.resolve_asset_graph()
    assert graph.get(CORPUS).parent_keys == {dg.AssetKey("texts")}
    assert isinstance(host.tick(), dg.SkipReason), "never read"
    assert host.run("texts", CORPUS, PASSAGES, "counted").success
    read = latest(host.instance, CORPUS)
    assert read is not None
    assert read.metadata["documents"].value == 6
    assert host.status() == "fresh"
    assert isinstance(host.tick(), dg.SkipReason)
    counted = latest(host.instance, dg.AssetKey("counted"))
    passages = load_artifact(host.instance, ["faq", "passages"])
    assert counted is not None
    assert counted.metadata["passages"].value == passages.row_count()

    write_corpus(host.home / "texts", 7)
    host.version = "2"
    assert host.run("texts").success
    assert host.status() == "stale"
    assert isinstance(host.tick(), dg.RunRequest)
    assert host.run(CORPUS).success
    again = latest(host.instance, CORPUS)
    assert again is not None
    assert again.metadata["documents"].value == 7
    assert (host.status(), type(host.tick())) == ("fresh", dg.SkipReason)


@pytest.mark.slow
def test_the_same_documents_under_another_version_leave_what_is_below_fresh(host: Host) -> None:
    write_corpus(host.home / "texts", 5)
    assert host.run("texts", CORPUS, PASSAGES).success
    host.version = None
    assert host.run("texts", CORPUS).success
    assert StaleStatuses(host.defs, host.instance).status(PASSAGES) == "fresh"


@pytest.mark.slow
def test_a_table_of_documents(host: Host) -> None:
    table = host.home / "articles.parquet"
    rows = {
        "id": ["a", "b"],
        "text": ["The first answer is long enough. " * 9, "The second one is too. " * 9],
    }
    pq.write_table(pa.table(rows), table)
    host.metadata = {"path": str(table)}
    assert host.run("texts", CORPUS).success
    made = load_artifact(host.instance, CORPUS)
    assert {document.doc_id for document in made.documents()} == {"articles.parquet#a", "articles.parquet#b"}  # type: ignore[attr-defined]


def test_an_asset_that_names_no_documents_is_told_what_to_return(host: Host) -> None:
    host.metadata = {"rows": 3}
    done = host.run("texts", CORPUS)
    (failure,) = [event for event in done.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data
    assert said is not None
    assert "latest materialization of texts names no documents" in (said.description or "")
    with pytest.raises(NoArtifactError, match=r"faq/vector_index has no artifact: materialize it first"):
        load_artifact(host.instance, ["faq", "vector_index"])
