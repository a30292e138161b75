"""The schedules, off until they are switched on."""

import dagster as dg

from assets_pkg.automation.jobs import MAIN_JOB, MEASURE_JOB
from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.names import UNPREFIXED, Names


def build_schedules(profile: Profile, names: Names = UNPREFIXED) -> list[dg.ScheduleDefinition]:
    """The nightly refresh and the weekly measurement, off until they are switched on."""
    timetable = {
        "nightly_refresh": (
            MAIN_JOB,
            profile.automation.refresh_cron,
            "Runs all stages, from the documents to the index. Assets whose inputs are unchanged are reused.",
        ),
        "weekly_measurement": (
            MEASURE_JOB,
            profile.automation.measure_cron,
            "Measures base and fine-tuned model again, and lets the gate decide again.",
        ),
    }
    return [
        dg.ScheduleDefinition(
            name=names.of(name),
            job_name=names.of(job),
            cron_schedule=cron,
            description=description,
            execution_timezone=profile.automation.timezone,
            default_status=dg.DefaultScheduleStatus.STOPPED,
        )
        for name, (job, cron, description) in timetable.items()
    ]
