from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assets_pkg.finetune import train
from assets_pkg.finetune.errors import TrainingDataError, TrainingStopped
from assets_pkg.finetune.loss import ContrastiveLoss
from assets_pkg.finetune.model_io import load_model
from storage.artifacts import Checkpoint, MinedTrainSet
from storage.progress import Progress, no_progress
from tests.command.conftest import Workplace
from tests.finetune.conftest import CPU, TrainingInputs, content_of, steps_into

Run = Callable[..., Path]


@pytest.fixture(scope="session")
def finished() -> dict[str, Path]:
    """Undisturbed runs made so far, by their changes: several tests compare with the same one."""
    return {}


@pytest.fixture
def run(inputs: TrainingInputs, tmp_path: Path, finished: dict[str, Path]) -> Run:
    """Fine-tune into ``tmp_path/<name>`` with changed settings; returns the folder. The name ``whole`` stands
    for an undisturbed run, made once for all tests."""

    def go(name: str = "tuned", progress: Progress = no_progress, **changes: Any) -> Path:
        if name == "whole":
            key = json.dumps(changes, sort_keys=True)
            if key not in finished:
                finished[key] = go(f"whole{len(finished)}", **changes)
            return finished[key]
        return inputs.finetune(tmp_path / name, progress, **changes)

    return go


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(folder / "model" / "consolidated", "cpu").state_dict())


def assert_close(one: Path, other: Path) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=1e-3, atol=2e-4)


class Killed(Exception):
    pass


def kill_at(step: int) -> Progress:
    def progress(done: int, total: int, unit: str, **figures: float) -> None:
        if unit == "steps" and done == step:
            raise Killed

    return progress


