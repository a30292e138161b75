"""The registry file: what it must say, how it is found, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import resources.models
from resources.models.entry import ModelEntry
from resources.models.locations import find_model, find_weights, unmet_requirement
from resources.models.registry import RegistryError, load_registry, user_path

SHIPPED = Path(resources.models.__file__).with_name("models.yaml")
TOP = Path(__file__).parents[2] / "models.yaml"

# The five folders of the caption judges, under the hub ids that really hold these models.
JUDGE_FOLDERS = {
    "gte-qwen2-7b": ("Alibaba-NLP/gte-Qwen2-7B-instruct", 3584, 14.1),
    "qwen3-8b": ("Qwen/Qwen3-Embedding-8B", 4096, 15.1),
    "nemo": ("nvidia/llama-embed-nemotron-8b", 4096, 15.0),
    "nv-embed": ("nvidia/NV-Embed-v2", 4096, 15.7),
    "kalm": ("tencent/KaLM-Embedding-Gemma3-12B-2511", 3840, 23.5),
}

PROVIDER_FORM = """
models:
  minimal: {provider_type: local, base_url: "http://localhost:8080/"}
  jina:
    provider_type: openai_compatible
    base_url: https://api.jina.ai/v1
    text_endpoint: {path: /embeddings, method: POST, input_field: input, output_field: "data[0].embedding",
                    model: jina-clip-v2, wrap_input: true, input_wrapper_key: text}
    image_endpoint: {path: /embeddings, method: POST, input_field: input, output_field: "data[0].embedding",
                     model: jina-clip-v2, wrap_input: true, input_wrapper_key: image}
    api_key_env_var: JINA_API_KEY
    user_batch_size: 16
    rate_limit_delay: 0.8
