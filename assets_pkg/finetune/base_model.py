"""The base model as a checkpoint: any sentence-transformers or transformers model as a folder that
``SentenceTransformer(path)`` loads, with unit vectors and the profile's prompts and maximum length.
"""

from __future__ import annotations

import glob
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from assets_pkg.config.base import ModelSettings
from assets_pkg.finetune.errors import BaseModelError
from assets_pkg.finetune.model_io import check_tokenizer, check_weights, parameter_count
from assets_pkg.finetune.model_modules import (
    check_code_is_here,
    ensure_modules,
    pad_with_the_end_token,
    read_json,
    replace_json,
    set_stock_architecture,
    transformer_folder,
    write_max_length,
)
from assets_pkg.finetune.registered_facts import APPLIED, write_facts
from resources.encoders.loading import admit_weights
from resources.machine.accelerator import Accelerator
from resources.models.entry import ModelEntry
from resources.models.naming import (
    ModelNameError,
    NamedModel,
    find_named,
    max_tokens,
    own_settings,
)
from resources.models.shape import token_positions
from storage.digests import digest_json
from storage.files import copy_file, write_json
from storage.progress import Progress, no_progress

# Other formats of the same weights, which are not needed.
UNWANTED = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf", "onnx/*", "openvino/*", "*.tflite", ".*")
# What trainers keep beside a model to go on from.
OF_A_TRAINER = (
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json",
    "training_args.bin",
)  # fmt: skip
TRAINER_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class _Source:
    folder: Path
    name: str
    revision: str | None = None
    entry: ModelEntry | None = None
    hub_id: str | None = None


def fetch_base_model(
    settings: ModelSettings,
    folder: Path,
    progress: Progress = no_progress,
    host: Accelerator | None = None,
) -> None:
    """Write ``model/consolidated/`` and ``summary.json`` into ``folder``.

    ``settings.base_model`` is a name as `find_named` takes it. Its files are copied: the source may change later. What
    the registry says of its pooling, padding, end token and attention is written into the copy; without that, a plain
    transformers model gets mean pooling. All get normalisation; a bidirectional decoder that would need remote code
    is described by its stock architecture with ``is_causal: false`` instead. Where the model brings other prompts than
    the settings have, ``summary.json`` says so as ``warning``.

    Args:
        host: the CPU, if its free memory is to be checked before the model is loaded on it.

    Raises:
        BaseModelError: the model is not found, incomplete, truncated, or of a type that cannot be tuned.
        NotEnoughMemoryError: the host's memory cannot hold the weights.
    """
    source = _locate(settings)
    _check_whole(source.folder)
    target = folder / "model" / "consolidated"
    shutil.rmtree(folder / "model", ignore_errors=True)
    _copy_files(source.folder, target, progress)
    set_stock_architecture(target, settings)
    ensure_modules(target, source.entry)
    if settings.trust_remote_code:
        check_code_is_here(target)
    check_weights(transformer_folder(target))
    check_tokenizer(transformer_folder(target))
    if source.entry is not None:
        write_facts(target, source.entry)
    warning = replaced_prompts(source, settings)
    _write_contract(target, settings)
    if host is not None:
        admit_weights(target, host, "fp32")
    dimension, max_length = _test_encode(target, settings)
    summary = {
        "source": source.name,
        "hub_id": source.hub_id,
        "revision": source.revision,
        "parameters": parameter_count(target),
        "dimension": dimension,
        "max_length": max_length,
        "licence": licence_of(source.folder),
        "query_prompt": settings.query_prefix,
        "passage_prompt": settings.passage_prefix,
        **({"warning": warning} if warning else {}),
    }
    write_json(folder / "summary.json", summary, ensure_ascii=True)


# ---- the source -----------------------------------------------------------------------------------


def _locate(settings: ModelSettings) -> _Source:
    named = _named(settings)
    entry = named.entry
    if entry is not None and entry.adapter != "sentence_transformer":
        raise BaseModelError(
            f"base_model {named.name!r}: the registry runs it by its adapter {entry.adapter} "
            f"({', '.join(entry.modalities)}): only text models of the adapter sentence_transformer can be tuned"
        )
    if named.folder is not None:
        return _Source(named.folder, named.name, None, entry, named.hub_id)
    if named.hub_id is None:
        raise BaseModelError(
            f"base_model {named.name!r}: its weights are not here, and it has no hub_id to get them"
        )
    return _download(named)


def local_base_model(settings: ModelSettings) -> Path | None:
    """The folder of ``settings.base_model``; None where it would have to be downloaded.

    Raises:
        BaseModelError: the package or folder that should hold it does not exist.
    """
    return _named(settings).folder


def registry_facts(settings: ModelSettings) -> str | None:
    """Digest of what the registry has applied to the base model; None where it says nothing of it."""
    try:
        entry = _named(settings).entry
    except BaseModelError:
        return None  # what was made of it may be in the store; making it anew reports it
    return None if entry is None else digest_json(entry.model_dump(mode="json", include=set(APPLIED)))


def describe_contract(settings: ModelSettings) -> str:
    """How texts are embedded, in one line: shown before anything is measured."""
    query, passage = (
        f"with {prompt!r} before" if prompt else "without a prompt"
        for prompt in (settings.query_prefix, settings.passage_prefix)
    )
    return (
        f"{settings.base_model}: queries {query}, at most {settings.query_max_length} tokens; "
        f"passages {passage}, at most {settings.passage_max_length} tokens"
    )


def _named(settings: ModelSettings) -> NamedModel:
    try:
        return find_named(settings.base_model, settings.revision)
    except ModelNameError as error:
        raise BaseModelError(f"base_model {error}") from error


def _download(named: NamedModel) -> _Source:
    from huggingface_hub import snapshot_download

    name, revision = str(named.hub_id), named.revision
    try:
        unwanted = [*UNWANTED, *OF_A_TRAINER]
        folder = snapshot_download(name, revision=revision, ignore_patterns=[*unwanted, "*.bin"])
        not_needed = _bin_files_not_needed(Path(folder))
        folder = snapshot_download(name, revision=revision, ignore_patterns=[*unwanted, *not_needed])
    except Exception as error:
        raise BaseModelError(
            f"base_model {name!r} (revision {revision or 'main'}) is neither a local folder nor available from "
            f"the Hugging Face hub ({type(error).__name__}: {str(error).splitlines()[0]}): check the name, "
            "HF_TOKEN for gated models and the network, or set model.base_model to a folder that holds it"
        ) from error
    return _Source(Path(folder), named.name, Path(folder).name, named.entry, name)


def _bin_files_not_needed(folder: Path) -> list[str]:
    """Patterns of the files whose weights ``folder`` has as safetensors, module by module."""
    inside = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    return ["pytorch_model*.bin" if each == "." else f"{glob.escape(each)}/*.bin" for each in sorted(inside)]


# ---- the folder --------------------------------------------------------------------------------------------


def _copy_files(source: Path, target: Path, progress: Progress) -> None:
    files = _wanted_files(source)
    for done, path in enumerate(files, start=1):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy_file(path.resolve(), copy)
        progress(done, len(files), "files")
    if not files:
        raise BaseModelError(f"base model folder {source} is empty")


def _check_whole(source: Path) -> None:
    """Check that ``source`` is a model, and not an adapter for one or the checkpoints of a trainer.

    Raises:
        BaseModelError: it is not; says what to do.
    """
    for folder in (source, transformer_folder(source)):
        path = folder / "adapter_config.json"
        if path.exists() and not (folder / "config.json").exists():
            raise BaseModelError(
                f"{folder}: an adapter of {read_json(path).get('base_model_name_or_path')!r}, not a model: merge it. "
                "Load that base as model = SentenceTransformer(...), set model[0].model = PeftModel.from_pretrained("
                f"model[0].model, {str(folder)!r}).merge_and_unload(), save it with model.save_pretrained(...), and "
                "set model.base_model to that folder"
            )
    checkpoints = [path for path in source.iterdir() if TRAINER_CHECKPOINT.fullmatch(path.name)]
    if checkpoints and not any((source / name).exists() for name in ("modules.json", "config.json")):
        newest = max(checkpoints, key=lambda path: int(path.name.partition("-")[2]))
        raise BaseModelError(
            f"{source}: only a trainer's checkpoints: set model.base_model to one of them, such as {newest}"
        )


def _wanted_files(source: Path) -> list[Path]:
    """The files of the model in ``source``: of weights in two formats in one folder, the safetensors only."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and not _unwanted(path, source)]
    in_safetensors = {path.parent for path in files if path.suffix == ".safetensors"}
    return [path for path in files if path.suffix != ".bin" or path.parent not in in_safetensors]


def _unwanted(path: Path, root: Path) -> bool:
    relative = path.relative_to(root)
    parts = relative.parts
    return any(
        part.startswith(".") or part == "__pycache__" or TRAINER_CHECKPOINT.fullmatch(part) for part in parts
    ) or any(relative.match(pattern) for pattern in (*UNWANTED, *OF_A_TRAINER))


def replaced_prompts(source: _Source, settings: ModelSettings) -> str | None:
    """What to tell a user whose settings have other prompts than the model brings; None where they agree, or where the
    model brings none. A base measured without its prompts looks worse than it is, and the gain of tuning better."""
    own = own_settings(NamedModel(source.name, source.folder, entry=source.entry))
    differ = [
        f"model.{field} is {used!r}, and the model's own is {found!r}"
        for field, used, found in (
            ("query_prefix", settings.query_prefix, own.query),
            ("passage_prefix", settings.passage_prefix, own.passage),
        )
        if found and found != used
    ]
    if not differ:
        return None
    return (
        f"base_model {settings.base_model} has prompts of its own: {'; '.join(differ)}. It is measured, trained and "
        "served with those of the settings: set them to null, which is the model's own, unless you mean to replace them"
    )


def _write_contract(target: Path, settings: ModelSettings) -> None:
    """Write the profile's prompts and maximum length to sentence-transformers' configuration."""
    path = target / "config_sentence_transformers.json"
    config = read_json(path) if path.exists() else {}
    query, passage = settings.query_prefix, settings.passage_prefix
    config["prompts"] = {"query": query, "document": passage, "passage": passage}
    config["default_prompt_name"] = None
    replace_json(path, config)
    wanted = max(settings.query_max_length, settings.passage_max_length)
    write_max_length(target, min(max_tokens(transformer_folder(target)) or wanted, wanted))


def _test_encode(target: Path, settings: ModelSettings) -> tuple[int, int]:
    """Load the model and encode a text; returns its dimensions and maximum length."""
    import torch

    from assets_pkg.finetune.model_io import load_model

    try:
        model = load_model(target, "cpu", trust_remote_code=settings.trust_remote_code)
        pad_with_the_end_token(target, model.tokenizer)
        positions = token_positions(model.config, model.modules())
        if positions is not None and positions < int(model.max_seq_length or 0):
            write_max_length(target, positions)
            model.max_seq_length = positions
        vector = model.encode_query("a short text", convert_to_tensor=True)
    except Exception as error:
        raise BaseModelError(
            f"base_model {settings.base_model!r} does not load: {str(error).strip().splitlines()[0]} "
            f"{_needs_code(target)}"
        ) from error
    if not bool(torch.isfinite(vector).all()):
        raise BaseModelError(f"base_model {settings.base_model!r} gives vectors that are not finite numbers")
    return int(vector.numel()), int(model.max_seq_length or 0)


def _needs_code(target: Path) -> str:
    """What to do if it is the model's own code that is missing."""
    path = transformer_folder(target) / "config.json"
    modules = read_json(target / "modules.json")
    own_modules = any(not str(module["type"]).startswith("sentence_transformers.") for module in modules)
    if not own_modules and (not path.exists() or "auto_map" not in read_json(path)):
        return "(is the copy complete, and the model one of sentence-transformers or transformers?)"
    return "(a model that needs its own code also needs model.trust_remote_code=true and a pinned revision)"


def licence_of(source: Path) -> str | None:
    """The ``license`` of the model card's front matter."""
    card = source / "README.md"
    if not card.exists():
        return None
    head = card.read_text("utf-8", errors="replace").split("\n---", 1)[0]
    found = re.search(r"^license:\s*(\S+)", head, flags=re.MULTILINE)
    return found.group(1) if found else None
