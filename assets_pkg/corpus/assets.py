"""The ``corpus`` group: documents as they are read, and their passages."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import dagster as dg

from assets_pkg.config.base import ModelSettings
from assets_pkg.config.profile import Profile
from assets_pkg.config.sections.corpus import PassageSettings, TokenLimitSettings
from assets_pkg.corpus.passage_units import TokenLimit
from assets_pkg.corpus.passages import REPEATED_FILE, split_passages
from assets_pkg.corpus.sources import read_corpus, source_fingerprint
from assets_pkg.corpus.upstream import documents_of
from assets_pkg.orchestration.asset_context import asset_context
from assets_pkg.orchestration.metadata import numbers, table
from assets_pkg.orchestration.stage_asset import stage_asset
from assets_pkg.orchestration.upstream import inputs_of_check
from resources.configurable import ArtifactStoreResource, ComputeResource
from resources.encoders.token_counter import token_counter
from resources.language import ENGLISH
from resources.models.registry import load_registry
from storage.artifact_store import ArtifactStore
from storage.artifacts import SKIPPED_FILE, WARNINGS_FILE, Checkpoint, Corpus, Passages
from storage.paths import CACHE

SHOWN = 8
LISTED = 50
"""Files on the page of the corpus that are skipped, or that something is to be known of."""

NAMED = 5
"""Of them in the terminal."""

MANY_ENDED = 0.05
"""Share of passages ended by the limit above which the check warns."""

MANY_NOT_ENGLISH = 0.2
"""Share of documents in other languages above which an English base model is pointed out."""

SOURCE_FINGERPRINT = "fingerprint"


def build_assets(
    profile: Profile, corpus_asset: dg.AssetKey | None = None
) -> list[dg.AssetsDefinition | dg.AssetChecksDefinition]:
    """The ``corpus`` group.

    Args:
        corpus_asset: of the user's own, which names the documents.
    """

    read = () if corpus_asset is None else (corpus_asset,)

    @stage_asset("corpus", profile.corpus, deps=read, kinds={"parquet"}, logic="2")
    def raw_corpus(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """The documents as they were last read; those that could not be used are listed with the reason."""
        # What the user's asset has made is read here: a job knows only what the settings say.
        with asset_context(context, store, compute if corpus_asset is None else None) as asset:
            cache, settings = asset.store.root / CACHE, profile.corpus
            if corpus_asset is not None:
                settings = documents_of(settings, asset.recorded(corpus_asset))
            corpus = asset.build(
                Corpus,
                lambda folder: read_corpus(settings, folder, asset.progress(), cache),
                outside={"source": source_fingerprint(settings, cache)},
            )
            summary = corpus.summary()
            for said in said_of_corpus(corpus):
                asset.note(said)
            if advice := language_advice(summary.get("languages", {}), profile.model.base_model):
                asset.note(advice)
            shown = {
                **numbers(summary),
                "files_by_type": text_of_counts(summary.get("files_by_type", {})),
                "languages": text_of_counts(summary.get("languages", {})),
                "skipped_files": _listed(corpus.skipped(), "reason"),
                "warnings_about_files": _listed(corpus.warnings(), "warning"),
                "sample": table(
                    {"document": d.doc_id, "title": d.title} for d in islice(corpus.documents(), SHOWN)
                ),
            }
            return asset.result(corpus, shown)

    return [raw_corpus, _passages(profile), _passages_end_at_sentences(profile)]


def _listed(rows: Sequence[Mapping[str, str]], said: str) -> dg.MarkdownMetadataValue:
    return table({"document": row["doc_id"], said: row[said]} for row in rows[:LISTED])


def said_of_corpus(corpus: Corpus) -> Iterator[str]:
    """What the user should know of what was left out, and of how documents were read."""
    summary = corpus.summary()
    if skipped := summary["skipped"]:
        counts = text_of_counts(summary["skipped_by_reason"])
        yield f"{skipped:,} documents are skipped ({counts}): {corpus.path / SKIPPED_FILE} lists them"
        for row in corpus.skipped()[: min(skipped, NAMED)]:
            yield f"skipped {row['doc_id']}: {row['reason']}"
    if warned := summary.get("warnings"):
        yield f"{warned:,} warnings about documents that were read: {corpus.path / WARNINGS_FILE} lists them"


def _said_of_repetition(made: Passages) -> str:
    summary = made.summary()
    said: list[str] = []
    if lines := summary.get("repeated_lines"):
        count = summary["repeated_characters"]
        said.append(
            f"{lines:,} lines that come again in many documents are left out ({count:,} characters): "
            f"{made.path / REPEATED_FILE} lists them"
        )
    if merged := summary.get("documents_merged"):
        said.append(f"{merged:,} copies of documents are left out; the index names them in also_in")
    return "; ".join(said)


def language_advice(languages: Mapping[str, int], base_model: str) -> str:
    """What to say of a base model that the registry has as English, and a corpus that is not; else nothing."""
    others = {name: count for name, count in languages.items() if name != ENGLISH}
    if sum(others.values()) <= MANY_NOT_ENGLISH * sum(languages.values()):
        return ""
    registry = load_registry()
    known = {base_model, base_model.removeprefix("package://")}
    entries = (e for name, e in registry if known & {name, e.hub_id, e.package, *e.aliases})
    entry = next(entries, None)
    if entry is None or entry.languages != "english":
        return ""
    multilingual = ", ".join(name for name, each in registry if each.languages == "multilingual")
    return (
        f"{base_model} was trained for English, but documents are in other languages ({text_of_counts(others)}): "
        f"model.base_model names another; multilingual ones of the registry: {multilingual}"
    )


def text_of_counts(counts: Mapping[str, int]) -> str:
    """``12 pdf, 3 html``."""
    return ", ".join(f"{count:,} {name or 'without extension'}" for name, count in counts.items())


def _passages(profile: Profile) -> dg.AssetsDefinition:
    tokens = _token_limit(profile)
    deps, limits = (("raw_corpus",), ()) if tokens is None else (("raw_corpus", "base_model"), (tokens,))

    @stage_asset("corpus", profile.passages, *limits, deps=deps, kinds={"parquet"}, logic="2")
    def passages(
        context: dg.AssetExecutionContext, store: ArtifactStoreResource, compute: ComputeResource
    ) -> dg.MaterializeResult:
        """The documents cut into pieces of a few whole sentences: what is embedded, searched and found."""
        with asset_context(context, store, compute) as asset:
            corpus = asset.input(Corpus, "raw_corpus")

            def produce(folder: Path) -> None:
                limit = None
                if tokens is not None:
                    model = asset.input(Checkpoint, "base_model").model
                    trusted = profile.model.trust_remote_code
                    count = token_counter(model, tokens.passage_prefix, trust_remote_code=trusted)
                    limit = TokenLimit(tokens.max_tokens, count)
                split_passages(corpus, profile.passages, folder, asset.progress(), limit)

            made = asset.build(Passages, produce)
            for text in filter(None, (_ended(made, profile.passages), _truncated(tokens, profile.model))):
                asset.note(text)
            rows = ({"document": p.doc_id, "section": p.section, "passage": p.text} for p in made.passages())
            return asset.result(made, {**numbers(made.summary()), "sample": table(islice(rows, SHOWN))})

    return passages


def _token_limit(profile: Profile) -> TokenLimitSettings | None:
    most = profile.passages.max_chunk_tokens
    if most is None:
        return None
    most = profile.model.passage_max_length if most == "model" else most
    return TokenLimitSettings(max_tokens=most, passage_prefix=profile.model.passage_prefix)


def _passages_end_at_sentences(profile: Profile) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset="passages",
        description="Few passages are ended by the limit of their length, before sentences_per_chunk sentences.",
    )
    def few_ended_by_limit(
        context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
    ) -> dg.AssetCheckResult:
        made = inputs_of_check(context, store).input(Passages, "passages")
        summary, said = made.summary(), _ended(made, profile.passages)
        names = ("limit", "ended_by_limit", "ended_in_sentence")
        shown = numbers({name: summary[name] for name in names if name in summary})
        shown |= {"what_to_do": said} if said else {}
        return dg.AssetCheckResult(
            passed=summary.get("ended_by_limit", 0) <= MANY_ENDED * summary["passages"],
            severity=dg.AssetCheckSeverity.WARN,
            metadata={**shown, "examples": table(summary.get("ended_examples", []))},
        )

    return few_ended_by_limit


def _ended(made: Passages, settings: PassageSettings) -> str:
    """What to say of passages that the limit ended; nothing where there are none, or an earlier version of Retune did
    not count them."""
    summary = made.summary()
    ended, total = summary.get("ended_by_limit", 0), summary["passages"]
    if not ended:
        return ""
    first = summary["ended_examples"][0]
    setting = (
        "model.passage_max_length" if settings.max_chunk_tokens == "model" else "passages.max_chunk_tokens"
    )
    return (
        f"{ended:,} of {total:,} passages are ended by the limit of {summary['limit']}, before "
        f"{settings.sentences_per_chunk} sentences, {summary['ended_in_sentence']:,} of them within a sentence; the "
        f"first is passage {first['passage']} of {first['document']}. {setting} sets another limit"
    )


def _truncated(limit: TokenLimitSettings | None, model: ModelSettings) -> str:
    """What to say of a limit that is longer than what the model reads."""
    if limit is None or limit.max_tokens <= model.passage_max_length:
        return ""
    return (
        f"passages may have {limit.max_tokens:,} tokens, and the model reads {model.passage_max_length:,} of them: "
        f"passage_max_length={limit.max_tokens} if it can read as many, else max_chunk_tokens=model"
    )


def documents_changed(made: dg.AssetMaterialization, profile: Profile, store: ArtifactStore) -> str | None:
    """Whether the documents differ from those that ``raw_corpus`` read."""
    now = source_fingerprint(profile.corpus, store.root / CACHE)
    if now == made.metadata[SOURCE_FINGERPRINT].value:
        return None
    return f"documents in {profile.corpus.corpus_dir} changed"