"""


def write(path: Path, models: object) -> Path:
    path.write_text(yaml.safe_dump({"models": models}), "utf-8")
    return path


class TestShipped:
    def test_is_the_file_at_the_top_of_the_project(self) -> None:
        assert SHIPPED.read_bytes() == TOP.read_bytes()

    @pytest.mark.parametrize(("folder", "facts"), JUDGE_FOLDERS.items())
    def test_has_the_five_judges_under_their_right_hub_ids(
        self, folder: str, facts: tuple[str, int, float]
    ) -> None:
        hub_id, dimensions, gigabytes = facts
        entry = next(entry for _, entry in load_registry(TOP) if entry.folder == folder)
        assert (entry.hub_id, entry.dimensions) == (hub_id, dimensions)
        assert (entry.disk_bytes or 0) / 1e9 == pytest.approx(gigabytes, abs=0.06)

    def test_says_where_every_fact_comes_from_and_what_may_be_done_with_it(self) -> None:
        for name, entry in load_registry(TOP):
            assert "default" in entry.sources, name
            if entry.hub_id:
                assert entry.revision is not None, name
                assert len(entry.revision) == 40, name

    def test_tells_models_that_may_not_be_used_commercially(self) -> None:
        forbidden = {name for name, entry in load_registry(TOP) if entry.commercial_use is False}
        assert forbidden == {"llama-embed-nemotron-8b", "nv-embed-v2", "jina-clip-v2", "jina-embeddings-v4"}

    def test_has_the_dimensions_that_were_wrong_in_circulation(self) -> None:
        registry = load_registry(TOP)
        sizes = {name: registry.get(name).dimensions for name in ("qwen3-vl-embed-2b", "qwen3-vl-embed-8b")}
        assert sizes == {"qwen3-vl-embed-2b": 2048, "qwen3-vl-embed-8b": 4096}
        assert registry.get("gte-qwen2-1.5b").dimensions == 1536

    def test_knows_the_two_names_of_one_model(self) -> None:
        registry = load_registry(TOP)
        assert registry.get("nvidia/llama-3.2-nv-embedqa-1b-v2") is registry.get("llama-nemotron-embed-1b-v2")
        assert registry.get("llama-nemotron-embed-1b-v2").prompts.prefix("query") == "query: "


class TestOwn:
    """The user's file over the shipped one."""

    def test_is_the_one_in_the_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert user_path() is None
        assert load_registry().models == load_registry(TOP).models
        write(tmp_path / "models.yaml", {"mine": {"adapter": "http"}})
        registry = load_registry()
        assert registry.path.absolute() == tmp_path / "models.yaml"
        assert list(registry.models) == ["mine", *load_registry(TOP).models]

    def test_is_the_one_that_the_environment_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        named = write(tmp_path / "mine.yaml", {"a": {"adapter": "http"}})
        monkeypatch.setenv("RETUNE_MODELS", str(named))
        assert load_registry().path == named
        monkeypatch.setenv("RETUNE_MODELS", str(tmp_path / "none.yaml"))
        with pytest.raises(RegistryError, match=r"RETUNE_MODELS=.*none\.yaml: no such file"):
            user_path()

    def test_changes_single_facts_of_a_shipped_model(self, tmp_path: Path) -> None:
        changed = load_registry(write(tmp_path / "m.yaml", {"bge-m3": {"advised_tokens": 512}})).get("bge-m3")
        shipped = load_registry(TOP).get("bge-m3")
        assert changed == shipped.model_copy(update={"advised_tokens": 512})

    @pytest.mark.parametrize(
        "facts",
        [
            {"adapter": "sentence_transformer", "folder": "x"},
            {"provider_type": "local", "base_url": "http://localhost:1"},
        ],
    )
    def test_replaces_a_shipped_model_with_an_entry_that_says_how_it_is_run(
        self, tmp_path: Path, facts: dict[str, str]
    ) -> None:
        registry = load_registry(write(tmp_path / "m.yaml", {"bge-m3": facts}))
        assert registry.get("bge-m3") == ModelEntry.model_validate(facts)
        with pytest.raises(RegistryError, match="has no model 'BAAI/bge-m3'"):
            registry.get("BAAI/bge-m3")

    def test_its_names_come_first(self, tmp_path: Path) -> None:
        own = {"adapter": "sentence_transformer", "hub_id": "BAAI/bge-m3", "aliases": ["minilm", "qwen3-8b"]}
        registry = load_registry(
            write(
                tmp_path / "m.yaml",
                {"clip-vit-base-patch32": own, "mine": {**own, "hub_id": "a/b", "aliases": []}},
            )
        )
        for name in ("minilm", "qwen3-8b", "BAAI/bge-m3", "clip-vit-base-patch32"):
            assert registry.name_of(name) == "clip-vit-base-patch32"
        assert registry.name_of("bge-m3") == "bge-m3"


