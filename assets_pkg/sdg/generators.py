"""Chooses the generator of the pairs (chat model or offline), and fingerprints the files that it reads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm import generate_with_llm, prompts_digest
from assets_pkg.sdg.offline import generate_offline
from assets_pkg.sdg.own_pairs import find_files
from resources.chat_model.client import ChatModel
from resources.encoders.base import Encoder
from resources.encoders.factory import UnavailableError, look_up, opener
from resources.machine.accelerator import Accelerator
from resources.models.registry import load_registry
from storage.artifact_store import ArtifactStore
from storage.artifacts import Corpus, Passages
from storage.digests import digest_file, digest_tree
from storage.progress import Progress

RECIPE_EMBEDDING_MODEL = "nvidia/llama-3.2-nv-embedqa-1b-v2"


def generate_pairs(
    corpus: Corpus,
    passages: Passages,
    settings: SdgSettings,
    chat: ChatModel,
    encoder: Encoder,
    folder: Path,
    progress: Progress,
) -> None:
    """Write the records of :class:`~storage.artifacts.QAPairs` by the generator that the settings name."""
    if settings.generator == "llm":
        generate_with_llm(corpus, passages, settings, chat, encoder, folder, progress)
    else:
        generate_offline(corpus, passages, settings, encoder, folder, progress)


def question_encoder(
    settings: SdgSettings,
    store: ArtifactStore,
    accelerator: Callable[[], Accelerator],
    open_base: Callable[[], AbstractContextManager[Encoder]],
) -> AbstractContextManager[Encoder]:
    """The encoder that generated questions are compared with: of ``sdg.embedding_model``, a model of the registry, by
    which near duplicates among a chat model's questions are found; else of the base model, where the setting has the
    recipe's value, which is its base model under an earlier name, or there is no chat model.

    Raises:
        RegistryError: the registry has no such model.
        UnavailableError: it is not on this machine, and not served either.
    """
    if settings.generator != "llm" or settings.embedding_model == RECIPE_EMBEDDING_MODEL:
        return open_base()
    found = look_up(load_registry(), settings.embedding_model)
    if found.problem is not None:
        raise UnavailableError(f"sdg.embedding_model: {found.name}: {found.problem}")
    return closing(opener(found, store, accelerator, **settings.consent())())


def outside_digests(settings: SdgSettings) -> dict[str, str]:
    """Digests of the files that are no assets and determine the pairs: the user's own pairs, the prompts.

    Raises:
        RecordError, PromptError: such a file does not exist.
    """
    if settings.sdg_input_path is not None:
        files = find_files(Path(settings.sdg_input_path).expanduser())
        return {"own_pairs": digest_tree((path.name, digest_file(path)) for path in files)}
    if settings.generator == "llm":
        return {"prompts": prompts_digest(settings.prompts_path)}
    return {}
