"""What can go wrong between this machine and the one where a job runs."""

from __future__ import annotations

from storage.errors import RetuneError


class ComputeError(RetuneError):
    """A compute target that is described wrongly, cannot be reached, or refused a job; the message says what to do."""


class JobFailed(ComputeError):
    """The job ran and failed, or was cancelled; the message is its own, or its last lines."""
