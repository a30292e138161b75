"""A run of the command is one of the jobs that the UI lists. The pages themselves: tests/ui/test_browser.py."""

from __future__ import annotations

import dagster as dg

from assets_pkg.automation.execute import run_assets
from assets_pkg.automation.jobs import MAIN_JOB

OF_THE_LOCATION = {".dagster/repository": "__repository__@retune"}
"""By this tag the UI finds the runs of a job."""


def test_a_run_of_the_command_belongs_to_its_job() -> None:
    @dg.asset
    def raw_corpus() -> None: ...

    defs = dg.Definitions(assets=[raw_corpus], jobs=[dg.define_asset_job(MAIN_JOB)])
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_assets(defs, instance, ["raw_corpus"]).succeeded
        (run,) = instance.get_runs(dg.RunsFilter(job_name=MAIN_JOB, tags=OF_THE_LOCATION))
        assert run.remote_job_origin is not None
        assert run.remote_job_origin.location_name == "retune"

        outside = defs.resolve_job_def(MAIN_JOB).execute_in_process(instance=instance)
        assert instance.get_run_by_id(outside.run_id).remote_job_origin is None, "only the command's own"
