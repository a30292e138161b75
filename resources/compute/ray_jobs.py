"""A job of a Ray cluster, submitted through its dashboard (https://docs.ray.io, "Ray Jobs").

The job's folder must lie on a file system that the cluster's machines share, as must the artifacts. A cluster with
token authentication takes the token where Ray looks for it: ``RAY_AUTH_TOKEN`` or ``~/.ray/auth_token``.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from resources.compute.distributed_embedding import NOT_INSTALLED
from resources.compute.errors import ComputeError
from resources.compute.host import ThisHost, Unreachable
from resources.compute.interrupts import started
from resources.compute.job import JobFolder, JobSpec, JobState, shell_script
from resources.compute.subprocess import SubprocessExecutor, ended
from resources.compute.targets import ComputeTarget

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


class LocalRayExecutor(SubprocessExecutor):
    """A child process on this machine, which starts a Ray for itself."""

    def check(self) -> None:
        super().check()
        if self.target.python is None and find_spec("ray") is None:
            raise ComputeError(NOT_INSTALLED)


NO_AGENT = "No available agent to submit job"
AGENT_SECONDS = 60


class RayExecutor:
    """Runs the job's script by Ray's job server at ``address``. The handle is the submission's id."""

    def __init__(self, target: ComputeTarget):
        self.target = target

    def script(self, job: JobSpec) -> str:
        # Ray's dashboard shows a job's variables to everybody: secrets must be set on the cluster.
        head = tuple(f': "${{{name}:?is not set on the cluster}}"' for name in self.target.secrets)
        return shell_script(job, self.target, head)

    def check(self) -> None:
        with self._client():
            pass

    def submit(self, job: JobSpec) -> str:
        ThisHost().write(job.folder.script, self.script(job))
        run = f"bash {shlex.quote(str(job.folder.script))} 2>&1 | tee -a {shlex.quote(str(job.folder.log))}"
        with self._client() as client:
            start = partial(
                client.submit_job,
                entrypoint=shlex.join(["bash", "-o", "pipefail", "-c", run]),
                metadata={"name": f"retune-{job.name}"},
                entrypoint_num_cpus=self.target.cpus_per_task,
                # A job whose workers embed leaves the GPUs to them.
                entrypoint_num_gpus=None if job.distributed else self.target.gpus_per_node,
            )
            return _once_there_is_an_agent(lambda: started(start, self.cancel))()

    def state(self, handle: str, folder: JobFolder) -> JobState:
        with self._client() as client:
            info = client.get_job_info(handle)
        said = info.message or ""
        status = str(info.status.value)
        if status in ("PENDING", "RUNNING"):
            return JobState("pending", said) if status == "PENDING" else JobState("running")
        if status == "STOPPED":
            return JobState("cancelled", "stopped with ray job stop")
        return ended(ThisHost().read(folder.exit_code), f"Ray says: {' '.join(said.split()) or status}")

    def cancel(self, handle: str) -> None:
        with self._client() as client:
            client.stop_job(handle)

    @contextmanager
    def _client(self) -> Generator[JobSubmissionClient]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            from ray.exceptions import AuthenticationError
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise ComputeError(NOT_INSTALLED) from error
        logging.getLogger("ray").setLevel(logging.ERROR)
        address: Any = self.target.address
        os.environ["RAY_API_SERVER_ADDRESS"] = (
            address  # else RAY_ADDRESS would take precedence over the target's address
        )
        try:
            yield JobSubmissionClient(address)
        except AuthenticationError as error:
            raise ComputeError(
                f"Ray at {address} wants a token: put it in RAY_AUTH_TOKEN or ~/.ray/auth_token, as it is on "
                "the cluster's head"
            ) from error
        except (ConnectionError, OSError) as error:
            raise Unreachable(f"Ray at {address} does not answer: is its dashboard there?") from error
        except RuntimeError as error:
            raise ComputeError(f"Ray at {address}: {' '.join(str(error).split())[:500]}") from error


def _once_there_is_an_agent(submit: Callable[..., str]) -> Callable[..., str]:
    """``submit``, tried again while the cluster is still starting: its dashboard answers before it takes jobs."""
    from tenacity import retry, retry_if_exception_message, stop_after_delay, wait_fixed

    return retry(
        retry=retry_if_exception_message(match=f".*{NO_AGENT}"),
        stop=stop_after_delay(AGENT_SECONDS),
        wait=wait_fixed(1),
        reraise=True,
    )(submit)
