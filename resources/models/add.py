"""``retune models add``: an entry for a text model or dual tower, with facts that were read and measured, in the
user's models.yaml."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.models.entry import ModelEntry, Pooling
from resources.models.files import check_files, graph_file, read_config
from resources.models.locations import weights_root
from resources.models.naming import NamedModel, find_named, folder_length, folder_prompts
from resources.models.registry import FILE_NAME, RegistryError, load_registry, read_models, user_path
from storage.files import write_atomic

if TYPE_CHECKING:
    from resources.encoders.conformance import Check
    from resources.machine.accelerator import Accelerator

MEASURED = "read and measured by `retune models add`"
DUAL_TOWERS: dict[str, dict[str, Any]] = {
    "clip": {"pooling": "eos", "attention": "causal"},
    "siglip": {"pooling": "attention", "attention": "bidirectional", "pad_to_max": True},
}
"""What the transformers documentation says of each ``model_type``."""
HEADER = "# Your own models, over those that come with Retune: `retune models list` shows all.\nmodels:\n"


@dataclass(frozen=True)
class Draft:
    """An entry to be written: its name, its facts as values of YAML, and the model's folder."""

    name: str
    facts: dict[str, Any]
    folder: Path

    @property
    def entry(self) -> ModelEntry:
        return ModelEntry.model_validate(self.facts)


def locate(target: str) -> NamedModel:
    """The model to add, a folder or a hub id; its ``folder`` is None where it has to be downloaded first.

    Raises:
        RegistryError: the registry has it already.
        ModelNameError: there is no such folder, and it is no hub id.
    """
    named = find_named(target)
    if named.entry is not None:
        raise RegistryError(f"{load_registry().path} has {target!r} already: retune models show {target}")
    return named


def minimal_facts(named: NamedModel, pooling: Pooling | None = None) -> dict[str, Any]:
    """What locates a model and says which adapter runs it, before anything is known of it."""
    facts: dict[str, Any] = {}
    if named.hub_id is not None:
        facts["hub_id"] = named.hub_id
        facts |= {"revision": named.revision} if named.revision else {}
    folder = named.folder
    if folder is not None:
        below = folder.absolute().is_relative_to(weights_root().absolute())
        own = folder.absolute().relative_to(weights_root().absolute()) if below else folder.absolute()
        facts["folder"] = str(own)
    elif named.hub_id is not None:
        facts["folder"] = named.hub_id.rpartition("/")[2]
    only_graph = (
        folder is not None and graph_file(folder) is not None and not any(folder.glob("*.safetensors"))
    )
    facts["adapter"] = "onnx" if only_graph else "sentence_transformer"
    if pooling is not None:
        facts["pooling"] = pooling
    return facts


def draft(named: NamedModel, name: str, facts: dict[str, Any], accelerator: Accelerator) -> Draft:
    """The entry with everything that the folder says and that a few texts show: sizes, prompts, padding, attention.

    Raises:
        RegistryError: the folder is not that of a model that embeds texts, or says nothing of its pooling.
        EncoderError: the model cannot be loaded.
    """
    folder = named.folder
    assert folder is not None
    problems = check_files(name, ModelEntry.model_validate(facts), folder)
    if problems:
        raise RegistryError("; ".join(problem.text for problem in problems))
    kind = read_config(folder).get("model_type")
    if kind == "qwen3_vl":
        raise RegistryError(
            f"{folder}: how {kind} is asked for a vector is not in its folder: describe it by hand, as models.yaml "
            "describes qwen3-vl-embedding-2b"
        )
    found = {
        **facts,
        "dtype": "fp32",
        **(_tower_facts(folder) if kind in DUAL_TOWERS else _text_facts(folder, facts)),
    }
    found |= {"model_types": [kind]} if isinstance(kind, str) else {}
    found |= _measured(folder, ModelEntry.model_validate(found), accelerator)
    return Draft(name, {**found, "sources": {"default": MEASURED}}, folder)


