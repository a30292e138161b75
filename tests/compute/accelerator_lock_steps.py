"""Runs that hold the lock on this machine's accelerator, for a project's steps to wait for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from assets_pkg.orchestration.instance import GPU_POOL
from tests.command.conftest import Workplace


@contextmanager
def busy_accelerator(place: Workplace) -> Iterator[dg.DagsterInstance]:
    """The history of a project in which another run holds the lock."""
    reference = InstanceRef.from_dir(str(place.home / ".dagster"))
    with dg.DagsterInstance.from_ref(reference) as instance:
        history = instance.event_log_storage
        history.initialize_concurrency_limit_to_default(GPU_POOL)
        assert history.claim_concurrency_slot(GPU_POOL, "another-run", "its-step").is_claimed
        yield instance
        history.free_concurrency_slots_for_run("another-run")


A_STEP = """
    import sys, time
    from pathlib import Path

    import dagster as dg

    from assets_pkg.orchestration.asset_context import asset_context
    from assets_pkg.orchestration.stage_asset import stage_asset
    from assets_pkg.orchestration.instance import GPU_POOL, open_instance
    from resources.configurable import ArtifactStoreResource

    @stage_asset("finetune", kinds=set(), pool=GPU_POOL)
    def checkpoint(context, store: ArtifactStoreResource):
        with asset_context(context, store):
            began = time.time()
            time.sleep(0.5)
            Path(sys.argv[1]).write_text(f"{began} {time.time()}")
        return dg.MaterializeResult()

    with open_instance() as instance:
        store = ArtifactStoreResource(root=sys.argv[1] + "-store")
        Path(sys.argv[1] + ".ready").touch()
        while not all(Path(other).exists() for other in sys.argv[2:]):
            pass
        assert dg.materialize([checkpoint], instance=instance, resources={"store": store}).success
"""


def run_at_once(folder: Path, environment: Mapping[str, str], runs: int = 2) -> None:
    """Runs of one history, in as many processes, ask for the accelerator at once: none begins before another ended."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "RETUNE"))}
    variables = {**kept, "DAGSTER_HOME": str(folder / "home"), **environment}
    files = [folder / f"run-{number}" for number in range(runs)]
    ready = [f"{file}.ready" for file in files]
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(A_STEP)]
    processes = [
        subprocess.Popen(
            [*command, str(file), *ready], env=variables, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for file in files
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    taken = sorted(tuple(float(part) for part in file.read_text().split()) for file in files)
    assert all(ended <= begins for (_, ended), (begins, _) in pairwise(taken))
