"""The guard against forgetting: base and candidate on other eval sets than the one that was tuned for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.config.sections.evaluation import EvalSettings, GateSettings
from assets_pkg.evaluation.compare import Difference, compare
from assets_pkg.evaluation.evaluate import evaluate_retrieval
from assets_pkg.evaluation.promotion import SAME, Check, GateError
from assets_pkg.retrieval.metrics import RetrievalScores
from resources.encoders.base import Encoder
from storage.artifacts import EvalSet
from storage.formats.beir import beir_fingerprint
from storage.progress import Progress, no_progress

GENERAL = "general"
"""The guard set that comes with Retune: 104 English questions on 26 everyday subjects, with one passage each, written
for this purpose. Passages of one subject are alike, and questions share few words with theirs."""

OpenEncoder = Callable[[], AbstractContextManager[Encoder]]
"""Opens the encoder of one of the two models."""


@dataclass(frozen=True)
class GuardSet(EvalSet):
    """A BEIR folder of the user's, or Retune's own."""

    @property
    def beir(self) -> Path:
        return self.path


def guard_checks(
    gate: GateSettings,
    base: OpenEncoder,
    candidate: OpenEncoder,
    settings: EvalSettings,
    progress: Progress = no_progress,
    *,
    device: str = "cpu",
) -> list[Check]:
    """A check for each of ``gate.guard_sets``: the candidate's loss of ``gate.metric`` against the base is not more
    than ``max_general_loss`` with its whole interval below zero.

    Raises:
        GateError: a guard set is no BEIR folder.
        BeirError: a file of a guard set cannot be read.
    """
    sets = [_guard_set(name) for name in gate.guard_sets]
    if not sets:
        return []

    def measure(opened: OpenEncoder) -> list[RetrievalScores]:
        with opened() as encoder:
            return [evaluate_retrieval(each, encoder, settings, progress, device=device) for each in sets]

    return [
        _check(each.path, compare(before, after, settings)[gate.metric], gate)
        for each, before, after in zip(sets, measure(base), measure(candidate), strict=True)
    ]


def guard_fingerprints(gate: GateSettings) -> dict[str, str]:
    """Digests of the files of ``gate.guard_sets``, by the names of the sets."""
    return {name: beir_fingerprint(_guard_folder(name)) for name in gate.guard_sets}


def _guard_folder(name: str) -> Path:
    return Path(__file__).with_name(GENERAL) if name == GENERAL else Path(name)


def _guard_set(name: str) -> GuardSet:
    folder = _guard_folder(name)
    if not (folder / "corpus.jsonl").is_file():
        raise GateError(
            f"gate.guard_sets: {folder} is no BEIR folder (corpus.jsonl, queries.jsonl, qrels/test.tsv); {GENERAL} is "
            "the set that comes with Retune"
        )
    return GuardSet(folder, "eval_set", folder.name)


def _check(folder: Path, change: Difference, gate: GateSettings) -> Check:
    lost = change.high < 0 and change.delta < -gate.max_general_loss - SAME
    return Check(
        f"on {folder.name} it loses no more than max_general_loss = {gate.max_general_loss:g}",
        not lost,
        f"{gate.metric} {change.base:.4f} -> {change.finetuned:.4f} "
        f"({change.delta:+.4f}, interval [{change.low:+.4f}, {change.high:+.4f}])",
    )
