"""The deployed server as assets: materialised as process and as container, and the eval set taken through it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
from pymilvus import MilvusClient

from assets_pkg.automation.execute import run_assets
from assets_pkg.deploy.deploy import read_state
from assets_pkg.deploy.server_state import served_digest
from assets_pkg.reindex.searched_index import current_index, disagreements
from assets_pkg.reindex.searcher import open_searcher
from resources.containers import ContainerEngine
from storage.artifact_store import ArtifactStore
from storage.artifacts import CorpusEmbeddings, VectorIndex
from tests.graph.harness import Project
from tests.loopback import free_port

SERVED = ["onnx_model", "running_nim", "nim_eval_metrics"]
INDEXED = ["corpus_embeddings", "vector_index"]
REINDEX, DEPLOY = "reindex_when_model_or_corpus_changes", "deploy_when_model_changes"
QUERY = "the rotor of the pump"
STATE = Path("output/stage5_deploy")


@pytest.fixture(autouse=True)
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(project.profile_path.parent)
    yield
    state = read_state(STATE)
    if state is not None:
        state.stop()


def _metadata(project: Project, asset: str) -> dict[str, object]:
    event = project.instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_the_eval_set_through_the_endpoint_agrees_with_the_checkpoint(project: Project) -> None:
    here = project.with_overrides(f"deploy.host_port={free_port()}")
    here.run(SERVED)
    shown = _metadata(here, "nim_eval_metrics")
    assert abs(float(str(shown["worst_drift"]))) <= 0.01
    assert shown["invalid_vectors"] == 0
    results = json.loads(Path("output/stage3_eval/eval_results.json").read_text())
    assert {"base", "finetuned", "nim"} <= set(results)
    assert [list(family) for family in results["nim"]] == [list(family) for family in results["base"]]
    assert set(results["mrr"]) == {"base", "finetuned", "nim"}
    models = results["metadata"]["models"]
    assert models["nim"] == here.version("promoted_model")
    assert all(row["within"] for row in results["metadata"]["nim_drift"])


def test_a_single_model_beside_the_server_leaves_comparison_and_promotion(project: Project) -> None:
    here = project.with_overrides(f"deploy.host_port={free_port()}")
    here.run(SERVED)
    decided, compared = here.events("promoted_model"), here.version("eval_metrics")
    half = project.with_overrides(*here.overrides, "eval_nim=true", "eval_base=false")
    assert half.stale() == []
    half.run([*half.profile.stages()["eval"], "nim_eval_metrics"])
    results = json.loads(Path("output/stage3_eval/eval_results.json").read_text())
    assert {"base", "finetuned", "nim"} <= set(results)
    alone = json.loads(Path("output/stage3_eval/eval_results_finetuned.json").read_text())
    assert alone["finetuned"] == results["finetuned"]
    assert "base" not in alone
    assert half.version("eval_metrics") == compared
    assert half.events("promoted_model") == decided
    assert half.plan(["eval_metrics", "promoted_model"]).to_run == []
    other = project.with_overrides(*here.overrides, "eval_finetuned=false")
    assert other.stale(other.profile.stages()["eval"]) == ["single_model_metrics"]


def test_a_container_is_deployed_by_materialising_and_examined(
    project: Project, engine: ContainerEngine
) -> None:
    port = free_port()
    changes = ["backend=docker", f"host_port={port}", f"container_name=graph-{port}"]
    here = project.with_overrides(*(f"deploy.{change}" for change in changes))
    here.run(SERVED)
    url = f"http://127.0.0.1:{port}"
    assert served_digest(url) == here.version("promoted_model")
    assert _metadata(here, "running_nim")["server"] == read_state(STATE).handle  # type: ignore[union-attr]
    assert "docker run --detach" in str(_metadata(here, "running_nim")["command"])
    assert _metadata(here, "nim_eval_metrics")["invalid_vectors"] == 0
    assert engine.find(f"graph-{port}") is not None
    assert here.plan(SERVED).to_run == []


def test_a_server_that_died_is_found_by_the_plan_and_by_the_eval_set(project: Project) -> None:
    here = project.with_overrides(f"deploy.host_port={free_port()}")
    here.run(["onnx_model", "running_nim"])
    state = read_state(STATE)
    assert state is not None
    assert httpx2.get(f"{state.url}/v1/health/ready").status_code == 200
    state.stop()
    assert here.stale(["running_nim"]) == ["running_nim"]
    outcome = run_assets(here.defs, here.instance, ["nim_eval_metrics"])
    assert not outcome.succeeded
    assert "run `retune deploy` first" in outcome.failures[0].message


def test_the_corpus_is_embedded_by_the_server_and_only_if_it_serves_the_promoted_model(
    project: Project,
) -> None:
    store = ArtifactStore(Path("output"))
    local = store.get(CorpusEmbeddings, "corpus_embeddings", project.version("corpus_embeddings"))
    here = project.with_overrides(f"deploy.host_port={free_port()}", "reindex.encoder=nim")
    here.run(["onnx_model", "running_nim", *INDEXED])
    served = store.get(CorpusEmbeddings, "corpus_embeddings", here.version("corpus_embeddings"))
    assert served.version != local.version
    np.testing.assert_allclose(_vectors(served), _vectors(local), atol=1e-4)
    assert here.tick(REINDEX) == []

    other = next(
        version
        for version in (here.version("base_model"), here.version("checkpoint"))
        if version != here.version("promoted_model")
    )
    here.promote(other)
    assert here.tick(REINDEX) == []
    outcome = run_assets(here.defs, here.instance, INDEXED)
    assert "no server serves the promoted model" in outcome.failures[0].message
    here.run(["onnx_model", "running_nim"])
    assert here.tick(REINDEX) == INDEXED
    assert current_index(store).describe()["model_digest"] == other


def _vectors(embeddings: CorpusEmbeddings) -> np.ndarray:
    column = pq.read_table(embeddings.path / "embeddings.parquet").column("vector")
    return np.stack(column.to_numpy(zero_copy_only=False))


def _at_work(project: Project, milvus: MilvusClient) -> dict[str, str]:
    """The model of each: of the server, of what is searched, and of the collection that the alias names."""
    store, server = ArtifactStore(Path("output")), read_state(STATE)
    assert server is not None
    with open_searcher(store, project.profile.model) as searcher:
        answer = searcher.search(QUERY, 1)
    collection = milvus.describe_alias("retune_current")["collection_name"]
    indexed = {each.describe()["place"]["collection"]: each for each in _indexes(store)}
    assert indexed[collection].version == answer.index
    return {
        "server": served_digest(server.url) or "",
        "search": answer.model,
        "alias": indexed[collection].describe()["model_digest"],
    }


def _indexes(store: ArtifactStore) -> list[VectorIndex]:
    found = [store.get(VectorIndex, "vector_index", version) for version in store.versions("vector_index")]
    return [each for each in found if "collection" in each.describe()["place"]]


def test_server_search_and_alias_follow_a_promotion_together_and_back(
    project: Project, tmp_path: Path
) -> None:
    uri = str(tmp_path / "milvus.db")
    here = project.with_overrides(
        f"deploy.host_port={free_port()}", "reindex.store=milvus", f"milvus_uri={uri}"
    )
    here.run(["onnx_model", "running_nim", *INDEXED])
    milvus = MilvusClient(uri)
    first, other = here.version("promoted_model"), here.version("base_model")
    if first == other:
        other = here.version("checkpoint")
    assert set(_at_work(here, milvus).values()) == {first}
    for model, before in ((other, first), (first, other)):
        here.promote(model)
        assert here.tick(DEPLOY) == []  # waits for the index
        assert set(_at_work(here, milvus).values()) == {before}
        assert here.tick(REINDEX) == INDEXED
        store = ArtifactStore(Path("output"))
        assert current_index(store).describe()["model_digest"] == model
        assert set(_at_work(here, milvus).values()) == {before}  # as long as the server serves it
        assert disagreements(store) == [
            f"the server serves model {before}, and the current index is of {model}"
        ]
        assert here.tick(DEPLOY) == ["onnx_model", "running_nim"]
        assert set(_at_work(here, milvus).values()) == {model}
        assert disagreements(store) == []
        assert here.tick(DEPLOY) == []


def test_a_server_that_was_stopped_or_started_with_other_settings_is_left_to_people(project: Project) -> None:
    here = project.with_overrides(f"deploy.host_port={free_port()}")
    here.run(["onnx_model", "running_nim"])
    other = next(
        version
        for version in (here.version("base_model"), here.version("checkpoint"))
        if version != here.version("promoted_model")
    )
    here.promote(other)
    assert here.tick(REINDEX) == INDEXED
    assert project.tick(DEPLOY) == []  # its settings have another port
    state = read_state(STATE)
    assert state is not None
    state.stop()
    assert here.tick(DEPLOY) == []


def test_a_server_whose_model_has_no_index_leaves_search_with_the_current_one(project: Project) -> None:
    here = project.with_overrides(f"deploy.host_port={free_port()}")
    before = current_index(ArtifactStore(Path("output")))
    other = next(
        version
        for version in (here.version("base_model"), here.version("checkpoint"))
        if version != here.version("promoted_model")
    )
    here.promote(other)
    here.run(["onnx_model", "running_nim"])
    with open_searcher(ArtifactStore(Path("output")), here.profile.model) as searcher:
        answer = searcher.search(QUERY, 1)
    assert (answer.index, answer.model) == (before.version, before.describe()["model_digest"])
    assert answer.hits[0].text
