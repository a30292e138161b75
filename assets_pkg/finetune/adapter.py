"""Fine-tuning of one linear layer on top of the base, from cached embeddings.

The base's weights stay frozen, so that training needs no pass through the transformer and takes seconds. The layer is
on questions and passages (``adapter_side: both``), or on questions alone (``query``): then the passages' vectors are
the base's, and no index has to be embedded anew.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.sections.finetune import AdapterSide, FinetuneSettings
from assets_pkg.finetune.curves import draw_curves
from assets_pkg.finetune.data import TrainData, ValidationData, read_train_data, read_validation_data
from assets_pkg.finetune.distillation import (
    FILE,
    Distillation,
    read_distillation,
    teaching,
    topical_groups,
)
from assets_pkg.finetune.errors import TrainingDataError
from assets_pkg.finetune.model_card import model_card
from assets_pkg.finetune.model_io import copy_unchanged
from assets_pkg.finetune.plan import TrainingPlan, describe_plan, plan_training, scheduler_name
from resources.encoders.base import Encoder
from resources.encoders.sentence_transformer import PASSAGE_MODEL
from storage.artifacts import Checkpoint, MinedTrainSet
from storage.files import write_atomic, write_json
from storage.progress import Note, Progress, no_note, no_progress

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

INCOMPATIBLE = ("lora_rank", "early_stop_patience", "matryoshka_dims")


def train_adapter(
    mined: MinedTrainSet,
    base: Checkpoint,
    model: ModelSettings,
    settings: FinetuneSettings,
    encoder: Encoder,
    folder: Path,
    progress: Progress = no_progress,
    note: Note = no_note,
) -> None:
    """Write a checkpoint into ``folder``: the base with a square matrix on its vectors, as a Dense module of
    sentence-transformers before the normalisation; on one side only, inside a Router module.

    With ``settings.teacher`` the matrix also learns what ``distillation.make_distillation`` wrote into ``folder``.
    Writes ``model/consolidated/``, ``training.jsonl``, ``loss.png`` and ``summary.json``. Batches, schedule and loss
    are those of ``finetune``; a learning rate of 1e-3 suits it.

    Args:
        encoder: the encoder of ``base``.

    Raises:
        RetrieverFileError: a file of the training set is missing or malformed.
        TrainingDataError: the training set cannot be used, or a setting cannot be combined with an adapter.
        SavedModelError: the saved checkpoint is not the trained model.
    """
    if found := [name for name in INCOMPATIBLE if getattr(settings, name)]:
        raise TrainingDataError(
            f"finetune.method = adapter: finetune.{found[0]} cannot be combined with it: set finetune.method=full "
            "(with learning_rate=1e-4 num_epochs=1)"
        )
    data = read_train_data(mined.unrolled, settings.train_n_passages - 1)
    validation = read_validation_data(mined.path / "val.json")
    plan = plan_training(len(data.examples), settings, data.median_negatives)
    describe_plan(plan, note)
    taught = read_distillation(folder, mined) if settings.teacher else None
    vectors = _embed(data, taught, encoder, progress)
    started = time.perf_counter()
    matrix, log = _fit(vectors, data, taught, plan, settings, progress)
    seconds = time.perf_counter() - started
    matrix, validated = _validate(matrix, settings, validation, encoder)
    _save(matrix, base, settings.adapter_side, folder / "model" / "consolidated")
    _check(matrix, encoder, folder / "model" / "consolidated", model)
    draw_curves(log, folder / "loss.png")
    write_atomic(folder / "training.jsonl", "".join(json.dumps(line) + "\n" for line in log))
    summary = {
        "trained": True,
        "method": "adapter",
        "steps_done": len(log),
        **validated,
        **teaching(settings, taught),
        "plan": plan.as_dict(),
        "initial_loss": log[0]["loss"],
        "final_loss": log[-1]["loss"],
        "training_seconds": round(seconds, 1),
    }
    figures = {name: value for name, value in summary.items() if name.startswith("validation")}
    base_summary = base.summary() if (base.path / "summary.json").exists() else {}
    card = model_card(base_summary, base.version, mined.version, model, settings.decisive(), figures)
    write_atomic(folder / "model" / "consolidated" / "README.md", card)
    (folder / FILE).unlink(missing_ok=True)
    write_json(folder / "summary.json", summary, ensure_ascii=True)


@dataclass(frozen=True)
class _Vectors:
    """Unit vectors of all rows' questions and of all passages, float32 [rows, d] and [m, d]."""

    questions: NDArray[np.float32]
    passages: NDArray[np.float32]


def _embed(data: TrainData, taught: Distillation | None, encoder: Encoder, progress: Progress) -> _Vectors:
    from assets_pkg.finetune.batches import numbered_passages

    questions = [*(each.question for each in data.examples), *(taught.questions if taught else ())]
    passages = list(numbered_passages(data, taught).values())
    return _Vectors(encoder.embed(questions, "query", progress), encoder.embed(passages, "passage", progress))


