"""Questions about the documents, with the passages that answer them."""

from itertools import islice
from pathlib import Path

import dagster as dg

from assets_pkg.door import open_door, stage_asset
from assets_pkg.profile import Profile
from assets_pkg.sdg.offline import generate_offline
from assets_pkg.showing import numbers, table
from resources.artifacts import ArtifactStoreResource
from resources.encoders.resource import EncoderResource
from storage.artifacts import Checkpoint, Corpus, Passages, QAPairs
from storage.formats.qa_records import read_records

SHOWN = 10


def build_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The ``sdg`` group."""
    deps = ("raw_corpus", "passages", "base_model")

    @stage_asset("sdg", profile.sdg, profile.model, deps=deps, accelerated=True, kinds={"json"})
    def synthetic_qa(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, encoders: EncoderResource
    ) -> dg.MaterializeResult:
        """Question-passage pairs in the recipe's record format, each scored by round-trip retrieval."""
        with open_door(context, store) as door:
            corpus = door.input(Corpus, "raw_corpus")
            passages = door.input(Passages, "passages")
            base = door.input(Checkpoint, "base_model")

            def produce(folder: Path) -> None:
                with encoders.open(base) as encoder:
                    generate_offline(corpus, passages, profile.sdg, encoder, folder, door.progress())

            pairs = door.build(QAPairs, produce)
            rows = (
                {"document": record.file_name[0], "question": pair.question}
                for record in read_records(pairs.records)
                for pair in record.deduplicated_qa_pairs[:1]
            )
            return door.result(pairs, {**numbers(pairs.summary()), "sample": table(islice(rows, SHOWN))})

    return [synthetic_qa]
