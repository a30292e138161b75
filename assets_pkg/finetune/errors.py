"""What can go wrong in this stage, for callers that tell it from a bug."""

from __future__ import annotations

from storage.errors import RetuneError


class BaseModelError(RetuneError, ValueError):
    """A base model that is missing, incomplete or of a kind that cannot be tuned; says what to do."""


class TrainingDataError(RetuneError, ValueError):
    """A training file that cannot be used; names the file, the question and what is wrong."""


class TrainingStopped(RetuneError, RuntimeError):
    """Training ended before its last step, because going on would be useless; names the step and why."""


class DiskSpaceError(RetuneError, RuntimeError):
    """The disk is too small for what training would write; gives both figures."""


class TooFewDevicesError(RetuneError, RuntimeError):
    """More processes were asked for than there are GPUs; gives both figures."""
