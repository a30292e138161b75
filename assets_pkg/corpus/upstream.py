"""Documents that an asset of the user's own names: where its latest materialization says that they are."""

from __future__ import annotations

import dagster as dg

from assets_pkg.config.sections.corpus import CorpusSettings
from assets_pkg.corpus.document_source import CorpusError

ASSET = "asset://"
"""Before the key of the asset in ``corpus.corpus_dir``: in place of a folder, it is what the settings show."""

PLACES = ("path", "url", "uri", "dagster/uri")
"""Metadata that names documents, the first that there is."""


def documents_of(settings: CorpusSettings, made: dg.AssetMaterialization) -> CorpusSettings:
    """``settings`` for the documents that ``made`` names in its metadata: a folder, one file (such as a Parquet table,
    whose rows are documents), or a URL of a folder.

    Raises:
        CorpusError: it names none.
    """
    for name in PLACES:
        if name in made.metadata:
            return settings.model_copy(update={"corpus_dir": str(made.metadata[name].value)})
    raise CorpusError(
        f"the latest materialization of {made.asset_key.to_user_string()} names no documents: return "
        'dg.MaterializeResult(metadata={"path": dg.MetadataValue.path(FOLDER_OR_FILE)}) from it, or "url"'
    )
