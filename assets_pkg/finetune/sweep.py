"""A sweep: a training for every combination of some settings, and the one that is best on the validation questions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune.data import read_train_data, read_validation_data
from assets_pkg.finetune.distillation import FILE
from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.plan import plan_training
from storage.artifacts import MinedTrainSet
from storage.digests import digest_json
from storage.files import copy_file, write_json
from storage.formats.json_values import read_strict
from storage.progress import Note, no_note

TRIALS = "trials"
SUMMARY = "summary.json"

Train = Callable[[FinetuneSettings, Path], None]
"""Trains with these settings into this folder."""


def trials(settings: FinetuneSettings) -> list[dict[str, float]]:
    """Every combination of the values of ``settings.sweep``, the last setting's changing fastest."""
    names = list(settings.sweep)
    return [dict(zip(names, values, strict=True)) for values in product(*settings.sweep.values())]


def run_sweep(
    mined: MinedTrainSet, settings: FinetuneSettings, folder: Path, train: Train, note: Note = no_note
) -> None:
    """Train every combination, and leave in ``folder`` what ``train`` wrote for the best one by nDCG@10 on the
    validation questions (of equal ones the first). ``summary.json`` gets ``sweep``: a row for each, with its values,
    ``validation_ndcg_after`` and ``training_seconds``.

    A combination that an interrupted sweep has finished in ``folder`` is not trained again. Only the best model so far
    is kept. ``note`` receives the number of trainings and steps before the first.

    Raises:
        TrainingDataError: there are no validation questions, or a value is out of range.
    """
    if read_validation_data(mined.path / "val.json") is None:
        raise TrainingDataError(
            f"{mined.path / 'val.json'} holds no questions, but finetune.sweep selects a model by them: set "
            "prep.val_ratio above 0"
        )
    combinations = [(chosen, _settings_of(settings, chosen)) for chosen in trials(settings)]
    examples = len(read_train_data(mined.unrolled, 0).examples)
    steps = sum(plan_training(examples, each).steps for _, each in combinations)
    note(f"sweep: {len(combinations)} trainings, {steps:,} steps in all")
    best: tuple[float, Path] | None = None
    rows: list[dict[str, Any]] = []
    for chosen, each in combinations:
        trial = folder / TRIALS / digest_json([mined.version, each.digest()])[:12]
        if not (trial / SUMMARY).exists():
            trial.mkdir(parents=True, exist_ok=True)
            if (folder / FILE).exists():
                copy_file(folder / FILE, trial / FILE)
            train(each, trial)
        summary: dict[str, Any] = read_strict(trial / SUMMARY, TrainingDataError)
        ndcg = summary.get("validation_ndcg_after") or summary["validation_ndcg_before"]
        seconds = summary.get("training_seconds")
        rows.append({**chosen, "validation_ndcg_after": ndcg, "training_seconds": seconds})
        note(f"sweep: {_shown(chosen)}: validation nDCG@10 {ndcg:.4f}")
        worse = trial
        if best is None or ndcg > best[0]:
            worse, best = (None if best is None else best[1]), (ndcg, trial)
        if worse is not None:
            shutil.rmtree(worse / "model", ignore_errors=True)
    assert best is not None
    _take(best[1], folder, rows)


def _take(trial: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Make the files of one trial those of ``folder``; the summary comes last."""
    summary: dict[str, Any] = read_strict(trial / SUMMARY, TrainingDataError)
    for path in trial.iterdir():
        target = folder / path.name
        if path.name != SUMMARY:
            shutil.rmtree(target, ignore_errors=True)
            path.replace(target)
    shutil.rmtree(folder / TRIALS)
    (folder / FILE).unlink(missing_ok=True)
    write_json(folder / SUMMARY, summary | {"sweep": rows}, ensure_ascii=True)


def _settings_of(settings: FinetuneSettings, chosen: dict[str, float]) -> FinetuneSettings:
    try:
        return FinetuneSettings.model_validate({**settings.model_dump(), **chosen, "sweep": {}})
    except ValidationError as error:
        detail = error.errors()[0]
        name = ".".join(str(part) for part in detail["loc"])
        raise TrainingDataError(f"finetune.sweep: {name}: {detail['msg']}: {_shown(chosen)}") from error


def _shown(chosen: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in chosen.items())
