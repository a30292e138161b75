"""Old versions go; what is linked or current stays."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from filelock import FileLock
from pymilvus import MilvusClient

from assets_pkg.automation.retention import (
    Removal,
    StillNeeded,
    UnknownDocument,
    find_damaged,
    find_holders,
    find_leftovers,
    find_removals,
    remove,
)
from assets_pkg.deploy.backends.process import ServerState
from assets_pkg.deploy.server_state import write_state
from assets_pkg.orchestration.history import ARTIFACT_KEY
from assets_pkg.reindex.index import open_index
from resources.vector_store.base import index_schema
from storage.artifact_store import ArtifactStore, BuildKey
from storage.artifacts import Artifact, VectorIndex
from storage.files import write_atomic
from storage.paths import FROZEN_EVAL_SET
from storage.remote_store import RemoteArtifactStore
from tests.s3.server import S3Server


def make(store: ArtifactStore, asset: str, number: int) -> Artifact:
    key = BuildKey(asset, str(number), {})
    return store.build(Artifact, key, lambda folder: _write(folder, f"{asset} {number}"))


def _write(folder: Path, text: str) -> None:
    (folder / "file.txt").write_text(text)


def test_only_old_versions_that_nothing_needs_are_removed(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    models = [make(store, "checkpoint", number) for number in range(5)]
    store.link("promoted_model", models[0].path)
    with dg.DagsterInstance.ephemeral() as instance:
        recorded = {ARTIFACT_KEY: f"checkpoint/{models[1].version}"}
        instance.report_runless_asset_event(dg.AssetMaterialization("checkpoint", metadata=recorded))
        removals = list(find_removals(store, instance, keep=1))
        newest = store.versions("checkpoint")[0]
        kept = {newest, models[0].version, models[1].version}
        assert {removal.version for removal in removals} == {model.version for model in models} - kept
        assert all(removal.size == len("checkpoint 0") for removal in removals)
        for removal in removals:
            store.remove(removal.asset, removal.version)
        assert set(store.versions("checkpoint")) == kept
        assert list(find_removals(store, instance, keep=1)) == []


def test_a_removed_version_is_built_again_when_asked_for(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    version = make(store, "checkpoint", 1).version
    store.remove("checkpoint", version)
    assert make(store, "checkpoint", 1).version == version
    assert store.versions("checkpoint") == [version]


def milvus_place(store: ArtifactStore, model: str, uri: str) -> dict[str, Any]:
    owner = {"project": store.identity(), "root": store.location, "alias": "c_current"}
    return {"store": "milvus", "uri": uri, "collection": f"c_{model}", "owner": owner, "token_env": "NONE"}


def index_version(store: ArtifactStore, model: str, uri: str) -> Artifact:
    """A vector index of no rows, in a collection of a Milvus file."""
    place = milvus_place(store, model, uri)
    open_index(store.root, place).write([], index_schema(4))

    def produce(folder: Path) -> None:
        (folder / "index.json").write_text(json.dumps({"model_digest": model, "place": place}))

    return store.build(VectorIndex, BuildKey("vector_index", model, {}), produce)


@pytest.mark.slow
def test_the_served_models_index_stays_and_collections_of_removed_ones_go(
    tmp_path: Path,
) -> None:
    store, uri = ArtifactStore(tmp_path / "store"), str(tmp_path / "milvus.db")
    served, old, current = (index_version(store, model, uri) for model in ("aa", "bb", "cc"))
    store.link("reindex/index", current.path)
    process = psutil.Process()
    state = ServerState(process.pid, process.create_time(), "127.0.0.1", 1, "aa", "", "")
    write_state(store.root / "stage5_deploy", asdict(state))
    with dg.DagsterInstance.ephemeral() as instance:
        removals = list(find_removals(store, instance, keep=1))
    assert [removal.version for removal in removals] == [old.version]
    remove(store, removals[0])
    assert set(store.versions("vector_index")) == {served.version, current.version}
    assert sorted(MilvusClient(uri).list_collections()) == ["c_aa", "c_cc"]


def test_a_machine_that_never_had_an_index_drops_its_collection_too(tmp_path: Path, s3: S3Server) -> None:
    url, uri = f"s3://{s3.new_bucket()}/team", str(tmp_path / "milvus.db")
    made = index_version(RemoteArtifactStore(url, tmp_path / "one"), "aa", uri)
    other = RemoteArtifactStore(url, tmp_path / "two")
    remove(other, Removal("vector_index", made.version, 0))
    assert MilvusClient(uri).list_collections() == []
    assert other.versions("vector_index") == []
    assert not list((tmp_path / "two").rglob("index.json"))


def leave_unfinished(store: ArtifactStore, asset: str, number: int, text: str = "half") -> Path:
    """What a killed build leaves; gives its folder."""
    key = BuildKey(asset, str(number), {})

    def killed(folder: Path) -> None:
        _write(folder, text)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.build(Artifact, key, killed)
    return store.work_folder(asset, key.digest)


def test_what_killed_builds_left_goes_once_a_newer_version_was_made(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    overtaken = leave_unfinished(store, "corpus_embeddings", 1)
    os.utime(overtaken, (0, 0))
    os.utime(overtaken / "file.txt", (0, 0))
    made = make(store, "corpus_embeddings", 2)
    os.utime(made.path / "manifest.json", (1000, 1000))
    resumable = leave_unfinished(store, "corpus_embeddings", 3)
    first = leave_unfinished(store, "checkpoint", 1)
    with dg.DagsterInstance.ephemeral() as instance:
        removals = list(find_removals(store, instance, keep=1))
        assert [(each.asset, each.version, each.unfinished) for each in removals] == [
            ("corpus_embeddings", overtaken.name, True)
        ]
        assert removals[0].size == len("half")
        with FileLock(f"{overtaken}.lock"):  # another process has resumed it
            assert list(find_removals(store, instance, keep=1)) == []
        remove(store, removals[0])
    assert not overtaken.exists()
    assert resumable.exists()
    assert first.exists()
    assert store.versions("corpus_embeddings") == [made.version]


@pytest.mark.slow
def test_a_half_written_collection_goes_with_the_build_that_left_it(tmp_path: Path) -> None:
    store, uri = ArtifactStore(tmp_path / "store"), str(tmp_path / "milvus.db")
    place = milvus_place(store, "aa", uri)
    work = leave_unfinished(store, "vector_index", 1)
    (work / "place.json").write_text(json.dumps(place))
    open_index(work, place).write([], index_schema(4))
    key = work.name
    remove(store, Removal("vector_index", key, 0, unfinished=True))
    assert MilvusClient(uri).list_collections() == []
    assert not work.exists()


def test_before_the_first_run_there_is_nothing_to_remove(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "not-made")
    with dg.DagsterInstance.ephemeral() as instance:
        assert list(find_removals(store, instance, keep=1)) == []
    assert list(find_leftovers(store)) == []


def test_what_a_killed_deletion_left_goes(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    made = make(store, "checkpoint", 1)
    (made.path / "manifest.json").unlink()
    with dg.DagsterInstance.ephemeral() as instance:
        (removal,) = find_removals(store, instance, keep=3)
    assert removal == Removal("checkpoint", made.version, len("checkpoint 1"))
    remove(store, removal)
    assert not made.path.exists()


def leave(path: Path, age: float) -> Path:
    """A file that was last written ``age`` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("left")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_damaged_and_temporary_files_go_once_what_they_stood_for_was_made(tmp_path: Path) -> None:
    store, hour = ArtifactStore(tmp_path), 3600
    renewed = leave(tmp_path / ".cache" / "embeddings" / "data.mdb.damaged", 2 * hour)
    leave(tmp_path / ".cache" / "embeddings" / "data.mdb", hour)
    kept = leave(tmp_path / ".cache" / "answers.sqlite.damaged", 1000 * hour)
    overtaken = leave(tmp_path / "stage5_deploy" / ".server.json.4711", 2 * hour)
    leave(tmp_path / "stage5_deploy" / "server.json", hour)
    being_written = leave(tmp_path / "stage5_deploy" / ".other.json.4711", hour)
    old = leave(tmp_path / "keys" / "passages" / ".0123abcd.4711", 25 * hour)
    link = tmp_path / ".promoted_model.4711"
    link.symlink_to("artifacts")
    os.utime(link, (0, 0), follow_symlinks=False)
    of_builds = leave(tmp_path / ".work" / "passages" / "key" / ".summary.json.4711", 25 * hour)
    assert set(find_leftovers(store)) == {renewed, overtaken, old, link}
    assert set(find_damaged(store)) == {renewed, kept}
    assert being_written.exists()
    assert of_builds.exists()


