"""Chooses the generator of the pairs (chat model or offline), and fingerprints the files that it reads."""

from __future__ import annotations

from pathlib import Path

from assets_pkg.config.sections.sdg import SdgSettings
from assets_pkg.sdg.llm import generate_with_llm, prompts_digest
from assets_pkg.sdg.offline import generate_offline
from assets_pkg.sdg.own_pairs import find_files
from resources.chat_model import ChatModel
from resources.encoders.base import Encoder
from storage.artifacts import Corpus, Passages
from storage.digests import digest_file, digest_tree
from storage.progress import Progress


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