class TestEntries:
    def test_provider_form_fills_what_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "models.yaml").write_text(PROVIDER_FORM, "utf-8")
        registry = load_registry(tmp_path / "models.yaml")
        minimal, jina = registry.get("minimal"), registry.get("jina")
        assert (minimal.adapter, minimal.dialect, minimal.base_url) == (
            "http",
            "local",
            "http://localhost:8080",
        )
        assert minimal.text_endpoint is not None
        assert minimal.image_endpoint is not None
        assert (minimal.text_endpoint.path, minimal.image_endpoint.path) == ("/txt/embed", "/img/embed")
        assert (jina.dialect, jina.api_key_env, jina.rate_limit_delay) == ("openai", "JINA_API_KEY", 0.8)

    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({"adapter": "qwen3_vl"}, "m: Value error, adapter qwen3_vl needs a hub_id"),
            ({"adapter": "http", "dimension": 3}, "m.dimension: Extra inputs"),
            ({"adapter": "http", "dimensions": 8, "matryoshka_dims": [4, 16]}, r"\[16\] exceed dimensions 8"),
            ({"adapter": "http", "sources": {"size": "x"}}, "name no facts: size"),
            ({"adapter": "http", "prompts": {"query": "{task}: "}}, "m.prompts: .* give no task"),
            ({"provider_type": "local"}, "needs a base_url"),
            ({"adapter": "magic"}, "m.adapter: Input should be"),
            ("text", "m: Input should be"),
        ],
    )
    def test_contradictions_are_errors_that_name_the_field(
        self, tmp_path: Path, facts: object, message: str
    ) -> None:
        with pytest.raises(RegistryError, match=message):
            load_registry(write(tmp_path / "models.yaml", {"m": facts}))

    def test_a_name_for_two_models_is_an_error(self, tmp_path: Path) -> None:
        models = {"a": {"adapter": "http", "aliases": ["x"]}, "b": {"adapter": "http", "hub_id": "x"}}
        with pytest.raises(RegistryError, match="'x' names both a and b"):
            load_registry(write(tmp_path / "models.yaml", models))

    def test_an_unknown_name_gets_the_nearest(self) -> None:
        with pytest.raises(RegistryError, match=r"did you mean .*qwen3-vl-embed-2b"):
            load_registry(TOP).get("qwen3-vl-embed")

    @pytest.mark.parametrize(
        "text",
        ["[]", "models: [a]", "models: {1: {}}", "a: [", "models: {m: {adapter: http, adapter: onnx}}"],
    )
    def test_a_file_of_another_shape_is_an_error(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "models.yaml").write_text(text, "utf-8")
        with pytest.raises(RegistryError, match=r"models\.yaml"):
            load_registry(tmp_path / "models.yaml")

    def test_a_task_replaces_the_registered_one(self) -> None:
        prompts = load_registry(TOP).get("qwen3-embedding-8b").prompts
        assert prompts.prefix("query", "Find it") == "Instruct: Find it\nQuery:"
        assert prompts.prefix("passage", "Find it") == ""


class TestPlaces:
    def test_weights_are_found_in_their_folder(self, zoo: Path, entries: dict[str, ModelEntry]) -> None:
        location = find_model("clip", entries["clip"], zoo)
        assert (location.kind, location.folder) == ("folder", zoo / "clip")

    def test_weights_are_found_in_an_installed_package(self, tmp_path: Path, minilm: Path) -> None:
        location = find_weights("minilm", load_registry(TOP).get("minilm"), tmp_path)
        assert location is not None
        assert (location.kind, location.folder) == ("package", minilm)

    def test_weights_are_found_in_the_hub_cache(
        self, tmp_path: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = "0" * 40
        snapshot = tmp_path / "models--a--b" / "snapshots" / commit
        snapshot.parent.mkdir(parents=True)
        snapshot.symlink_to(zoo / "clip")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        entry = ModelEntry(adapter="dual_tower", hub_id="a/b", revision=commit)
        location = find_model("x", entry, tmp_path / "embedding_models")
        assert (location.kind, location.folder) == ("cache", snapshot)

    def test_a_model_without_weights_says_what_to_do(self, tmp_path: Path) -> None:
        registry = load_registry(TOP)
        for name, wanted in {
            "bge-m3": "retune models download bge-m3",
            "nv-embed-v2": "docs/remote-models.md",
            "jina-clip-v2": "JINA_API_KEY is not set",
        }.items():
            location = find_model(name, registry.get(name), tmp_path)
            assert location.kind == "missing", name
            assert wanted in location.reason

    def test_a_server_stands_in_for_missing_weights(self, tmp_path: Path) -> None:
        location = find_model("qwen3-vl-embed-2b", load_registry(TOP).get("qwen3-vl-embed-2b"), tmp_path)
        assert (location.kind, location.url) == ("server", "http://localhost:8003")

    def test_a_package_that_does_not_fit_is_named(self) -> None:
        unmet = unmet_requirement(ModelEntry(adapter="http", requires={"transformers": "<5"}))
        assert unmet is not None
        assert unmet.startswith("needs transformers <5, and 5.")
        assert unmet_requirement(ModelEntry(adapter="http", requires={"transformers": ">=5"})) is None
        missing = unmet_requirement(ModelEntry(adapter="http", requires={"no-such-thing": ">=1"}))
        assert missing == "needs no-such-thing >=1, which is not installed"
