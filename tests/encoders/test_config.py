"""The settings of an encoder are one value, from the profile to the process that embeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.config.profile_files import load_profile
from assets_pkg.orchestration.resources import build_resources, encoders_for
from resources.configurable import ChatModelResource
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.recipe import EncoderRecipe
from storage.artifacts import Checkpoint

MODEL = {"query_prefix": "q: ", "passage_prefix": "p: ", "query_max_length": 7, "passage_max_length": 9}


def test_the_profile_reaches_the_recipe_of_another_process_unchanged(tmp_path: Path) -> None:
    model = load_profile("laptop").model.model_copy(update={**MODEL, "embed_precision": "bf16"})
    encoders = encoders_for(tmp_path, model, 5)
    checkpoint = Checkpoint(tmp_path / "a", "base_model", "f00d")
    recipe = encoders.recipe(checkpoint)
    assert recipe.config == EncoderConfig(**MODEL, precision="bf16", batch_size=5)  # type: ignore[arg-type]
    assert encoders.recipe(checkpoint, 3).config.batch_size == 3
    assert EncoderRecipe.load(json.loads(json.dumps(recipe.dump()))) == recipe


def test_the_chat_models_settings_survive_the_resource(tmp_path: Path) -> None:
    resource = build_resources(load_profile("laptop", [f"artifact_root={tmp_path}"])).chat_model
    config = resource.get().config
    assert config.cache == tmp_path / ".cache" / "chat_answers.sqlite"
    assert ChatModelResource.from_config(config).get().config == config
    assert isinstance(resource, dg.ConfigurableResource)


@pytest.mark.parametrize(
    "module",
    [
        "resources.machine.accelerator",
        "resources.containers",
        "resources.encoders.sentence_transformer",
        "resources.encoders.encoder_config",
        "resources.encoders.recipe",
        "assets_pkg.reindex.searcher",
    ],
)
def test_what_trains_and_searches_does_not_load_dagster(module: str) -> None:
    """Workers of a training run and programs that only search must not pay for the orchestrator, nor for torch."""
    code = f"import sys, {module}; print(sorted({{'dagster', 'torch'}} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
