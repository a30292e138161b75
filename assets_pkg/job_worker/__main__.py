"""``python -m assets_pkg.job_worker FOLDER``: the job in that folder, or a task of its array."""

import os
import sys
from pathlib import Path

from resources.compute.job import TASK, JobFolder
from resources.http_client import bypass_proxies_on_this_machine
from resources.machine.imports import spare_imports


def main() -> None:
    """The tasks of an array after the first only embed: they import neither Dagster nor the graph."""
    spare_imports()
    bypass_proxies_on_this_machine()
    task, folder = int(os.environ.get(TASK, "0")), JobFolder(Path(sys.argv[1]))
    if task:
        from resources.compute.distributed_embedding import embed_as_array_task

        embed_as_array_task(folder.assignment, task, over=folder.has_ended)
        return
    from assets_pkg.job_worker.make_assets import run_job

    sys.exit(0 if run_job(folder) else 1)


if __name__ == "__main__":
    main()
