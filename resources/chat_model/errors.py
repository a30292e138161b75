"""Errors of a chat endpoint, by their consequence for the run."""

from __future__ import annotations

from storage.errors import RetuneError, TransientError


class ChatModelError(RetuneError):
    """The run cannot go on; what was answered so far is kept."""


class ConsentError(ChatModelError):
    """Text would leave the machine without the user's consent."""


class EndpointError(ChatModelError):
    """The endpoint is down, refuses the key, or does not know the model."""


class NoAnswerError(EndpointError, TransientError):
    """The endpoint did not answer for as long as requests are repeated."""


class BudgetReachedError(ChatModelError):
    """A limit on calls, tokens or cost was reached."""


class CallFailedError(RetuneError):
    """One call failed for good; others may go on. ``reason`` is a short name to count by."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
