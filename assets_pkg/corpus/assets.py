"""The ``corpus`` group: documents as they are read, and their passages."""

from itertools import islice

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.corpus.file_digests import DIGEST_CACHE
from assets_pkg.corpus.passages import split_passages
from assets_pkg.corpus.sources import read_corpus, source_fingerprint
from assets_pkg.orchestration.asset_context import asset_context, stage_asset
from assets_pkg.orchestration.metadata import numbers, table
from resources.configurable import ArtifactStoreResource, ComputeResource
from storage.artifact_store import ArtifactStore
from storage.artifacts import Corpus, Passages

SHOWN = 8
SOURCE_FINGERPRINT = "fingerprint"


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``corpus`` group."""

    @stage_asset("corpus", profile.corpus, kinds={"parquet"}, logic="2")
    def raw_corpus(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """The documents as they were last read; those that could not be used are listed with the reason."""
        with asset_context(context, store, compute) as asset:
            corpus = asset.build(
                Corpus,
                lambda folder: read_corpus(profile.corpus, folder, asset.progress()),
                outside={"source": source_fingerprint(profile.corpus)},
            )
            shown = {
                **numbers(corpus.summary()),
                "skipped_files": table(corpus.skipped()[:SHOWN]),
                "sample": table(
                    {"document": d.doc_id, "title": d.title} for d in islice(corpus.documents(), SHOWN)
                ),
            }
            return asset.result(corpus, shown)

    @stage_asset("corpus", profile.passages, deps=("raw_corpus",), kinds={"parquet"}, logic="2")
    def passages(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """The documents cut into pieces of a few whole sentences: what is embedded, searched and found."""
        with asset_context(context, store, compute) as asset:
            corpus = asset.input(Corpus, "raw_corpus")
            made = asset.build(
                Passages,
                lambda folder: split_passages(corpus, profile.passages, folder, asset.progress()),
            )
            rows = ({"document": p.doc_id, "section": p.section, "passage": p.text} for p in made.passages())
            return asset.result(made, {**numbers(made.summary()), "sample": table(islice(rows, SHOWN))})

    return [raw_corpus, passages]


def documents_changed(made: dg.AssetMaterialization, profile: Profile, store: ArtifactStore) -> str | None:
    """Whether the documents differ from those that ``raw_corpus`` read."""
    now = source_fingerprint(profile.corpus, store.root / DIGEST_CACHE)
    if now == made.metadata[SOURCE_FINGERPRINT].value:
        return None
    return f"documents in {profile.corpus.corpus_dir} changed"
