"""Broken and wrong model folders are recognised by their files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from resources.encoders.factory import look_up
from resources.models.entry import ModelEntry
from resources.models.files import check_files, digest_model
from resources.models.registry import Registry
from resources.models.safetensors_files import safetensors_problem


@pytest.fixture
def clip(zoo: Path, tmp_path: Path) -> Path:
    """A copy of the tiny CLIP that may be broken."""
    return Path(shutil.copytree(zoo / "clip", tmp_path / "clip"))


def problems(entry: ModelEntry, folder: Path) -> list[str]:
    return [problem.text for problem in check_files("clip", entry, folder)]


@pytest.mark.parametrize("name", ["qwen3-vl", "clip", "siglip", "llama"])
def test_a_whole_folder_has_no_problem(name: str, zoo: Path, entries: dict[str, ModelEntry]) -> None:
    assert check_files(name, entries[name], zoo / name) == []


def test_the_real_minilm_is_whole(minilm: Path) -> None:
    from resources.models.registry import load_registry

    assert check_files("minilm", load_registry().get("minilm"), minilm) == []


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_weights_are_found(keep: int, clip: Path, entries: dict[str, ModelEntry]) -> None:
    weights = clip / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    (found,) = problems(entries["clip"], clip)
    assert found.startswith(f"{weights}: ")
    assert found.endswith("delete it, and retune models download clip fetches it again")


def test_weights_that_are_something_else_are_found(clip: Path) -> None:
    (clip / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    assert (
        safetensors_problem(clip / "model.safetensors")
        == "its header is cut short or is not one of safetensors"
    )


def test_another_models_folder_is_named_as_such(zoo: Path, entries: dict[str, ModelEntry]) -> None:
    (found,) = problems(entries["clip"], zoo / "siglip")
    assert found == (
        f"{zoo / 'siglip' / 'config.json'}: model_type 'siglip', and the registry has clip for this model: "
        "another model's folder"
    )


def test_another_size_of_the_model_is_named_as_such(zoo: Path, entries: dict[str, ModelEntry]) -> None:
    larger = entries["qwen3-vl"].model_copy(update={"dimensions": 2048})
    (found,) = problems(larger, zoo / "qwen3-vl")
    assert "and the registry has 2048: another size of this model" in found


def test_a_shard_that_is_missing_is_named(clip: Path, entries: dict[str, ModelEntry]) -> None:
    (clip / "model.safetensors").rename(clip / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (clip / "model.safetensors.index.json").write_text(json.dumps(index))
    (found,) = problems(entries["clip"], clip)
    assert found.startswith(f"{clip / 'model-00002-of-00002.safetensors'}: missing")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "config.json: not readable"),
        ("model.safetensors", "no weights"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_a_missing_file_is_named(file: str, message: str, clip: Path, entries: dict[str, ModelEntry]) -> None:
    (clip / file).unlink()
    (found,) = problems(entries["clip"], clip)
    assert message in found


def test_a_broken_model_is_not_usable_and_says_why(clip: Path, entries: dict[str, ModelEntry]) -> None:
    (clip / "model.safetensors").write_bytes(b"")
    found = look_up(Registry(Path("models.yaml"), entries), "clip", clip.parent)
    assert not found.usable
    assert "model.safetensors: shorter than a safetensors header" in (found.problem or "")


class TestDigest:
    def test_follows_the_content_and_not_the_place(self, clip: Path, zoo: Path) -> None:
        before = digest_model(clip)
        assert before == digest_model(zoo / "clip")
        (clip / "README.md").write_text("not decisive")
        assert digest_model(clip) == before
        config = clip / "config.json"
        config.write_text(config.read_text() + " ")
        assert digest_model(clip) != before

    def test_remembers_large_files_until_they_change(
        self, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("resources.models.files.WORTH_REMEMBERING_BYTES", 0)
        before = digest_model(clip)
        hashed: list[Path] = []
        monkeypatch.setattr("resources.models.files.digest_file", lambda path: hashed.append(path) or "0")
        assert digest_model(clip) == before
        assert hashed == []
        (clip / "model.safetensors").write_bytes(b"changed")
        assert digest_model(clip) != before
        assert hashed == [clip / "model.safetensors"]