def _fit(
    vectors: _Vectors,
    data: TrainData,
    taught: Distillation | None,
    plan: TrainingPlan,
    settings: FinetuneSettings,
    progress: Progress,
) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """The trained matrix, float32 [d, d], initialised with the identity; and one line of the log for each step."""
    import torch
    from transformers import get_scheduler

    from assets_pkg.finetune.batches import PlannedBatches, batch_label, rows_of
    from assets_pkg.finetune.loss import total_loss

    rows = rows_of(data, taught)
    groups = topical_groups(taught.candidates, plan.batch_size, settings.seed) if taught else []
    question_vectors, passage_vectors = (
        torch.from_numpy(vectors.questions),
        torch.from_numpy(vectors.passages),
    )
    matrix = torch.nn.Parameter(torch.eye(question_vectors.shape[1]))
    optimizer = torch.optim.AdamW([matrix], lr=settings.learning_rate, weight_decay=0.0)
    schedule = get_scheduler(scheduler_name(settings), optimizer, plan.warmup_steps, plan.steps)
    log: list[dict[str, float]] = []
    for step, numbers in enumerate(PlannedBatches(plan, settings.seed, groups=groups), start=1):
        batch = [rows[number] for number in numbers]
        # Vectors cost nothing: a question is taught on all passages that its teacher lists.
        present = sorted({each for row in batch for each in row.listed or row.brought})
        queries = torch.nn.functional.normalize(question_vectors[numbers] @ matrix.T, dim=1)
        candidates = passage_vectors[present]
        if settings.adapter_side == "both":
            candidates = torch.nn.functional.normalize(candidates @ matrix.T, dim=1)
        label = batch_label(batch, present, teaches=taught is not None)
        loss = total_loss(
            queries,
            candidates,
            label,
            settings.temperature,
            settings.in_batch_negatives,
            settings.teacher_weight,
        )
        rate = float(schedule.get_last_lr()[0])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([matrix], settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        log.append({"step": step, "loss": round(loss.item(), 6), "learning_rate": rate})
        progress(step, plan.steps, "steps", loss=log[-1]["loss"])
    return matrix.detach(), log


def _validate(
    matrix: torch.Tensor, settings: FinetuneSettings, data: ValidationData | None, encoder: Encoder
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The matrix, with ``merge_with_base`` between the unit matrix and this one as
    :func:`~assets_pkg.finetune.validation.choose_share` says; and values of ``summary.json``."""
    import torch

    from assets_pkg.finetune.validation import SHARES, choose_share, scores_of

    if data is None:
        return matrix, {"validation_ndcg_before": None, "validation_ndcg_after": None}
    questions = encoder.embed(list(data.questions.values()), "query")
    passages = encoder.embed(list(data.pool.values()), "passage")
    merged = {share: torch.lerp(torch.eye(len(matrix)), matrix, share) for share in (0.0, *SHARES, 1.0)}
    tried = merged if settings.merge_with_base else (0.0, 1.0)
    scores = {
        share: scores_of(
            data,
            _apply(merged[share], questions),
            passages if settings.adapter_side == "query" else _apply(merged[share], passages),
        )
        for share in tried
    }
    means = {share: float(each.mean()) for share, each in scores.items()}
    best = choose_share(scores, settings.merge_select) if settings.merge_with_base else 1.0
    figures = {"validation_ndcg_before": means[0.0], "validation_ndcg_after": means[best]}
    if settings.merge_with_base:
        figures |= {"merge_weight": best, "merge_scores": means}
    return merged[best], figures


def _apply(matrix: torch.Tensor, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    projected = torch.from_numpy(vectors) @ matrix.T
    return torch.nn.functional.normalize(projected, dim=1).numpy()


def _check(matrix: torch.Tensor, encoder: Encoder, saved: Path, model: ModelSettings) -> None:
    from assets_pkg.finetune.model_io import load_model
    from assets_pkg.finetune.saved_model import PROBES, check_vectors, check_weights_saved, probe

    loaded = load_model(saved, "cpu", trust_remote_code=model.trust_remote_code)
    state = loaded.state_dict()
    names = [name for name in state if name.endswith("linear.weight") and ".document." not in name]
    check_weights_saved({names[-1]: matrix}, state, saved)
    expected = _apply(matrix, encoder.embed(PROBES, "query"))
    check_vectors(expected, probe(loaded), saved, rounded=True)


def _save(matrix: torch.Tensor, base: Checkpoint, side: AdapterSide, target: Path) -> None:
    """Write ``target``: the base's folder, with the matrix as a module before the normalisation. On the questions' side
    only, the folder also says which model the passages' vectors are of."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, Router

    shutil.rmtree(target, ignore_errors=True)
    copy_unchanged(base.model, target)
    modules: list[dict[str, Any]] = json.loads((base.model / "modules.json").read_text("utf-8"))
    size = len(matrix)
    module = Dense(size, size, bias=False, activation_function=torch.nn.Identity(), init_weight=matrix)
    kind = "sentence_transformers.models.Dense"
    if side == "query":
        unchanged = torch.eye(size)
        same = Dense(size, size, bias=False, activation_function=torch.nn.Identity(), init_weight=unchanged)
        module = Router.for_query_document([module], [same], default_route="document")
        kind = "sentence_transformers.models.Router"
        write_json(target / PASSAGE_MODEL, {"digest": base.version}, ensure_ascii=True)
    name = f"{len(modules)}_{kind.rpartition('.')[2]}"
    (target / name).mkdir()
    module.save(str(target / name))
    position = max(number for number, each in enumerate(modules) if each["type"].endswith("Normalize"))
    modules.insert(position, {"path": name, "type": kind})
    numbered = [{**each, "idx": number, "name": str(number)} for number, each in enumerate(modules)]
    write_json(target / "modules.json", numbered, indent=2, ensure_ascii=True)
