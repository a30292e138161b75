"""The curves as TensorBoard and W&B read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from assets_pkg.finetune import plan
from assets_pkg.finetune.errors import TrainingDataError
from tests.finetune.conftest import TrainingInputs

pytestmark = pytest.mark.slow

Train = Callable[..., Path]
KEY = "0123456789abcdef" * 2 + "01234567"


class Killed(Exception):
    pass


@pytest.fixture
def train(inputs: TrainingInputs, tmp_path: Path) -> Train:
    return partial(inputs.finetune, tmp_path / "out")


@pytest.fixture(autouse=True)
def fresh_wandb() -> Iterator[None]:
    """W&B reads its environment once in a process."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B with a key in the environment, and no network."""
    for name, value in (("API_KEY", KEY), ("MODE", "offline"), ("CONFIG_DIR", tmp_path / "config")):
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    for name in ("PROJECT", "DIR", "RUN_ID", "RESUME"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)


def logged(lines: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in lines.read_text().splitlines()]


def wandb_records(path: Path) -> Iterator[Any]:
    """What ``wandb sync`` would send: a log in LevelDB's format of protocol buffers, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, offset, parts = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def histories(records: list[Any]) -> list[dict[str, Any]]:
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in each.history.item}
        for each in records
        if each.WhichOneof("record_type") == "history"
    ]


def test_the_curves_go_to_tensorboard(train: Train) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train()
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == list(range(1, 9))
    assert "train/learning_rate" in events.Tags()["scalars"]


@pytest.mark.usefixtures("offline")
def test_the_curves_go_to_wandb_and_the_key_nowhere(train: Train) -> None:
    notes: list[str] = []
    folder = train(note=notes.append, wandb_project="mine")
    assert any(text.startswith(f"W&B run: {folder / 'wandb'}") for text in notes)
    (path,) = (folder / "wandb").rglob("run-*.wandb")
    records = list(wandb_records(path))
    (run,) = [each.run for each in records if each.WhichOneof("record_type") == "run"][:1]
    assert run.project == "mine"
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["base_digest"] == "base0"
    assert config["finetune"]["temperature"] == 0.05
    seen = [row for row in histories(records) if "train/loss" in row]
    lines = logged(folder / "training.jsonl")
    assert [row["train/global_step"] for row in seen] == [line["step"] for line in lines]
    assert [row["train/loss"] for row in seen] == pytest.approx([line["loss"] for line in lines], abs=1e-5)
    (exited,) = [each.exit.exit_code for each in records if each.WhichOneof("record_type") == "exit"]
    assert exited == 0
    files = [each for each in folder.rglob("*") if each.is_file()]
    assert not [each for each in files if KEY.encode() in each.read_bytes()]


@pytest.mark.usefixtures("offline")
def test_a_killed_training_goes_on_in_the_same_wandb_run(train: Train) -> None:
    def kill(done: int, *_: Any, **__: Any) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        train(kill, wandb_project="mine")
    folder = train(wandb_project="mine")
    broken, whole = sorted((folder / "wandb").rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime)
    assert broken.name == whole.name  # named by the run's id
    steps = [
        [row["train/global_step"] for row in histories(list(wandb_records(each)))] for each in (broken, whole)
    ]
    assert steps[0] == [1, 2, 3, 4, 5]
    assert steps[1][0] == 5  # the last checkpoint was at step 4
    (exited,) = [
        each.exit.exit_code for each in wandb_records(broken) if each.WhichOneof("record_type") == "exit"
    ]
    assert exited == 1


def test_wandb_is_asked_for_and_not_there(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingDataError, match=r"finetune\.wandb_project = 'mine': wandb is not installed"):
        train(wandb_project="mine")


def test_wandb_without_a_key_says_what_to_do(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(TrainingDataError, match=r"finetune\.wandb_project = 'mine': .*WANDB_API_KEY"):
        train(wandb_project="mine")