def test_a_run_makes_a_better_model_and_all_that_belongs_to_it(run: Run, base: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []
    validated: list[int] = []

    def progress(done: int, total: int, unit: str, **figures: float) -> None:
        if unit == "steps":
            assert set(figures) == {"loss"}
            seen.append((done, total))
        else:
            assert unit == "validation passages"
            validated.append(total - done)

    folder = run(progress=progress)
    recorded = summary(folder)
    steps = recorded["plan"]["steps"]
    assert steps == 8
    assert seen == [(step, steps) for step in range(1, steps + 1)]
    assert validated.count(0) == 2  # for the base, and for the trained model
    assert recorded["trained"] is True
    assert recorded["final_loss"] < recorded["initial_loss"] - 0.5
    assert recorded["validation_ndcg_before"] is not None
    assert recorded["validation_ndcg_after"] is not None
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    model = load_model(folder / "model" / "consolidated", "cpu")
    assert model.prompts["query"] == "query: "
    assert model.max_seq_length == 24
    vectors = model.encode_document(["badin kefel", "ligor"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert sorted(path.name for path in folder.iterdir()) == [
        "loss.png",
        "model",
        "summary.json",
        "tensorboard",
        "training.jsonl",
    ]
    ours, theirs = content_of(folder), content_of(base.path)
    assert {name for name in ours if ours[name] != theirs[name]} == {"model/consolidated/model.safetensors"}


def test_the_model_card_names_base_data_and_licence_without_paths_or_times(run: Run, tmp_path: Path) -> None:
    one = (run("one") / "model" / "consolidated" / "README.md").read_text()
    other = (run("other") / "model" / "consolidated" / "README.md").read_text()
    assert one == other
    assert "base0" in one
    assert "mined0" in one
    assert "| temperature | 0.05 |" in one
    assert str(tmp_path) not in one


@pytest.mark.slow
def test_same_inputs_make_the_same_bytes_and_another_seed_others(run: Run) -> None:
    one = content_of(run("one", dropout=0.1))
    assert one == content_of(run("other", dropout=0.1))
    assert one != content_of(run("seed", dropout=0.1, seed=7))


@pytest.mark.slow
@pytest.mark.parametrize(("step", "local_batch_size"), [(1, 12), (4, 2), (6, 12), (8, 2)])
def test_an_interrupted_run_ends_in_the_same_bytes(run: Run, step: int, local_batch_size: int) -> None:
    changes = {"dropout": 0.1, "local_batch_size": local_batch_size, "checkpoint_every_steps": 2}
    with pytest.raises(Killed):
        run("broken", kill_at(step), **changes)
    first_step: list[int] = []
    again = run("broken", steps_into(first_step), **changes)
    assert first_step == list(range(step - (step - 1) % 2, 9))
    whole = run("whole", **changes)
    assert content_of(again) == content_of(whole)
    assert [json.loads(line)["step"] for line in (again / "training.jsonl").read_text().splitlines()] == list(
        range(1, 9)
    )


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from assets_pkg.finetune.train import finetune
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.config.base import ModelSettings
from resources.machine.accelerator import Accelerator
from storage.artifacts import Checkpoint, MinedTrainSet

mined, base, model, settings, folder = sys.argv[1:]

def progress(done, total, unit, **figures):
    if unit == "steps" and done == 6:
        os.kill(os.getpid(), signal.SIGKILL)

finetune(MinedTrainSet(Path(mined), "mined_train_set", "mined0"), Checkpoint(Path(base), "base_model", "base0"),
         ModelSettings.model_validate_json(model), FinetuneSettings.model_validate_json(settings),
         Accelerator("cpu", "test", bf16=False, memory_bytes=0), Path(folder), progress)
"""


@pytest.mark.slow
def test_a_killed_process_is_resumed(run: Run, inputs: TrainingInputs, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    environment = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = Workplace(tmp_path, 0, extra=environment)
    command = process.start_forked("-c", KILLED_RUN, *inputs.arguments(), str(tmp_path / "broken"))
    assert command.wait()[0] == -9
    steps: list[int] = []
    assert content_of(run("broken", steps_into(steps))) == content_of(run("whole"))
    assert steps[0] > 1


def test_a_run_with_other_settings_is_not_resumed(run: Run) -> None:
    with pytest.raises(Killed):
        run("used", kill_at(6), temperature=0.5)
    assert content_of(run("used")) == content_of(run("whole"))


@pytest.mark.parametrize("without_validation", [True, False])
def test_no_headroom_leaves_the_base_as_it_is(
    run: Run,
    base: Checkpoint,
    mined: MinedTrainSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_validation: bool,
) -> None:
    if without_validation:
        monkeypatch.setattr(train, "read_validation_data", lambda *_: None)
        folder = run(headroom_loss=100.0)
    else:
        folder = run(headroom_ndcg=0.0)
    recorded = summary(folder)
    assert recorded["trained"] is False
    assert ("first batch" if without_validation else "validation questions") in recorded["reason"]
    assert content_of(folder) == content_of(base.path)
    assert not (folder / "training.jsonl").exists()


def test_a_loss_that_is_not_a_number_stops_with_step_and_questions(
    base: Checkpoint, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calculate = ContrastiveLoss.calculate_loss
    calls: list[int] = []

    def break_third(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return calculate(self, *args, **kwargs) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(ContrastiveLoss, "calculate_loss", break_third)
    with pytest.raises(TrainingStopped, match=r"step 3: the loss is nan\. The batch: questions q\d+"):
        run()


def test_a_gradient_that_is_not_a_number_stops_with_step_and_questions(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets_pkg.finetune.trainer import ContrastiveTrainer

    step = ContrastiveTrainer.training_step

    def break_third(self: Any, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = step(self, model, *args, **kwargs)
        if self.state.global_step == 2:
            next(model.parameters()).grad.mul_(float("inf"))
        return loss

    monkeypatch.setattr(ContrastiveTrainer, "training_step", break_third)
    with pytest.raises(TrainingStopped, match=r"step 3: the gradient is nan\. The batch: questions q\d+"):
        run(checkpoint_every_steps=1)


def test_a_small_local_batch_trains_the_same_model(run: Run) -> None:
    assert_close(run("cached", local_batch_size=1), run("whole"))


@pytest.mark.parametrize(("total", "free", "cached"), [(8e9, 2e9, False), (8e9, 1e7, True), (1e8, 2e9, True)])
def test_gradients_are_cached_only_where_memory_needs_it(
    inputs: TrainingInputs,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    total: float,
    free: float,
    cached: bool,
) -> None:
    """A gradient cache embeds every text once more, without gradients."""
    embed = ContrastiveLoss.embed_minibatch
    with_gradients: set[bool] = set()

    def watched(self: Any, *args: Any, with_grad: bool, **kwargs: Any) -> Any:
        with_gradients.add(with_grad)
        return embed(self, *args, with_grad=with_grad, **kwargs)

    monkeypatch.setattr(ContrastiveLoss, "embed_minibatch", watched)
    monkeypatch.setattr("assets_pkg.finetune.train.admit_training", lambda *_: None)
    accelerator = replace(CPU, memory_bytes=int(free), total_bytes=int(total))
    notes: list[str] = []
    tuned = inputs.finetune(
        tmp_path / "tuned", note=notes.append, accelerator=accelerator, local_batch_size=1
    )
    assert with_gradients == ({True, False} if cached else {True})
    assert any("whole batches" in note for note in notes) is not cached
    assert_close(tuned, run("whole"))


def test_out_of_memory_halves_the_mini_batch_and_trains_the_same_model(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("whole")
    embed = ContrastiveLoss.embed_minibatch
    sizes: list[int] = []

    def small_memory(self: Any, sentence_feature: Any, begin: int, end: int, **kwargs: Any) -> Any:
        tokens = int(sentence_feature["attention_mask"][begin:end].sum())
        if tokens > 100:
            raise torch.OutOfMemoryError
        sizes.append(tokens)
        return embed(self, sentence_feature, begin, end, **kwargs)

    monkeypatch.setattr(ContrastiveLoss, "embed_minibatch", small_memory)
    assert_close(run("small"), whole)
    assert 50 < max(sizes) <= 100


@pytest.mark.slow
def test_recomputing_activations_trains_the_same_model(run: Run) -> None:
    assert_close(run("recomputed", gradient_checkpointing=True), run("whole"))


def test_mined_only_is_another_loss(run: Run) -> None:
    assert content_of(run("mined_only", in_batch_negatives=False)) != content_of(run("whole"))


def test_matryoshka_trains_each_dimension(run: Run) -> None:
    recorded = summary(run("matryoshka", matryoshka_dims=[8]))
    assert recorded["final_loss"] < recorded["initial_loss"] - 0.3
    with pytest.raises(TrainingDataError, match=r"matryoshka_dims = \[64\]: the model's vectors have 32"):
        run("too_wide", matryoshka_dims=[64])


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_lora_is_merged_on_save(run: Run, base: Checkpoint, kill: bool) -> None:
    if kill:
        with pytest.raises(Killed):
            run("lora", kill_at(6), lora_rank=4)
    folder = run("lora", lora_rank=4)
    before, after = weights(base.path), weights(folder)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith("weight") and before[name].ndim == 2 for name in changed)
    assert not any("embeddings" in name for name in changed)
    assert content_of(folder) == content_of(run("again", lora_rank=4))


def test_merging_takes_the_share_that_validates_best(run: Run, base: Checkpoint) -> None:
    tuned, merged = run("whole"), run("merged", merge_with_base=True)
    recorded = summary(merged)
    scores = {float(share): score for share, score in recorded["merge_scores"].items()}
    assert set(scores) == {0, 0.25, 0.5, 0.75, 1}
    share = recorded["merge_weight"]
    assert scores[share] == max(scores.values()) == recorded["validation_ndcg_after"]
    old, new = weights(base.path), weights(tuned)
    for name, value in weights(merged).items():
        if value.is_floating_point():
            torch.testing.assert_close(
                value, old[name] * (1 - share) + new[name] * share, rtol=1e-5, atol=1e-6
            )


def test_training_stops_early_and_keeps_the_best(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from assets_pkg.finetune.validation import Validator

    constant = {"lr_scheduler": "constant", "warmup_ratio": 0.0}
    scores = iter([0.5, 0.6, 0.4, 0.3])  # after every step
    monkeypatch.setattr(Validator, "ndcg", lambda *_: next(scores, 0.0))
    best = run("best", early_stop_patience=2, **constant)
    assert summary(best)["steps_done"] == 4
    monkeypatch.undo()
    with pytest.raises(Killed):
        run("plain", kill_at(3), checkpoint_every_steps=2, **constant)
    after_two_steps = torch.load(best.parent / "plain" / "work" / "checkpoint-2" / "weights.pt")
    for name, value in weights(best).items():
        torch.testing.assert_close(value, after_two_steps[name])


@pytest.mark.parametrize("setting", [{"merge_with_base": True}, {"early_stop_patience": 1}])
def test_choosing_by_validation_needs_validation_questions(
    run: Run, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    monkeypatch.setattr(train, "read_validation_data", lambda *_: None)
    with pytest.raises(TrainingDataError, match=f"finetune.{next(iter(setting))}.*val_ratio"):
        run(**setting)


def test_mined_only_without_mined_negatives_is_refused(inputs: TrainingInputs, tmp_path: Path) -> None:
    shutil.copytree(inputs.mined.path, tmp_path / "mined")
    path = tmp_path / "mined" / inputs.mined.unrolled.name
    content = json.loads(path.read_text())
    for row in content["data"]:
        row["neg_doc"] = []
    path.write_text(json.dumps(content))
    bare = MinedTrainSet(tmp_path / "mined", "mined_train_set", "bare")
    with pytest.raises(TrainingDataError, match="most questions have no mined negatives"):
        replace(inputs, mined=bare).finetune(tmp_path / "out", in_batch_negatives=False)
