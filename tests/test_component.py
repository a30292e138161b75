"""Retune as a component of somebody's project: found, typed, and loaded."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from pydantic import ValidationError

from assets_pkg import RetuneComponent
from assets_pkg.config.profile import Profile

CHECKOUT = Path(__file__).parents[1]


def load(**attributes: Any) -> dg.Definitions:
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=RetuneComponent,
            defs_yaml_contents={"type": "assets_pkg.RetuneComponent", "attributes": attributes},
        )
        (folder / "own.yaml").write_text("extends: laptop\nfinetune: {num_epochs: 7}\n", "utf-8")
        with sandbox.load_component_and_build_defs(defs_path=folder) as (_, defs):
            return defs


def settings(defs: dg.Definitions, key: str) -> dict[str, Any]:
    return defs.resolve_asset_graph().get(dg.AssetKey(key.split("/"))).metadata["retune/settings"]


def test_the_attributes_are_settings_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEARNING_RATE", "0.002")
    defs = load(
        extends="own.yaml",
        key_prefix="faq",
        corpus_asset="library/articles",
        artifact_root="output/faq",
        corpus={"metadata_fields": ["lang"], "num_files": None},
        finetune={"learning_rate": "{{ env.LEARNING_RATE }}", "temperature": 0.1},
    )
    trained = settings(defs, "faq/checkpoint")
    assert (trained["num_epochs"], trained["learning_rate"], trained["temperature"]) == (7, 0.002, 0.1)
    read = settings(defs, "faq/raw_corpus")
    assert (read["metadata_fields"], read["corpus_dir"]) == (["lang"], "asset://library/articles")
    graph = defs.resolve_asset_graph()
    assert graph.get(dg.AssetKey(["faq", "raw_corpus"])).parent_keys == {dg.AssetKey(["library", "articles"])}


def test_two_components_are_two_graphs() -> None:
    faq = load(key_prefix="faq", artifact_root="output/faq", deploy={"host_port": 8001})
    wiki = load(key_prefix="wiki", artifact_root="output/wiki", deploy={"host_port": 8002})
    both = dg.Definitions.merge(faq, wiki)
    keys = both.resolve_asset_graph().get_all_asset_keys()
    assert {dg.AssetKey(["faq", "vector_index"]), dg.AssetKey(["wiki", "vector_index"])} <= keys


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"finetune": {"num_epoch": 3}}, "num_epoch"),
        ({"finetune": {"num_epochs": "many"}}, "num_epochs"),
        ({"finetune": {"num_epochs": -1}}, "num_epochs"),
        ({"deploy": {"backend": "rocket"}}, "backend"),
        ({"nothing": 1}, "nothing"),
    ],
)
def test_attributes_that_are_no_settings_are_refused(attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RetuneComponent.get_model_cls().model_validate(attributes)


def test_every_attribute_is_described() -> None:
    schema = RetuneComponent.get_model_cls().model_json_schema()
    sections = {
        name: schema["$defs"][kind.__name__]
        for name, field in Profile.model_fields.items()
        if isinstance(kind := field.annotation, type) and kind.__name__ in schema["$defs"]
    }
    assert {"finetune", "corpus", "deploy"} <= set(sections)
    own = {name: each for name, each in schema["properties"].items() if name not in sections}
    for fields in (own, *(section["properties"] for section in sections.values())):
        assert [name for name, each in fields.items() if not each.get("description")] == []


def test_the_installed_package_names_the_module_with_components() -> None:
    declared = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    assert '[project.entry-points."dagster_dg_cli.registry_modules"]\nassets_pkg = "assets_pkg"' in declared
