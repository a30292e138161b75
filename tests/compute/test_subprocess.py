"""Stages as children of the command: the same artifacts as in its own process, and what it takes to end them."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import Any

import dagster as dg
import psutil
import pytest

from assets_pkg.automation.execute import run_assets
from assets_pkg.build import build_definitions
from assets_pkg.config.profile_files import load_profile
from resources.configurable import AlertsResource
from tests.command.conftest import Workplace
from tests.compute.conftest import OWN_PAIRS, made_of_own_pairs

PREP = ("eval_set", "training_set", "mined_train_set")


def versions(place: Workplace, asset: str) -> list[str]:
    return sorted(path.name for path in (place.home / "output" / "artifacts" / asset).iterdir())


def latest(place: Workplace, asset: str, monkeypatch: pytest.MonkeyPatch) -> dg.AssetMaterialization:
    monkeypatch.setenv("DAGSTER_HOME", str(place.home / ".dagster"))
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


def test_jobs_make_the_same_versions_as_this_process(
    place: Workplace, prepared: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced = ("run", "--from", "prep", "--to", "prep", "--force", "prep")
    code, output = place.retune(*forced, "--run", "child")
    assert code == 0, output
    assert output.count("child: done") == len(PREP)
    for asset in PREP:
        assert versions(place, asset) == versions(prepared, asset)
    made = latest(place, "mined_train_set", monkeypatch)
    assert made.metadata["job_host"].value
    here = latest(prepared, "mined_train_set", monkeypatch)
    assert made.metadata["questions"] == here.metadata["questions"]
    again, said = place.retune("run", "--to", "prep", "--run", "child")
    assert (again, "nothing is stale" in said) == (0, True)


def test_an_error_of_the_job_is_one_plain_line(place: Workplace) -> None:
    (place.home / "broken.jsonl").write_text('{"question":\n', "utf-8")
    code, output = place.retune("sdg", "--run", "child", "sdg_input_path=broken.jsonl")
    assert code == 1
    assert re.search(r"^failed synthetic_qa: child: .*broken\.jsonl", output, re.MULTILINE)
    assert "Traceback" not in output


def test_an_unknown_place_ends_the_command_before_anything_is_recorded(untouched: Workplace) -> None:
    code, output = untouched.retune("sdg", "--run", "my-clutser")
    assert (code, "has no compute target 'my-clutser'" in output) == (1, True)
    assert not (untouched.home / ".dagster").exists()


def test_an_interrupt_ends_the_job_too(place: Workplace) -> None:
    command = place.start_forked(*OWN_PAIRS, "--run", "child")
    job = place.await_job()
    os.kill(command.pid, signal.SIGINT)
    code, _ = command.wait()
    assert code != 0
    _, alive = psutil.wait_procs([job], timeout=60)
    assert not alive


def test_a_job_whose_command_was_killed_is_waited_for_by_the_next_one(place: Workplace) -> None:
    command = place.start_forked(*OWN_PAIRS, "--run", "child")
    job = place.await_job()
    command.kill()
    assert job.is_running()
    code, output = place.retune(*OWN_PAIRS, "--run", "child")
    assert code == 0, output
    assert "still runs: waiting for it" in output or "reused" in output


def test_a_killed_job_is_reported_and_made_again(place: Workplace) -> None:
    command = place.start_forked(*OWN_PAIRS, "--run", "child")
    place.await_job().kill()
    code, output = command.wait()
    assert code == 1
    assert "child: exit code 137" in output or "its process was killed" in output
    code, output = place.retune(*OWN_PAIRS, "--run", "child")
    assert code == 0, output


def test_a_detached_job_is_recorded_and_picked_up(place: Workplace) -> None:
    code, output = place.retune("run", "--to", "eval", "--batch", "child")
    assert code == 0, output
    record = next((place.home / "output" / ".jobs" / "batches").iterdir())
    name = json.loads(record.read_text())["name"]
    assert name in output
    place.await_ends_of_jobs()
    assert "done" in place.retune("jobs", "list")[1], place.retune("jobs", "logs", name)[1]
    code, output = place.retune("jobs", "pick-up")
    assert code == 0, output
    assert (place.home / "output" / "promoted_model").is_symlink()
    assert "taken" in place.retune("jobs", "list")[1]
    assert "nothing is stale" in place.retune("run", "--to", "eval")[1]


def test_the_sensor_shows_the_state_of_jobs_and_picks_up_those_that_are_done(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.home)
    monkeypatch.setenv("DAGSTER_HOME", str(place.home / ".dagster"))
    code, output = place.retune(*OWN_PAIRS, "--batch", "child")
    assert code == 0, output
    defs = build_definitions(load_profile("profile.yaml", OWN_PAIRS[1:]))
    sensor = defs.resolve_sensor_def("pick_up_batch_jobs")
    with dg.DagsterInstance.get() as instance:

        def tick() -> Any:
            with dg.build_sensor_context(instance=instance, definitions=defs) as context:
                return sensor(context, alerts=AlertsResource())

        ticked = tick()
        assert isinstance(ticked, dg.SkipReason)
        assert "running" in str(ticked.skip_message)
        deadline = time.monotonic() + 120
        while isinstance(ticked, dg.SkipReason):
            assert time.monotonic() < deadline
            ticked = tick()
        (request,) = ticked.run_requests
        assets = [key.to_user_string() for key in request.asset_selection]
        assert set(assets) == {"synthetic_qa"}
        jobs = len(list((place.home / "output" / ".jobs").iterdir()))
        assert run_assets(defs, instance, assets, tags=request.tags).succeeded
        assert len(list((place.home / "output" / ".jobs").iterdir())) == jobs
        assert isinstance(tick(), dg.SkipReason)
    assert "nothing is stale" in place.retune(*OWN_PAIRS)[1]


def test_a_staged_job_is_not_submitted_and_runs_by_hand(place: Workplace) -> None:
    import subprocess

    code, output = place.retune(*OWN_PAIRS, "--batch", "child", "--stage")
    assert code == 0, output
    folder = next((place.home / "output" / ".jobs").iterdir())
    assert not made_of_own_pairs(place)
    done = subprocess.run(
        ["bash", str(folder / "job.sh")], env=place.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert made_of_own_pairs(place)