def _text_facts(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    query, passage = folder_prompts(folder)
    length = folder_length(folder)
    return {
        "pooling": given.get("pooling") or _own_pooling(folder),
        **({"prompts": {"query": query, "passage": passage}} if query or passage else {}),
        **({"max_tokens": length} if length is not None else {}),
    }


def _tower_facts(folder: Path) -> dict[str, Any]:
    from resources.encoders.loading import transformers

    tokenizer = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    config = transformers().AutoConfig.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    lowercase = str(tokenizer.get("tokenizer_class", "")).startswith(
        "Gemma"
    )  # SigLIP 2: its texts were lower case
    return {
        "adapter": "dual_tower",
        "modalities": ["text", "image"],
        "max_tokens": int(config.text_config.max_position_embeddings),
        **({"lowercase": True} if lowercase else {}),
        **DUAL_TOWERS[config.model_type],
    }


def checks_of(drafted: Draft, accelerator: Accelerator) -> list[Check]:
    """The truth checks of the entry. Raises `EncoderError`."""
    from resources.encoders.conformance import truth_checks

    encoder = _open(drafted.folder, drafted.entry, accelerator)
    try:
        return truth_checks(drafted.entry, encoder)
    finally:
        encoder.close()


def write_entry(drafted: Draft) -> Path:
    """Append the entry to the user's ``models.yaml``, which is made if need be; what is in it stays as it is.

    Raises:
        RegistryError: the file has the name already, or is written in a way that nothing can be appended to; the
            message then has the entry, to be copied.
    """
    path = user_path() or Path(FILE_NAME)
    before = read_models(path) if path.exists() else {}
    if drafted.name in before:
        raise RegistryError(f"{path} has {drafted.name!r} already: choose another name with --name")
    block = _block(drafted)
    text = path.read_text("utf-8") if path.exists() else HEADER
    whole = f"{text.rstrip()}\n{block}"
    written = path.with_name(f".{path.name}.new")
    write_atomic(written, whole)
    try:
        if read_models(written) != {**before, drafted.name: drafted.facts}:
            raise RegistryError("another content")
        load_registry(written)
    except RegistryError:
        written.unlink()
        raise RegistryError(
            f"{path}: nothing can be appended to it: copy this below its models:\n{block}"
        ) from None
    written.replace(path)
    return path


def _block(drafted: Draft) -> str:
    import yaml

    text: str = yaml.safe_dump({drafted.name: drafted.facts}, sort_keys=False, allow_unicode=True)
    return "".join(f"  {line}\n" for line in text.splitlines())


def _own_pooling(folder: Path) -> str:
    """The registry's name of the folder's pooling."""
    from resources.encoders.hub_onnx import folder_pooling

    found = folder_pooling(folder)
    if found is None:
        raise RegistryError(
            f"{folder}: has no 1_Pooling/config.json that says how token states become one vector: the model's card "
            "does: give it with --pooling mean, cls or last"
        )
    return {"lasttoken": "last"}.get(found, found)


def _measured(folder: Path, entry: ModelEntry, accelerator: Accelerator) -> dict[str, Any]:
    from resources.encoders.conformance import SAME_STATE, attention_direction, observed, observed_padding

    encoder = _open(folder, entry, accelerator)
    try:
        facts: dict[str, Any] = {"dimensions": int(encoder.embed(["a text"], "passage").shape[1])}
        if not hasattr(encoder, "observe"):
            return facts
        seen = observed(encoder)
        alone, padded = attention_direction(encoder, seen, SAME_STATE["fp32"])
        return {
            **facts,
            "padding_side": observed_padding(seen),
            **({"attention": padded} if alone == padded else {}),
        }
    finally:
        encoder.close()


def _open(folder: Path, entry: ModelEntry, accelerator: Accelerator) -> Any:
    from resources.encoders.factory import LOCAL

    return LOCAL[entry.adapter](folder, entry, "0", accelerator)
