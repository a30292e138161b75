"""The errors of fine-tuning that a user can act on."""

from __future__ import annotations

from storage.errors import RetuneError


class BaseModelError(RetuneError, ValueError):
    """A base model that is missing, incomplete or of a kind that cannot be tuned; says what to do."""


class TrainingDataError(RetuneError, ValueError):
    """A training file that cannot be used; names the file, the question and what is wrong."""


class TrainingStopped(RetuneError, RuntimeError):
    """Training ended before its last step, because it could not continue; names the step and the reason."""


class SavedModelError(RetuneError, RuntimeError):
    """The saved checkpoint is not the trained model; names the folder and what differs."""


class DiskSpaceError(RetuneError, RuntimeError):
    """Training would write more than the disk has free; names both sizes."""


class TooFewDevicesError(RetuneError, RuntimeError):
    """More processes are set than there are GPUs; names both numbers."""