def test_files_from_the_future_stay_until_the_clock_is_right_again(tmp_path: Path) -> None:
    store, future = ArtifactStore(tmp_path), -1000.0
    leave(tmp_path / ".state.json.4711", future)
    leave(tmp_path / "data.mdb.damaged", future)
    leave(tmp_path / "data.mdb", 0)
    assert list(find_leftovers(store)) == []


def test_forgetting_takes_what_killed_builds_left_but_no_model(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    leave_unfinished(store, "passages", 1)
    leave_unfinished(store, "checkpoint", 1)
    with dg.DagsterInstance.ephemeral() as instance:
        with pytest.raises(UnknownDocument, match="1 unfinished builds may"):
            list(find_holders(store, instance, "a.md"))
        store.build(
            Artifact,
            BuildKey("synthetic_qa", "1", {}),
            lambda folder: write_atomic(folder / "qa_records.jsonl", '{"file_name":["a.md"]}'),
        )
        found = list(find_holders(store, instance, "a.md"))
    assert [(each.asset, each.unfinished) for each in found] == [("synthetic_qa", False), ("passages", True)]


def test_a_frozen_eval_set_that_holds_a_document_has_to_be_released(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    pairs = store.build(
        Artifact,
        BuildKey("synthetic_qa", "1", {}),
        lambda folder: write_atomic(folder / "qa_records.jsonl", '{"file_name":["a.md"]}'),
    )
    key = BuildKey("eval_set", "1", {"synthetic_qa": pairs.version})
    frozen = store.build(Artifact, key, lambda folder: _write(folder, "questions"))
    store.link(FROZEN_EVAL_SET, frozen.path)
    error = (
        r"eval_set .* holds a\.md: delete the file, release the frozen eval set \(`retune eval-set release`\)"
    )
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(StillNeeded, match=error):
        list(find_holders(store, instance, "a.md"))


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("document", ["a.md", "übung.md"])
def test_a_document_is_found_however_json_spells_its_name(
    tmp_path: Path, document: str, ascii_only: bool
) -> None:
    store = ArtifactStore(tmp_path)
    line = json.dumps({"source_id": document}, ensure_ascii=ascii_only)

    def produce(folder: Path) -> None:
        (folder / "qa_records.jsonl").write_text(line, "utf-8")

    made = store.build(Artifact, BuildKey("synthetic_qa", "1", {}), produce)
    with dg.DagsterInstance.ephemeral() as instance:
        found = list(find_holders(store, instance, document))
        assert [(each.asset, each.version) for each in found] == [("synthetic_qa", made.version)]
        for other in ("other.md", "source_id", ""):
            with pytest.raises(UnknownDocument):
                list(find_holders(store, instance, other))
