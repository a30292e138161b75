"""A whole run of a graph under a key prefix: it builds under the same keys as the plain one, and its checks hold."""

from __future__ import annotations

import dagster as dg
import pytest

from assets_pkg.build import build_definitions
from assets_pkg.orchestration.history import REUSED_KEY, input_version, latest
from assets_pkg.orchestration.names import Names
from tests.graph.harness import WITHOUT_SERVER, Project

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.mark.slow
def test_a_prefixed_graph_takes_what_the_plain_one_has_built(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    names = Names.under(["team", "faq"])
    defs = build_definitions(project.profile, key_prefix=names.prefix)
    keys = [names.key(asset) for asset in WITHOUT_SERVER]
    job = defs.resolve_job_def(names.of("retune"))
    done = job.execute_in_process(run_config=QUIET, instance=project.instance, asset_selection=keys)
    assert done.success
    made = {asset: latest(project.instance, names.key(asset)) for asset in WITHOUT_SERVER}
    assert all(event is not None for event in made.values())
    built = {
        asset
        for asset, event in made.items()
        if event and not getattr(event.metadata.get(REUSED_KEY), "value", True)
    }
    assert built == set(), "the artifacts of the plain graph"
    index = made["vector_index"]
    assert index is not None
    assert input_version(index, names.key("promoted_model")) == project.version("promoted_model")
    checks = {each.asset_check_key: each.passed for each in done.get_asset_check_evaluations()}
    assert checks[dg.AssetCheckKey(names.key("vector_index"), "index_is_fit")]
    assert {key.name for key in checks} >= {"gate", "no_leakage", "few_ended_by_limit", "index_is_in_step"}
    with dg.build_sensor_context(instance=project.instance, definitions=defs) as context:
        sensor = defs.resolve_sensor_def(names.of("reindex_when_model_or_corpus_changes"))
        requested = sensor(context)
    assert isinstance(requested, dg.RunRequest)
