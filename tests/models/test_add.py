"""Own models: described by what is read and measured, and written only if they are as described."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from resources.encoders.factory import look_up, open_encoder
from resources.encoders.items import Item
from resources.machine.accelerator import Accelerator
from resources.models.commands import add_model
from resources.models.naming import ModelNameError
from resources.models.registry import RegistryError, load_registry
from tests.models import tiny

TEXTS = ["dark blue sea", "red"]
OWN = "# mine\nmodels:\n  first: {adapter: http}  # a server\n"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sentence_transformer(folder: Path, pooling: str) -> Any:
    """sentence-transformers' own model of ``folder``, with this pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(folder))
    return SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling), Normalize()],
        device="cpu",
    )


def as_plain(folder: Path, target: Path) -> Path:
    """The network and tokenizer of a sentence-transformers folder alone."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("modules.json", "1_Pooling", "*sentence*"))
    return target


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "theirs"), [("mean", "mean"), ("last", "lasttoken")])
def test_a_plain_model_is_added_with_the_pooling_that_is_given(
    pooling: Any, theirs: str, tiny_model: Path, cpu: Accelerator, place: Path
) -> None:
    folder = as_plain(tiny_model, place / "embedding_models" / "My-Model")
    with pytest.raises(RegistryError, match="--pooling mean, cls or last"):
        add_model(str(folder), accelerator=cpu)
    added = add_model(str(folder), pooling=pooling, accelerator=cpu)
    assert added.path == Path("models.yaml")
    entry = load_registry().get("my-model")
    assert (entry.folder, entry.pooling, entry.dimensions) == ("My-Model", pooling, 32)
    assert (entry.padding_side, entry.attention, entry.model_types) == ("right", "bidirectional", ["bert"])
    encoder = open_encoder(look_up(load_registry(), "my-model"), cpu)
    expected = sentence_transformer(folder, theirs).encode(TEXTS)
    assert encoder.embed(TEXTS, "query") == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_what_the_folder_says_is_taken_and_the_file_stays_as_it_was(
    tiny_model: Path, cpu: Accelerator, place: Path
) -> None:
    shutil.copytree(tiny_model, place / "model")
    config = place / "model" / "config_sentence_transformers.json"
    config.chmod(0o644)
    prompts = {"query": "q: ", "document": ""}
    config.write_text(json.dumps({**json.loads(config.read_text()), "prompts": prompts}))
    (place / "models.yaml").write_text(OWN)
    add_model("model", "mine", accelerator=cpu)
    assert (place / "models.yaml").read_text().startswith(OWN)
    registry = load_registry()
    assert list(registry.models)[:2] == ["first", "mine"]
    entry = registry.get("mine")
    assert (entry.prompts.query, entry.prompts.passage, entry.max_tokens, entry.pooling) == (
        "q: ",
        "",
        128,
        "mean",
    )
    with pytest.raises(RegistryError, match="has 'mine' already: choose another"):
        add_model("./model", "mine", accelerator=cpu)


@pytest.mark.slow
def test_a_causal_model_is_seen_to_be_one(cpu: Accelerator, place: Path) -> None:
    folder = tiny.build_sentence_llama(place, pooling="lasttoken", padding_side="left", causal=True)
    add_model(str(folder), "decoder", accelerator=cpu)
    entry = load_registry().get("decoder")
    assert (entry.attention, entry.padding_side, entry.pooling) == ("causal", "left", "last")


@pytest.mark.slow
def test_a_model_that_is_not_as_described_is_not_written(
    tiny_model: Path, cpu: Accelerator, place: Path
) -> None:
    added = add_model(str(tiny_model), "mine", pooling="cls", accelerator=cpu)
    assert added.path is None
    assert [check.name for check in added.checks if check.passed is False] == ["pooling"]
    assert not (place / "models.yaml").exists()


@pytest.mark.slow
def test_a_file_that_nothing_can_be_appended_to_stays_and_the_entry_is_told(
    tiny_model: Path, cpu: Accelerator, place: Path
) -> None:
    text = "models: {first: {adapter: http}}\n"
    (place / "models.yaml").write_text(text)
    with pytest.raises(RegistryError, match=r"copy this below its models:\n  mine:\n"):
        add_model(str(tiny_model), "mine", accelerator=cpu)
    assert (place / "models.yaml").read_text() == text
    assert [path.name for path in place.iterdir()] == ["models.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_dual_tower_is_added_and_embeds_texts_and_images(
    kind: str, zoo: Path, cpu: Accelerator, place: Path
) -> None:
    added = add_model(str(zoo / kind), kind, accelerator=cpu)
    assert added.path is not None, added.checks
    entry = load_registry().get(kind)
    assert entry.adapter == "dual_tower"
    encoder = open_encoder(look_up(load_registry(), kind), cpu)
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    image = Image.new("RGB", (40, 30), "red")
    ours = encoder.embed([Item(text="a red square"), Item(images=(image,))], "query")
    network = AutoModel.from_pretrained(zoo / kind)
    config = network.config.text_config
    tokens = AutoTokenizer.from_pretrained(zoo / kind)(
        ["a red square"],
        padding="max_length" if kind == "siglip" else True,
        max_length=config.max_position_embeddings,
        return_tensors="pt",
    )
    pixels = AutoImageProcessor.from_pretrained(zoo / kind, backend="pil")([image], return_tensors="pt")
    with torch.inference_mode():
        whole = network(input_ids=tokens["input_ids"], pixel_values=pixels["pixel_values"])
    theirs = torch.cat([whole.text_embeds, whole.image_embeds])
    assert ours == pytest.approx(torch.nn.functional.normalize(theirs).numpy(), abs=1e-5)


def test_what_is_no_text_model_is_refused(zoo: Path, cpu: Accelerator, place: Path) -> None:
    with pytest.raises(RegistryError, match="describe it by hand"):
        add_model(str(zoo / "qwen3-vl"), accelerator=cpu)
    with pytest.raises(RegistryError, match="has 'minilm' already"):
        add_model("minilm", accelerator=cpu)
    with pytest.raises(ModelNameError, match="no such folder"):
        add_model("./nothing", accelerator=cpu)
    (place / "empty").mkdir()
    with pytest.raises(RegistryError, match=r"config\.json"):
        add_model("./empty", accelerator=cpu)
