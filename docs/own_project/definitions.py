"""A Dagster project with assets of its own and two Retunes: one for its articles, one for the rules of the house."""

import json
from hashlib import sha256
from pathlib import Path

import dagster as dg

from resources import ARTICLES, RULES, Archive
from retune import build_definitions, load_artifact, load_profile

HERE = Path(__file__).parent


@dg.asset(group_name="sources", kinds={"json"})
def articles(archive: Archive) -> dg.MaterializeResult:
    """The articles, as a table: one row is one document."""
    table = archive.path("articles") / "articles.jsonl"
    rows = [json.dumps({"id": name, "text": text}) for name, text in ARTICLES.items()]
    table.write_text("\n".join(rows), "utf-8")
    version = sha256(table.read_bytes()).hexdigest()
    return dg.MaterializeResult(
        metadata={"path": dg.MetadataValue.path(table), "dagster/row_count": len(rows)},
        data_version=dg.DataVersion(version),
    )


@dg.asset(group_name="sources")
def rules(archive: Archive) -> dg.MaterializeResult:
    """The rules of the house, as a folder of files."""
    folder = archive.path("rules")
    for name, text in RULES.items():
        (folder / f"{name}.md").write_text(f"# {name}\n\n{text}\n", "utf-8")
    return dg.MaterializeResult(
        metadata={"path": dg.MetadataValue.path(folder)},
        data_version=dg.DataVersion(sha256(repr(RULES).encode()).hexdigest()),
    )


@dg.asset(group_name="reports", deps=[dg.AssetKey(["faq", "passages"])])
def longest_passage(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """An asset below one of Retune's."""
    passages = load_artifact(context, ["faq", "passages"])
    longest = max(passages.passages(), key=lambda passage: len(passage.text))
    return dg.MaterializeResult(metadata={"document": longest.doc_id, "characters": len(longest.text)})


defs = dg.Definitions.merge(
    build_definitions(
        load_profile(str(HERE / "faq.yaml")),
        key_prefix="faq",
        corpus_asset=articles,
        owners=["team:library"],
        include=["sensors"],
    ),
    build_definitions(
        load_profile(str(HERE / "house.yaml")),
        key_prefix="house",
        corpus_asset=rules,
        include=["sensors"],
    ),
    dg.Definitions(
        assets=[articles, rules, longest_passage],
        schedules=[
            dg.ScheduleDefinition(
                name="every_morning",
                cron_schedule="0 6 * * *",
                target=dg.AssetSelection.assets("articles", "rules"),
            )
        ],
        resources={"archive": Archive(folder="output/archive")},
    ),
)
