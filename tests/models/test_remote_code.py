"""A model folder's own code never runs, and nobody is asked whether it may: it is refused, or done without."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.profile_files import load_profile
from assets_pkg.export.onnx import load_checkpoint
from assets_pkg.finetune.base_model import fetch_base_model
from resources.encoders.encoder_config import EncoderConfig
from resources.encoders.factory import look_up, open_encoder
from resources.encoders.sentence_transformer import SentenceTransformerEncoder
from resources.encoders.token_counter import token_counter
from resources.machine.accelerator import Accelerator
from resources.models.commands import check_model
from resources.models.entry import ModelEntry
from resources.models.registry import Registry
from storage.errors import RetuneError

CODE = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import AutoModel as Model, PretrainedConfig as Config
from transformers import BaseImageProcessor as Images, PreTrainedTokenizerFast as Tokenizer
from sentence_transformers.models import Normalize as Module
"""
AUTO_MAP = {
    "AutoConfig": "own.Config",
    "AutoModel": "own.Model",
    "AutoTokenizer": ["own.Tokenizer", None],
    "AutoImageProcessor": "own.Images",
    "AutoProcessor": "own.Images",
}
Arm = Callable[..., Path]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "the-code-ran"


@pytest.fixture
def arm(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Arm:
    """A copy of a model folder that brings code for whatever can be code, ``unknown``: of types that nobody knows."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("somebody is asked"))

    def make(source: Path, *, unknown: bool, own_modules: bool = False) -> Path:
        folder = tmp_path / "armed" / source.name
        shutil.copytree(source, folder)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        (folder / "own.py").write_text(CODE.format(marker=str(marker)))
        for name in ("config", "tokenizer_config", "preprocessor_config", "processor_config"):
            path = folder / f"{name}.json"
            if path.exists():
                changed = {**json.loads(path.read_text()), "auto_map": AUTO_MAP}
                if unknown:
                    changed["model_type" if name == "config" else "tokenizer_class"] = "nobody_knows"
                    changed.update({"image_processor_type": "Nobodys"} if "process" in name else {})
                path.write_text(json.dumps(changed))
        if own_modules:
            path = folder / "modules.json"
            modules = [
                *json.loads(path.read_text()),
                {"idx": 9, "name": "9", "path": "", "type": "own.Module"},
            ]
            path.write_text(json.dumps(modules))
        return folder

    return make


def nothing_ran(marker: Path, load: Callable[[], object]) -> None:
    """``load`` works without the folder's code, or fails with an error for people."""
    with suppress(RetuneError, ValueError):
        load()
    assert not marker.exists()


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("name", ["qwen3-vl", "clip", "siglip", "llama"])
def test_no_adapter_and_no_check_runs_it(
    name: str,
    unknown: bool,
    zoo: Path,
    entries: dict[str, ModelEntry],
    cpu: Accelerator,
    arm: Arm,
    marker: Path,
) -> None:
    root = arm(zoo / name, unknown=unknown).parent
    registry = Registry(Path("models.yaml"), entries)
    nothing_ran(marker, lambda: open_encoder(look_up(registry, name, root), cpu).embed(["a text"], "query"))
    found = check_model(registry, name, root, accelerator=cpu)
    assert found.passed or found.problems
    assert not marker.exists()


@pytest.mark.parametrize(("unknown", "own_modules"), [(False, False), (True, False), (False, True)])
def test_no_stage_runs_it(
    unknown: bool,
    own_modules: bool,
    tiny_model: Path,
    cpu: Accelerator,
    arm: Arm,
    marker: Path,
    tmp_path: Path,
) -> None:
    folder = arm(tiny_model, unknown=unknown, own_modules=own_modules)
    model: ModelSettings = load_profile("laptop", [f"base_model={folder}"]).model
    (tmp_path / "base").mkdir()
    nothing_ran(marker, lambda: fetch_base_model(model, tmp_path / "base"))
    nothing_ran(marker, lambda: token_counter(folder, "")(["a text"]))
    nothing_ran(marker, lambda: load_checkpoint(folder))
    config = EncoderConfig(query_max_length=16, passage_max_length=16)
    nothing_ran(
        marker, lambda: SentenceTransformerEncoder(folder, "d", cpu, config).embed(["a text"], "query")
    )
