"""``retune eval-set``: what the command does to the exam."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from assets_pkg.door import Inputs
from assets_pkg.instance import open_instance
from assets_pkg.prep import exam
from assets_pkg.prep.errors import PrepError
from resources.artifacts import ArtifactStoreResource
from storage.artifact_store import ArtifactError
from storage.artifacts import EvalSet

NEXT = "next: `retune prep`; models measured on another exam are not compared with it"


class ExamCommands:
    """Each returns what to tell the user, and raises ``PrepError`` or ``BeirError`` for what cannot be done."""

    def __init__(self, root: str):
        self._resource = ArtifactStoreResource(root=root)
        self._store = self._resource.get()

    def describe(self) -> Iterator[str]:
        """The current exam, line by line."""
        frozen = self._frozen()
        current = frozen or self._current()
        if current is None:
            yield "there is no exam yet: `retune prep` makes one"
            return
        yield f"eval set {current.version}: {'frozen' if frozen else 'split from the pairs, not frozen'}"
        for name, value in current.summary().items():
            yield f"  {name}: {value}"
        yield f"  path: {current.beir}"

    def freeze(self) -> str:
        """Freeze the current exam."""
        frozen = self._frozen()
        current = frozen or self._current()
        if current is None:
            raise PrepError("there is no exam to freeze: run `retune prep` first")
        exam.freeze(self._store, current)
        return f"eval set {current.version} is {'still' if frozen else 'now'} frozen"

    def take(self, path: Path) -> str:
        """Import a BEIR folder and freeze it."""
        taken = exam.import_exam(self._store, path)
        return f"eval set {taken.version} taken from {path} and frozen; {NEXT}"

    def release(self) -> str:
        """Freeze no exam."""
        frozen = self._frozen()
        exam.release(self._store)
        return f"eval set {frozen.version} is released; {NEXT}" if frozen else "no eval set is frozen"

    def _frozen(self) -> EvalSet | None:
        try:
            return exam.frozen_exam(self._store)
        except ArtifactError as error:
            raise PrepError(f"the frozen exam is gone: {error}") from error

    def _current(self) -> EvalSet | None:
        with open_instance() as instance:
            inputs = Inputs(instance, self._resource)
            return inputs.input(EvalSet, exam.ASSET) if inputs.previous(exam.ASSET) else None
