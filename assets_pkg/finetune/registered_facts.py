"""What the registry says of a model, written into its folder, so that everything that loads it does the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resources.encoders.registered_text import POOLINGS, append_end_token, is_decoder
from resources.models.entry import ModelEntry
from resources.models.files import tokenizer_folder, transformer_folder
from storage.files import write_json

FLAGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "lasttoken": "pooling_mode_lasttoken",
}
"""How sentence-transformers before 5 wrote its poolings."""

APPLIED = ("pooling", "padding_side", "append_eos", "attention")
"""The facts that are written here. Prompts and lengths are settings of the profile."""


def write_facts(folder: Path, entry: ModelEntry) -> None:
    """Write pooling, padding side, end token and direction of attention of ``entry`` into the sentence-transformers
    folder ``folder``. What the registry does not say, and what is so already, stays as it is, byte for byte."""
    config = transformer_folder(folder) / "config.json"
    if entry.pooling in POOLINGS:
        _write_pooling(folder, POOLINGS[entry.pooling])
    if entry.attention is not None and is_decoder(_read(config)):
        _change(config, is_causal=(entry.attention == "causal", True))
    if entry.padding_side is not None:
        _change(
            tokenizer_folder(folder) / "tokenizer_config.json", padding_side=(entry.padding_side, "right")
        )
    if entry.append_eos:
        _write_end_token(tokenizer_folder(folder))


def _write_pooling(folder: Path, mode: str) -> None:
    modules: list[dict[str, Any]] = json.loads((folder / "modules.json").read_text("utf-8"))
    for module in modules:
        if not str(module["type"]).endswith(".Pooling"):
            continue
        path = folder / module["path"] / "config.json"
        config = _read(path)
        known = {name: value for name, value in config.items() if name.startswith("pooling_mode") and value}
        if list(known) != [FLAGS[mode]] and known != {"pooling_mode": mode}:
            kept = {name: value for name, value in config.items() if not name.startswith("pooling_mode")}
            _write(path, {**kept, "pooling_mode": mode})


def _write_end_token(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    if append_end_token(tokenizer):
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def _change(path: Path, **changes: tuple[Any, Any]) -> None:
    """Set values of a JSON file, each given with what it is where the file does not name it."""
    config = _read(path)
    if any(config.get(name, default) != value for name, (value, default) in changes.items()):
        _write(path, {**config, **{name: value for name, (value, _) in changes.items()}})


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _write(path: Path, value: Any) -> None:
    write_json(path, value, indent=2, ensure_ascii=True)
