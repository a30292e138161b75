"""Two processes train the same model as one, also after an error of one of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.finetune import launch
from assets_pkg.finetune.distillation import make_distillation
from assets_pkg.finetune.errors import TrainingStopped
from assets_pkg.finetune.launch import launch_training
from assets_pkg.finetune.model_io import load_model
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from storage.artifacts import TrainingSet
from storage.embedding_cache import EmbeddingCache
from storage.progress import Note, no_note
from tests.finetune.conftest import CPU, TrainingInputs, content_of, steps_into
from tests.finetune.forked_workers import launch_forked
from tests.finetune.short_of_memory import MEMORY, run_short_of_memory
from tests.waiting import until

pytestmark = pytest.mark.slow

Train = Callable[..., Path]


@pytest.fixture
def train(inputs: TrainingInputs, tmp_path: Path) -> Train:
    def go(
        processes: int,
        progress: Any = lambda *_, **__: None,
        name: str = "",
        note: Note = no_note,
        **changes: Any,
    ) -> Path:
        folder = tmp_path / (name or f"in{processes}")
        folder.mkdir(exist_ok=True)
        chosen = inputs.settings(num_processes=processes, learning_rate=1e-3, **changes)
        if chosen.teacher:
            teach(inputs, chosen, folder, tmp_path)
        launch_training(inputs.mined, inputs.base, inputs.model, chosen, CPU, folder, progress, note)
        return folder

    return go


def teach(inputs: TrainingInputs, settings: FinetuneSettings, folder: Path, work: Path) -> None:
    encoder = SentenceTransformerEncoder(
        inputs.base.model, inputs.base.version, CPU, inputs.model.encoder_config()
    )
    training, cache = TrainingSet(work, "training_set", "training0"), EmbeddingCache(work / "cache")
    make_distillation(inputs.mined, training, inputs.base, settings, encoder, CPU, cache, folder)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "training.jsonl").read_text().splitlines()]


def assert_same_training(one: Path, two: Path) -> None:
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert max(losses(one)) - min(losses(one)) > 0.05  # no flat line, that anything would fit
    mine, theirs = (load_model(each / "model" / "consolidated", "cpu").state_dict() for each in (one, two))
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=2e-4)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training processes are forked; torchrun is left to the tests of how it starts and ends them."""
    monkeypatch.setattr(launch, "_launch", launch_forked)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    "changes",
    [
        {"global_batch_size": 13, "in_batch_negatives": False},  # shares of 7 and 6
        {"local_batch_size": 1, "matryoshka_dims": [8], "teacher": "lexical", "teacher_questions": 24},
    ],
)
def test_two_processes_have_the_loss_curve_and_weights_of_one(train: Train, changes: dict[str, Any]) -> None:
    seen: list[int] = []
    notes: dict[int, list[str]] = {1: [], 2: []}
    two = train(2, steps_into(seen), note=notes[2].append, **changes)
    one = train(1, note=notes[1].append, **changes)
    assert notes[1] == notes[2]
    assert notes[1][0].startswith("plan: 48 examples, 2 epoch(s) of 4 steps in batches of 1")
    assert seen == list(range(1, len(losses(one)) + 1))
    assert_same_training(one, two)


@pytest.mark.parametrize("local_batch_size", [12, 2])  # memory runs out on the way forward; on the way back
def test_all_halve_when_one_runs_out_of_memory(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local_batch_size: int
) -> None:
    one = train(1, local_batch_size=local_batch_size)
    work = partial(run_short_of_memory, tmp_path)
    monkeypatch.setattr(launch, "_launch", partial(launch_forked, work=work))
    assert_same_training(one, train(2, local_batch_size=local_batch_size))
    rich, poor = ([int(n) for n in (tmp_path / f"tokens{rank}.txt").read_text().split()] for rank in (0, 1))
    assert max(poor) <= MEMORY
    assert max(rich) > MEMORY >= max(rich[len(rich) // 2 :])  # it had enough, and halved all the same


COMMAND = """
import json, os, signal, sys
from pathlib import Path
import psutil
from assets_pkg.finetune.launch import launch_training
from assets_pkg.config.sections.finetune import FinetuneSettings
from assets_pkg.config.base import ModelSettings
from resources.machine.accelerator import Accelerator
from storage.artifacts import Checkpoint, MinedTrainSet

if __name__ == "__main__":
    mined, base, model, settings, folder, step = sys.argv[1:]

    def progress(done, total, unit, **figures):
        if unit == "steps" and done == int(step):
            children = [each.pid for each in psutil.Process().children(recursive=True)]
            Path(folder, "children.json").write_text(json.dumps(children))
            os.kill(os.getpid(), signal.SIGKILL)

    launch_training(MinedTrainSet(Path(mined), "mined_train_set", "mined0"),
                  Checkpoint(Path(base), "base_model", "base0"), ModelSettings.model_validate_json(model),
                  FinetuneSettings.model_validate_json(settings),
                  Accelerator("cpu", "test", bf16=False, memory_bytes=1), Path(folder), progress)
"""


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_killed_processes_are_resumed(
    train: Train, inputs: TrainingInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First one of the processes is killed, later the parent process, which none of them outlives."""
    changes: dict[str, Any] = {"dropout": 0.1, "num_epochs": 7, "checkpoint_every_steps": 4}
    folder = tmp_path / "killed"

    def kill_one(done: int, _: int, unit: str, **__: Any) -> None:
        if (done, unit) == (6, "steps"):
            children = psutil.Process().children(recursive=True)
            next(each for each in children if each.environ().get("RANK") == "1").kill()

    with pytest.raises(TrainingStopped):
        train(2, kill_one, name="killed", **changes)
    first = len(losses(folder))
    assert 6 <= first < 14

    arguments = inputs.arguments(num_processes=2, learning_rate=1e-3, **changes)
    command = [sys.executable, "-c", COMMAND, *arguments, str(folder), str(first + 8)]
    assert subprocess.run(command, check=False).returncode == -9
    children: list[int] = json.loads((folder / "children.json").read_text())
    until(lambda: all(ended(pid) for pid in children))
    (folder / "children.json").unlink()

    monkeypatch.setattr(launch, "_launch", launch_forked)
    steps: list[int] = []
    train(2, steps_into(steps), name="killed", **changes)
    assert first < steps[0] < 28
    assert len(losses(folder)) == 28
    assert content_of(folder) == content_of(train(2, name="whole", **changes))


def test_an_error_of_a_process_is_raised_by_the_parent(
    inputs: TrainingInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "WORKER", (str(Path(__file__).with_name("failing_worker.py")),))
    settings = inputs.settings(num_processes=2)
    with pytest.raises(TrainingStopped, match=r"^ValueError: no such training set$"):
        launch_training(inputs.mined, inputs.base, inputs.model, settings, CPU, tmp_path)
