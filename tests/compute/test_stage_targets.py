"""Where stages run: what the profile says, what one run replaces of it, and what the Launchpad shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from resources.compute.stage_targets import StageTargets
from resources.configurable import ComputeResource

ENV = '[child]\nexecutor = "subprocess"\n[far]\nexecutor = "slurm"\npartition = "batch"\n'


@pytest.fixture(autouse=True)
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "env.toml").write_text(ENV, "utf-8")


def chosen(**config: Any) -> StageTargets:
    """What a step is given by a run with this config, in a project whose profile names targets."""
    seen: list[StageTargets] = []

    @dg.asset
    def probe(compute: ComputeResource) -> None:
        seen.append(compute.get())

    profile = StageTargets(run_on="child", stages={"finetune": "far"}, overrides={"time": "1:00:00"})
    resources = {"compute": ComputeResource(profile_targets=profile)}
    run_config = {"resources": {"compute": {"config": config}}}
    assert dg.materialize([probe], resources=resources, run_config=run_config).success
    return seen[0]


def test_a_run_without_a_choice_runs_where_the_profile_says() -> None:
    targets = chosen()
    name, target = targets.target_of("finetune") or ("", None)
    assert (name, target and target.time) == ("far", "1:00:00")
    assert (targets.target_of("prep") or ("",))[0] == "child"


@pytest.mark.slow
def test_a_run_replaces_what_it_names_and_nothing_else() -> None:
    assert chosen(stages={"prep": "inline"}).target_of("prep") is None
    assert (chosen(stages={"prep": "inline"}).target_of("finetune") or ("",))[0] == "child"
    assert chosen(run_on="inline").target_of("prep") is None
    assert (chosen(run_on="inline").target_of("finetune") or ("",))[0] == "far"
    assert chosen(run_on="far").overrides == {"time": "1:00:00"}


def test_the_launchpad_shows_run_on_and_stages_only() -> None:
    job = build_definitions(load_profile("laptop")).resolve_job_def("retune")
    fields = job.run_config_schema.config_type.fields["resources"].config_type.fields  # type: ignore[attr-defined]
    shown = fields["compute"].config_type.fields["config"].config_type.fields
    assert set(shown) == {"run_on", "stages"}
