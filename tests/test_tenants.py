"""Many corpora in one code location: a graph under a prefix for each, made in a loop."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from assets_pkg.orchestration.stale_status import StaleStatuses
from tests.conftest import write_corpus, write_profile

TENANTS = [f"tenant_{number}" for number in range(5)]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
INDEXED = ["base_model", "raw_corpus", "passages", "promoted_model", "corpus_embeddings", "vector_index"]
CORPUS, REINDEX = "corpus_when_documents_change", "reindex_when_model_or_corpus_changes"


@pytest.fixture
def tenants(tmp_path: Path, tiny_model: Path) -> dg.Definitions:
    """They share the model that all of them import."""
    shared = write_profile(tmp_path / "shared.yaml", corpus=tmp_path, model=tiny_model, root=tmp_path)

    def graph(number: int, name: str) -> dg.Definitions:
        corpus = write_corpus(tmp_path / name / "documents", 3, seed=number)
        own = {
            "corpus.corpus_dir": corpus,
            "artifact_root": tmp_path / name / "output",
            "deploy.host_port": 18000 + number,
            "export.model_path": tiny_model,
        }
        profile = load_profile(str(shared), [f"{key}={value}" for key, value in own.items()])
        return build_definitions(profile, key_prefix=name, include=["sensors"])

    return dg.Definitions.merge(*(graph(*each) for each in enumerate(TENANTS)))


@pytest.mark.slow
def test_one_changed_corpus_is_indexed_again_and_no_other(tenants: dg.Definitions, tmp_path: Path) -> None:
    job = tenants.resolve_implicit_global_asset_job_def()

    def tick(instance: dg.DagsterInstance, sensor: str) -> dict[str, dg.RunRequest]:
        requested: dict[str, dg.RunRequest] = {}
        for name in TENANTS:
            with dg.build_sensor_context(instance=instance, definitions=tenants) as context:
                answer: Any = tenants.resolve_sensor_def(f"{name}__{sensor}")(context)
            if isinstance(answer, dg.RunRequest):
                requested[name] = answer
        return requested

    def stale(instance: dg.DagsterInstance) -> list[str]:
        statuses = StaleStatuses(tenants, instance)
        keys = [dg.AssetKey([name, asset]) for name in TENANTS for asset in INDEXED]
        return [key.to_user_string() for key in keys if statuses.status(key) != "fresh"]

    with dg.DagsterInstance.ephemeral() as instance:
        every = [dg.AssetKey([name, asset]) for name in TENANTS for asset in INDEXED]
        assert job.execute_in_process(run_config=QUIET, instance=instance, asset_selection=every).success
        assert stale(instance) == []
        before = tick(instance, REINDEX)
        assert not tick(instance, CORPUS)

        new = tmp_path / "tenant_3" / "documents" / "new.md"
        new.write_text("# New\n\nThe seal of the pump is checked every day at noon, and so is the rotor.\n")
        assert list(tick(instance, CORPUS)) == ["tenant_3"]
        refresh = tenants.resolve_job_def("tenant_3__refresh_corpus")
        assert refresh.execute_in_process(run_config=QUIET, instance=instance).success
        assert stale(instance) == ["tenant_3/corpus_embeddings", "tenant_3/vector_index"]
        after = tick(instance, REINDEX)
        assert [name for name in TENANTS if after[name].run_key != before[name].run_key] == ["tenant_3"]
        assert after["tenant_3"].stale_assets_only
