"""The command on full disks: one plain error, nothing lost, and the same command continues once there is space."""

from __future__ import annotations

from pathlib import Path

from storage.artifact_store import ArtifactStore
from storage.artifacts import Corpus
from tests.command.conftest import make_workplace
from tests.small_disk import small_disk


def test_a_full_artifact_root_is_reported_and_the_same_command_goes_on(
    tmp_path: Path, tiny_model: Path
) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        store = ArtifactStore(disk.folder / "output")
        workplace = make_workplace(tmp_path / "project", tiny_model, documents=12, root=store.root)
        run = ("run", "--to", "finetune")
        met = f"disk full while making base_model: 0.0 GB free at {store.root}. Free some space or set artifact_root"
        foreseen = "has 0.00 GB free: free some space, set artifact_root to another disk"
        for size, asset, words in (("2m", "base_model", met), ("8m", "checkpoint", foreseen)):
            disk.grow(size)
            code, output = workplace.retune(*run)
            assert code == 1
            assert words in output
            assert "Traceback" not in output
            assert store.versions(asset) == []
        (corpus,) = store.versions("raw_corpus")
        store.verify(store.get(Corpus, "raw_corpus", corpus))
        disk.grow("64m")
        code, output = workplace.retune(*run)
        assert code == 0, output
        assert store.versions("raw_corpus") == [corpus]


def test_a_history_without_space_is_reported_and_the_same_command_goes_on(
    tmp_path: Path, tiny_model: Path
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        workplace = make_workplace(disk.folder / "project", tiny_model, documents=12)
        code, output = workplace.retune("run", "--to", "sdg")
        assert code == 1
        assert (
            f"disk full: no space for the history of runs in {workplace.home}/.dagster. Free some" in output
        )
        assert "Traceback" not in output
        disk.grow("32m")
        code, output = workplace.retune("run", "--to", "sdg")
        assert code == 0, output
