"""A project: a folder with ``retune.yaml``, its artifacts and its history, found from any folder below it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from storage.errors import RetuneError
from storage.files import write_atomic

PROJECT_FILE = "retune.yaml"
PROFILE_ENVIRONMENT = "RETUNE_PROFILE"
DEFAULT_PROFILE = "laptop"

SETTINGS = """\
# The settings of this project: what differs from the profile that it extends. `retune info` prints every setting;
# the command line takes any of them too, as key=value. Paths are relative to this folder.
extends: {profile}
artifact_root: ./output

{corpus}

deploy:
  host_port: {port}  # of the embedding server

# model:
#   base_model: /path/to/model   # a sentence-transformers folder or a hub id
# finetune:
#   num_epochs: 3
# sdg:
#   generator: llm               # questions written by a chat model (docs/documents.md)
"""
OWN_DOCUMENTS = "corpus:\n  corpus_dir: {documents}"
NO_DOCUMENTS = """\
# corpus:
#   corpus_dir: ./documents  # until then, those of the profile: the documentation of Python's standard library"""
IGNORED = "/.dagster/\n/output/\n/embedding_models/\n.env\n"
WORKSPACE = (
    "load_from:\n  - python_module:\n      module_name: assets_pkg.definitions\n      location_name: retune\n"
)

_started_in = Path.cwd()


class ProjectError(RetuneError):
    """A project cannot be made there."""


def enter_project() -> None:
    """Work in the folder of the project that the current folder belongs to, if it belongs to one: relative paths of
    its settings and its history are then found from any folder below."""
    global _started_in
    _started_in = Path.cwd()
    found = project_folder(_started_in)
    if found is not None:
        os.chdir(found)


def project_folder(start: Path) -> Path | None:
    """The nearest folder at or above ``start`` that holds a ``retune.yaml``."""
    return next((folder for folder in (start, *start.parents) if (folder / PROJECT_FILE).is_file()), None)


def profile_name(given: str = "") -> str:
    """The profile to use: ``given`` (a name or a file), that of ``RETUNE_PROFILE``, the project's, or ``laptop``."""
    if given:
        return typed_name(given)
    own = PROJECT_FILE if Path(PROJECT_FILE).is_file() else DEFAULT_PROFILE
    return os.environ.get(PROFILE_ENVIRONMENT) or own


def typed_path(path: Path) -> Path:
    """A path as a person typed it, seen from the folder where they typed it."""
    return path if _started_in == Path.cwd() else _started_in / path


def typed_name(text: str) -> str:
    """A text that may be a name or a path: as :func:`typed_path` where such a file exists."""
    return str(typed_path(Path(text))) if text and (_started_in / text).exists() else text


def typed_override(text: str) -> str:
    """``key=value``, whose value may be a path, as a person typed it."""
    key, equals, value = text.partition("=")
    return f"{key}{equals}{typed_name(value)}"


def make_project(folder: Path, documents: Path | None, profile: str, port: int) -> None:
    """Write the settings of a project with ``documents`` into ``folder``, which may exist.

    Args:
        port: of its embedding server.

    Raises:
        ProjectError: there is a project already, or the documents are no folder.
    """
    if (folder / PROJECT_FILE).exists():
        raise ProjectError(
            f"{folder / PROJECT_FILE} exists: this is a project already; its settings are in that file"
        )
    if documents is not None and not documents.is_dir():
        raise ProjectError(f"{documents}: no such folder: --documents names the folder of your documents")
    folder.mkdir(parents=True, exist_ok=True)
    corpus = NO_DOCUMENTS if documents is None else OWN_DOCUMENTS.format(documents=_quoted(folder, documents))
    for name, text in ((".gitignore", IGNORED), ("workspace.yaml", WORKSPACE)):
        if not (folder / name).exists():
            write_atomic(folder / name, text)
    write_atomic(folder / PROJECT_FILE, SETTINGS.format(profile=profile, corpus=corpus, port=port))


def _quoted(folder: Path, documents: Path) -> str:
    """The documents as a YAML text: relative to the project where they lie in it."""
    documents, folder = documents.resolve(), folder.resolve()
    inside = documents.is_relative_to(folder)
    return json.dumps(f"./{documents.relative_to(folder)}" if inside else str(documents), ensure_ascii=False)
