"""The Dagster instance of a project: where runs, events and schedules live."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import dagster as dg
import psutil
import yaml

PROCESS_TAG = "retune/process"
TEMPLATE = Path(__file__).parent / "dagster.yaml"


def open_instance() -> dg.DagsterInstance:
    """The instance at ``DAGSTER_HOME``, by default ``.dagster`` in the current folder, made if need be."""
    home = Path(os.environ.get("DAGSTER_HOME") or ".dagster").expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.exists():
        config.write_text(TEMPLATE.read_text("utf-8"), "utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return dg.DagsterInstance.get()


def workspace_file(instance: dg.DagsterInstance) -> Path:
    """A workspace with the one code location, under the name that ``workspace.yaml`` and ``dg`` give it too: the
    state of sensors and schedules hangs on it."""
    path = Path(instance.root_directory) / "workspace.yaml"
    module = {"module_name": "assets_pkg.definitions", "location_name": "retune"}
    path.write_text(yaml.safe_dump({"load_from": [{"python_module": module}]}), "utf-8")
    return path


def process_tag() -> str:
    """Names this very process: host, pid and start time."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report runs as failed whose process on this host is gone (killed), and free their pool slots."""
    running = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    ended: list[str] = []
    for run in instance.get_runs(running):
        tag = run.tags.get(PROCESS_TAG)
        if tag and not _lives(tag):
            instance.report_run_failed(run, "its process was killed; finished steps are kept")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended.append(run.run_id)
    return ended


def _lives(tag: str) -> bool:
    host, pid, started = tag.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == started
    except psutil.NoSuchProcess:
        return False
