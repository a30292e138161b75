"""A project in a folder, driven as its parts drive it: runs, plans, and sensor ticks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from assets_pkg.automation.execute import Outcome, run_assets
from assets_pkg.automation.external_changes import build_probes
from assets_pkg.automation.jobs import CORPUS_JOB, DEPLOY_JOB, REINDEX_JOB
from assets_pkg.build import build_definitions
from assets_pkg.config.profile import Profile
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.stages import STAGES, assets_between
from assets_pkg.orchestration.history import data_version
from assets_pkg.orchestration.plan import Plan, make_plan
from storage.artifact_store import ArtifactStore
from storage.remote_store import open_store

WITHOUT_SERVER = [
    asset for stage in STAGES if stage not in ("export", "deploy", "eval_nim") for asset in STAGES[stage]
]

JOBS = {
    REINDEX_JOB: list(STAGES["reindex"]),
    DEPLOY_JOB: ["onnx_model", "running_nim"],
    CORPUS_JOB: ["raw_corpus", "passages"],
}


@dataclass
class Project:
    """One profile on one instance. ``ticks`` remembers the run keys that were launched, as the daemon does."""

    profile_path: Path
    instance: dg.DagsterInstance
    overrides: Sequence[str] = ()
    launched: set[str] = field(default_factory=set)

    @property
    def profile(self) -> Profile:
        return _profile(self.profile_path, tuple(self.overrides), self.profile_path.read_text("utf-8"))

    @property
    def store(self) -> ArtifactStore:
        return open_store(self.profile.artifact_root)

    @property
    def defs(self) -> dg.Definitions:
        return _definitions(self.profile.model_dump_json())

    def with_overrides(self, *overrides: str) -> Project:
        return Project(self.profile_path, self.instance, overrides, self.launched)

    def plan(self, selection: Sequence[str] = WITHOUT_SERVER) -> Plan:
        return make_plan(self.defs, self.instance, selection, build_probes(self.profile))

    def stale(self, selection: Sequence[str] = WITHOUT_SERVER) -> list[str]:
        return [asset.name for asset in self.plan(selection).assets if asset.state in ("stale", "missing")]

    def run(
        self, selection: Sequence[str] = WITHOUT_SERVER, config: Mapping[str, Any] | None = None
    ) -> Outcome:
        """What ``retune run`` does: only what the plan says."""
        return self.execute(self.plan(selection), config)

    def execute(self, plan: Plan, config: Mapping[str, Any] | None = None) -> Outcome:
        outcome = run_assets(self.defs, self.instance, plan.to_run, config, planned_with=plan.events)
        assert outcome.succeeded, outcome.failures
        return outcome

    def promote(self, version: str) -> None:
        choice = {"promoted_model": {"version": version, "because": "test"}}
        assert run_assets(self.defs, self.instance, ["promoted_model"], choice).succeeded

    def tick(self, sensor: str) -> list[str]:
        """One sensor tick: evaluate it, narrow to stale assets where asked, launch each run key once.

        Returns the assets that were run, without the search method that is chosen when the model changed.
        """
        defs = self.defs
        definition = defs.resolve_sensor_def(sensor)
        with dg.build_sensor_context(instance=self.instance, definitions=defs) as context:
            requested = definition(context)
        if not isinstance(requested, dg.RunRequest) or requested.run_key in self.launched:
            return []
        job = definition.job_name
        assets = JOBS[str(job)]
        if requested.stale_assets_only:
            assets = [name for name in assets if name in self.stale(assets)]
        if assets:
            assert requested.run_key is not None
            self.launched.add(requested.run_key)
            assert run_assets(defs, self.instance, assets).succeeded
        return [name for name in assets if name != "search_method"]

    def version(self, asset: str) -> str:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        return data_version(event.asset_materialization)

    def events(self, asset: str) -> int:
        return len(self.instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records)


@cache
def _profile(path: Path, overrides: tuple[str, ...], text: str) -> Profile:
    """``text`` is what is in the file now."""
    return load_profile(str(path), overrides)


@cache
def _definitions(profile: str) -> dg.Definitions:
    return build_definitions(Profile.model_validate_json(profile))


__all__ = ["WITHOUT_SERVER", "Project", "assets_between"]
