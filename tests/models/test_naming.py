"""One name for a model, and the prompts and length that it brings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from assets_pkg.config.errors import ProfileError
from assets_pkg.config.profile_files import load_profile
from resources.models.naming import ModelNameError, find_named, own_settings
from storage.artifact_store import ArtifactStore, BuildKey
from storage.artifacts import Checkpoint
from tests.models.fake_hub import COMMIT, Hub, running

PROMPTS = {"query": "q: ", "document": "d: "}


def model_folder(folder: Path, prompts: dict[str, str] | None = None, length: int | None = None) -> Path:
    """The configuration of a model, without weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 128}))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    if length is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a models.yaml; no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    facts: dict[str, Any] = {"adapter": "sentence_transformer", "hub_id": "owner/mine", "aliases": ["my-own"]}
    registered = {
        "bare": {**facts, "hub_id": None, "aliases": [], "folder": "bare"},
        "mine": {
            **facts,
            "prompts": {"query": "{task}? ", "task": "find"},
            "max_tokens": 64,
            "revision": "1" * 40,
        },
    }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": registered}))
    return tmp_path


class TestPlace:
    @pytest.mark.parametrize("name", ["mine", "my-own", "owner/mine"])
    def test_a_registered_model_lies_below_embedding_models(self, name: str, place: Path) -> None:
        assert find_named(name).folder is None
        assert (find_named(name).hub_id, find_named(name).revision) == ("owner/mine", "1" * 40)
        folder = model_folder(place / "embedding_models" / "mine")
        found = find_named(name)
        assert found.folder is not None
        assert found.folder.absolute() == folder
        assert found.entry is not None
        assert find_named(name, "2" * 40).folder is None

    @pytest.mark.parametrize("below", ["other", "owner/other"])
    def test_a_hub_id_is_looked_for_there_first(self, below: str, place: Path) -> None:
        assert find_named("owner/other").folder is None
        folder = model_folder(place / "embedding_models" / below)
        found = find_named("owner/other")
        assert found.folder is not None
        assert found.folder.absolute() == folder
        assert find_named("owner/other", "main").folder is None

    def test_a_folder_comes_before_the_registry(self, place: Path) -> None:
        model_folder(place / "mine")
        assert find_named("mine").entry is None
        assert find_named("./mine").folder == Path("mine")

    def test_what_can_be_no_model_is_an_error(self, place: Path) -> None:
        for name in ("./mine", "a/b/c", "package://no_such_package/x"):
            with pytest.raises(ModelNameError):
                find_named(name)


class TestOwn:
    def test_the_registry_comes_before_the_folder(self, place: Path) -> None:
        model_folder(place / "embedding_models" / "mine", PROMPTS, 32)
        own = own_settings(find_named("mine"))
        assert (own.query, own.passage, own.max_length) == ("find? ", "", 64)

    def test_what_the_registry_does_not_say_is_the_folders(self, place: Path) -> None:
        model_folder(place / "embedding_models" / "bare", PROMPTS, 32)
        own = own_settings(find_named("bare"))
        assert (own.query, own.passage, own.max_length) == ("q: ", "d: ", 32)

    def test_a_plain_folder_has_no_prompts_and_the_length_of_its_network(self, place: Path) -> None:
        own = own_settings(find_named(str(model_folder(place / "plain"))))
        assert (own.query, own.passage, own.max_length) == ("", "", 128)

    def test_a_model_that_is_on_the_hub_only_is_asked_for_its_configuration(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        folder = model_folder(place / "remote", PROMPTS, 32)
        with running(Hub(folder, "owner/remote")) as hub:
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
            monkeypatch.setattr(
                "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
                hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            )
            own = own_settings(find_named("owner/remote", COMMIT))
            assert (own.query, own.passage, own.max_length, own.source) == ("q: ", "d: ", 32, "the hub")
        assert own_settings(find_named("owner/remote", COMMIT)) == own


class TestProfile:
    def model(self, *overrides: str) -> Any:
        return load_profile("laptop", [f"artifact_root={Path('out').absolute()}", *overrides]).model

    def test_prompts_of_the_laptop_are_the_models(self, place: Path) -> None:
        assert (self.model().query_prefix, self.model().passage_prefix) == ("", "")
        folder = model_folder(place / "model", PROMPTS, 32)
        model = self.model(f"base_model={folder}")
        assert (model.query_prefix, model.passage_prefix, model.query_max_length) == ("q: ", "d: ", 256)
        given = self.model(f"base_model={folder}", "query_prefix='q: '", "passage_prefix='d: '")
        assert given.digest() == model.digest()

    def test_null_lengths_are_the_models(self, place: Path) -> None:
        folder = model_folder(place / "model", PROMPTS, 32)
        model = self.model(f"base_model={folder}", "query_max_length=null", "passage_max_length=64")
        assert (model.query_max_length, model.passage_max_length) == (32, 64)

    def test_given_prompts_stay(self, place: Path) -> None:
        folder = model_folder(place / "model", PROMPTS)
        model = self.model(f"base_model={folder}", "query_prefix=''", "passage_prefix='p '")
        assert (model.query_prefix, model.passage_prefix) == ("", "p ")

    def test_prompts_of_a_model_that_was_moved_are_those_it_was_made_with(self, place: Path) -> None:
        folder = model_folder(place / "model", PROMPTS)

        def produce(made: Path) -> None:
            model_folder(
                made / "model" / "consolidated", {"query": "q: ", "document": "d: ", "passage": "d: "}
            )
            (made / "summary.json").write_text(json.dumps({"source": str(folder), "max_length": 24}))

        ArtifactStore(place / "out").build(Checkpoint, BuildKey("base_model", "1", {}), produce)
        before = self.model(f"base_model={folder}")
        folder.rename(place / "elsewhere")
        assert self.model(f"base_model={folder}") == before

    def test_a_model_that_nobody_knows_has_none(self, place: Path) -> None:
        assert self.model("base_model=owner/unknown").query_prefix == ""
        assert self.model("base_model=./nowhere").query_prefix == ""

    def test_a_registry_that_cannot_be_read_is_told(self, place: Path) -> None:
        (place / "models.yaml").write_text("[]")
        with pytest.raises(ProfileError, match=r"model\.base_model: models\.yaml: must be"):
            self.model("base_model=owner/unknown")
