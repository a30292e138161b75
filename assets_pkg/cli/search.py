"""``retune search``: search the current index from a terminal."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from assets_pkg.cli.common import ConfigOption, Overrides, console, load_settings, plain, usage
from storage.printable import visible_json

if TYPE_CHECKING:
    from resources.vector_store.base import Hit

SHOWN_CHARACTERS = 300

Around: TypeAlias = "dict[tuple[str, int], tuple[list[Hit], list[Hit]]]"
"""The passages before and after each hit, by document and number."""


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
    context: Annotated[
        int, typer.Option("--context", min=0, help="Show so many passages before and after each, too.")
    ] = 0,
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
        around = {
            (hit.doc_id, hit.chunk_id): searcher.around(hit, context)
            for hits in (found.values() if context else ())
            for hit in hits
        }
    if as_json:
        _write_json(found, around)
    else:
        _show(found, around)


def _write_json(found: dict[str, list[Hit]], around: Around | None = None) -> None:
    for source, hits in found.items():
        for hit in hits:
            shown = {"by": source, **asdict(hit)}
            if around:
                before, after = around[hit.doc_id, hit.chunk_id]
                shown |= {"before": [each.text for each in before], "after": [each.text for each in after]}
            sys.stdout.write(visible_json(shown) + "\n")


def _show(found: dict[str, list[Hit]], around: Around | None = None) -> None:
    for source, hits in found.items():
        if len(found) > 1:
            console.print(f"[bold]{source}[/]")
        for rank, hit in enumerate(hits, start=1):
            before, after = (around or {}).get((hit.doc_id, hit.chunk_id), ([], []))
            passage = (
                f"{plain(hit.doc_id, one_line=True)} #{hit.chunk_id}{plain(place_of(hit), one_line=True)}"
            )
            console.print(f"{rank:2}. {hit.score:.3f}  [cyan]{passage}[/]  ", end="", highlight=False)
            if before or after:
                console.print()
            _show_texts(before, "dim")
            _show_texts([hit], "" if before or after else None)
            _show_texts(after, "dim")


def _show_texts(hits: list[Hit], style: str | None) -> None:
    """A line for each; with a style indented, as one of several."""
    for hit in hits:
        text = " ".join(hit.text.split())[:SHOWN_CHARACTERS]
        indent = "" if style is None else " " * 6
        console.print(indent + text, markup=False, highlight=False, style=style or None)


def place_of(hit: Hit) -> str:
    """Where in its document a hit stands, as far as that is known: page, sheet and row, headings."""
    names = {"page": "page {}", "sheet": "sheet {}", "row": "row {}", "heading_path": "{}"}
    known = [shown.format(hit.metadata[name]) for name, shown in names.items() if name in hit.metadata]
    return f" ({', '.join(known)})" if known else ""
