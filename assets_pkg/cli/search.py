"""``retune search``: search the current index from a terminal."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from assets_pkg.cli.common import ConfigOption, Overrides, console, load_settings, plain, usage
from storage.printable import visible_json

if TYPE_CHECKING:
    from resources.vector_store.base import Hit

SHOWN_CHARACTERS = 300


def search(
    text: Annotated[str, typer.Argument(help="The query.")],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many passages.")] = 5,
    compare: Annotated[
        str | None, typer.Option("--compare", help="'base': show the base model's results too.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--filter",
            help="A condition on columns, metadata fields included: \"lang = 'de' AND year > 2020\".",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", help="dense, bm25, rrf or convex:0.5 (default: the one that was measured best)."
        ),
    ] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", hidden=True, help="The former name of --method rrf.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    config: ConfigOption = "",
    overrides: Overrides = None,
) -> None:
    """Search the current index with the model that built it, by the method that was measured best."""
    from assets_pkg.reindex.comparison import search_with_base
    from assets_pkg.reindex.searcher import open_searcher
    from assets_pkg.retrieval.search_method import SearchMethod
    from storage.remote_store import open_store

    if compare not in (None, "base"):
        raise usage(f"--compare {compare}: must be 'base'")
    if hybrid:
        method = "rrf"
    if compare and (where or method):
        raise usage("--compare works without --filter and --method only")
    chosen = SearchMethod.parse(method) if method else None
    profile = load_settings(config, overrides)
    store = open_store(profile.artifact_root)
    found = {"base model": search_with_base(store, profile, text, k)} if compare else {}
    with open_searcher(store, profile.model) as searcher:
        found["index"] = searcher.search(text, k, where, chosen).hits
    if as_json:
        _write_json(found)
    else:
        _show(found)


def _write_json(found: dict[str, list[Hit]]) -> None:
    for source, hits in found.items():
        for hit in hits:
            sys.stdout.write(visible_json({"by": source, **asdict(hit)}) + "\n")


def _show(found: dict[str, list[Hit]]) -> None:
    for source, hits in found.items():
        if len(found) > 1:
            console.print(f"[bold]{source}[/]")
        for rank, hit in enumerate(hits, start=1):
            passage = f"{plain(hit.doc_id, one_line=True)} #{hit.chunk_id}"
            console.print(f"{rank:2}. {hit.score:.3f}  [cyan]{passage}[/]  ", end="", highlight=False)
            console.print(" ".join(hit.text.split())[:SHOWN_CHARACTERS], markup=False, highlight=False)
