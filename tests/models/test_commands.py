"""What the command prints about models: whole, truncated and foreign ones, and those that are nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from resources.machine.accelerator import Accelerator
from resources.models.commands import check_model, list_models, path_of, show_model
from resources.models.entry import ModelEntry
from resources.models.registry import Registry, RegistryError, load_registry

TOP = Path(__file__).parents[2] / "models.yaml"


@pytest.fixture
def registry(entries: dict[str, ModelEntry]) -> Registry:
    return Registry(Path("models.yaml"), entries)


@pytest.fixture
def copied(zoo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(zoo, tmp_path / "embedding_models"))


def test_the_list_has_licence_size_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    rows = {row["name"]: row for row in list_models(load_registry(TOP), tmp_path)}
    assert rows["all-minilm-l6-v2"]["status"] == "package"
    judge = rows["llama-embed-nemotron-8b"]
    assert (judge["status"], judge["commercial"], judge["GB"]) == ("missing", "NO", "15.0")
    assert judge["where"].startswith(f"no weights in {tmp_path / 'nemo'}")
    assert rows["qwen3-vl-embed-2b"]["where"] == "http://localhost:8003"


def test_every_fact_is_shown_with_its_source() -> None:
    rows = {row["fact"]: row for row in show_model(load_registry(TOP), "KaLM".lower())}
    assert rows["dimensions"] == {"fact": "dimensions", "value": "3840", "source": "mteb"}
    assert rows["pooling"]["source"] == "mteb (unverified)"
    assert rows["advised_tokens"]["source"] == "model card"
    assert rows["disk, GB"]["value"] == "23.5"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3-vl", "clip", "siglip", "llama"])
def test_a_whole_model_passes(name: str, registry: Registry, zoo: Path, cpu: Accelerator) -> None:
    found = check_model(registry, name, zoo, accelerator=cpu)
    assert found.passed
    assert found.digest is not None
    assert len(found.checks) >= 7


def test_a_truncated_file_fails_before_anything_is_loaded(registry: Registry, copied: Path) -> None:
    weights = copied / "qwen3-vl" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    found = check_model(registry, "qwen3-vl", copied)
    assert not found.passed
    assert (found.digest, found.checks) == (None, ())
    assert str(weights) in found.problems[0]
    assert "bytes long, and its header says" in found.problems[0]


def test_a_folder_of_another_architecture_fails(registry: Registry, copied: Path) -> None:
    shutil.rmtree(copied / "clip")
    (copied / "siglip").rename(copied / "clip")
    found = check_model(registry, "clip", copied)
    assert "model_type 'siglip', and the registry has clip" in found.problems[0]


def test_weights_that_do_not_fit_the_configuration_fail_and_name_the_folder(
    registry: Registry, copied: Path, cpu: Accelerator
) -> None:
    config = copied / "clip" / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 40'))
    found = check_model(registry, "clip", copied, accelerator=cpu)
    assert not found.passed
    assert str(copied / "clip") in found.problems[0]


def test_a_model_that_is_nowhere_fails_with_what_to_do(registry: Registry, tmp_path: Path) -> None:
    found = check_model(registry, "clip", tmp_path)
    assert found.problems == (
        f"no weights in {tmp_path / 'clip'} nor in the Hugging Face cache: retune models download clip",
    )


def test_only_files_are_looked_at_when_asked_so(registry: Registry, zoo: Path) -> None:
    found = check_model(registry, "clip", zoo, load=False)
    assert (found.passed, found.checks) == (True, ())
    assert found.digest is not None


def test_the_path_is_where_weights_are_or_belong(registry: Registry, zoo: Path, tmp_path: Path) -> None:
    assert path_of(registry, "clip", zoo) == zoo / "clip"
    assert path_of(load_registry(TOP), "nvidia/NV-Embed-v2", tmp_path) == tmp_path / "nv-embed"
    with pytest.raises(RegistryError, match="has no model 'nothing'"):
        path_of(registry, "nothing")
