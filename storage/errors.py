"""The one base of every error that Retune foresees."""

from __future__ import annotations

from collections.abc import Iterator

from storage.printable import visible


class RetuneError(Exception):
    """An error whose message is meant for the user: it says what is wrong and, where that is known, what to do.

    The command prints the message alone and a step in the UI fails with it; any other exception is a bug and keeps
    its traceback. What it quotes of a user's file does not act on a terminal or a page (:func:`visible`).
    """

    def __str__(self) -> str:
        return visible(super().__str__())


class TransientError(RetuneError):
    """A service did not answer: the same may succeed later, with nothing mended."""


class ArtifactError(RetuneError):
    """An artifact is missing, incomplete or damaged, or could not be stored; or a store names what is outside it."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
