"""Fingerprints of the inputs that are no assets: files named in the settings, and the frozen eval set."""

from __future__ import annotations

from pathlib import Path

from assets_pkg.config.sections.prep import PrepSettings
from assets_pkg.prep.errors import PrepError
from assets_pkg.prep.eval_set import find_beir, frozen_eval_set
from assets_pkg.prep.training_set import training_file_fingerprint
from storage.artifact_store import ArtifactStore
from storage.digests import digest_file, digest_json
from storage.formats.beir import beir_fingerprint

FINGERPRINT = "fingerprint"


def training_fingerprint(settings: PrepSettings) -> str:
    """Fingerprint of the files that training questions and groups are read from; empty if there are none.

    Raises:
        PrepError: ``train_input_file`` does not exist.
    """
    if settings.train_input_file is None:
        return _groups_fingerprint(settings)
    path = Path(settings.train_input_file)
    if not path.is_file():
        raise PrepError(f"prep.train_input_file = {path}: no such file")
    return training_file_fingerprint(path)


def eval_set_fingerprint(settings: PrepSettings, store: ArtifactStore) -> str:
    """Fingerprint of what determines the eval set: the frozen version, a BEIR folder, or groups; empty if there is
    none.

    Raises:
        PrepError: ``eval_data_path`` does not exist, or the eval set is frozen already.
    """
    frozen = frozen_eval_set(store)
    if settings.eval_data_path is None:
        return frozen.version if frozen else _groups_fingerprint(settings)
    path = Path(settings.eval_data_path)
    if not path.is_dir():
        raise PrepError(f"prep.eval_data_path = {path}: no such folder")
    if frozen and not settings.freeze_eval_set:
        raise PrepError(
            f"prep.eval_data_path = {path}: the eval set is frozen at {frozen.version}; release it first "
            "(retune eval-set release), or freeze this one instead (retune eval-set import PATH)"
        )
    return frozen.version if frozen else beir_fingerprint(find_beir(path))


def _groups_fingerprint(settings: PrepSettings) -> str:
    files = settings.groups_files
    return (
        digest_json([digest_file(file) if file.is_file() else str(file) for file in files]) if files else ""
    )
