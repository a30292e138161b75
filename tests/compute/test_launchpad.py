"""The compute target of a stage and its settings, chosen for one run in the UI's launchpad."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from assets_pkg.orchestration.history import SETTINGS_KEY
from assets_pkg.orchestration.names import UNPREFIXED, Names
from tests.conftest import write_corpus, write_profile


@pytest.mark.slow
@pytest.mark.parametrize("names", [UNPREFIXED, Names.under(["team", "faq"])], ids=["plain", "prefixed"])
def test_a_run_can_name_the_target_and_the_settings_of_one_stage(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "env.toml").write_text('[child]\nexecutor = "subprocess"\n', "utf-8")
    corpus = write_corpus(tmp_path / "documents", 8)
    settings = write_profile(tmp_path / "p.yaml", corpus=corpus, model=tmp_path, root=tmp_path / "output")
    defs = build_definitions(load_profile(str(settings)), key_prefix=names.prefix)
    job = defs.resolve_job_def(names.of("retune"))

    def launch(stages: dict[str, str], instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        return job.execute_in_process(
            run_config={
                "ops": {names.of("raw_corpus"): {"config": {"corpus": {"num_files": 5}}}},
                "resources": {names.of("compute"): {"config": {"stages": stages}}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            instance=instance,
            asset_selection=[names.key("raw_corpus")],
            raise_on_error=False,
        )

    with dg.DagsterInstance.ephemeral() as instance:
        refused = launch({"sdg": "nowhere"}, instance)
        (failure,) = [event for event in refused.all_events if event.is_step_failure]
        failed = failure.step_failure_data.user_failure_data
        assert failed is not None
        assert failed.description == "env.toml has no compute target 'nowhere'; it has: child"
        done = launch({"sdg": "child"}, instance)
        assert done.success
        (made,) = done.asset_materializations_for_node(names.of("raw_corpus"))
        assert made.metadata["job_host"].value
        assert made.metadata["documents"].value == 5, "the job has the settings of the run"
        settings_of_run = made.metadata[SETTINGS_KEY].value
        assert isinstance(settings_of_run, dict)
        assert settings_of_run["num_files"] == 5
    (folder,) = (tmp_path / "output" / ".jobs").iterdir()
    assert folder.name.startswith("raw_corpus-")
