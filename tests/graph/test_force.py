"""What is up to date is made anew when that is asked for; the same content stays the same version."""

from __future__ import annotations

import dagster as dg
import pytest

from assets_pkg.automation.execute import run_assets
from assets_pkg.automation.external_changes import build_probes
from assets_pkg.config.stages import STAGES
from assets_pkg.orchestration.asset_context import forced_tag
from assets_pkg.orchestration.history import REUSED_KEY
from assets_pkg.orchestration.plan import make_plan
from tests.graph.harness import WITHOUT_SERVER, Project

PREP = STAGES["prep"]


def was_reused(project: Project, asset: str) -> bool:
    event = project.instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return bool(event.asset_materialization.metadata[REUSED_KEY].value)


def test_a_forced_stage_is_made_anew_and_what_follows_is_reused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    plan = make_plan(project.defs, project.instance, WITHOUT_SERVER, build_probes(project.profile), PREP)
    states = {asset.name: (asset.state, *asset.reasons) for asset in plan.assets}
    assert {states[asset] for asset in PREP} == {("stale", "asked for by --force")}
    assert states["passages"] == ("fresh",)
    assert states["checkpoint"][0] == "follows"

    before = [project.version(asset) for asset in [*PREP, "checkpoint"]]
    assert run_assets(project.defs, project.instance, PREP).succeeded
    assert all(was_reused(project, asset) for asset in PREP)
    done = run_assets(project.defs, project.instance, plan.to_run, tags=forced_tag(PREP))
    assert done.succeeded, done.failures
    assert not any(was_reused(project, asset) for asset in PREP)
    assert was_reused(project, "checkpoint")
    assert [project.version(asset) for asset in [*PREP, "checkpoint"]] == before
    assert project.stale() == []
