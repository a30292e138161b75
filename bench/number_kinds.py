"""What each ``embedding_type`` costs in quality: nDCG@10 of exact search with the vectors that a server would answer.

    python bench/number_kinds.py EXPORT BEIR

EXPORT is a served-model folder, BEIR a folder with human judgements (corpus.jsonl, queries.jsonl, qrels/test.tsv).
int8 and uint8 are compared by cosine (uint8 after 128 is taken off), binary and ubinary by the number of equal bits.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import get_args

import ir_measures
import numpy as np

from assets_pkg.nim.engine import OnnxEncoder
from assets_pkg.nim.schemas import Kind, Numbers, as_kind

DEPTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path)
    parser.add_argument("beir", type=Path)
    options = parser.parse_args()
    encoder = OnnxEncoder(options.export)
    passages = {
        row["_id"]: f"{row.get('title', '')} {row['text']}".strip()
        for row in _rows(options.beir / "corpus.jsonl")
    }
    passages = {name: text for name, text in passages.items() if text}
    judged = _judgements(options.beir / "qrels" / "test.tsv")
    queries = {
        row["_id"]: row["text"] for row in _rows(options.beir / "queries.jsonl") if row["_id"] in judged
    }
    there = encoder.embed(list(passages.values()), "passage")
    asked = encoder.embed(list(queries.values()), "query")
    for kind in get_args(Kind):
        scores = _similarity(as_kind(asked, kind), as_kind(there, kind), kind)
        run = {query: _best(row, list(passages)) for query, row in zip(queries, scores, strict=True)}
        measured = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judged, run)
        print(
            f"{kind:8} {as_kind(there[:1], kind).nbytes:5} bytes  nDCG@10 {measured[ir_measures.nDCG @ 10]:.4f}"
        )


def _similarity(queries: Numbers, passages: Numbers, kind: str) -> np.ndarray:
    if "binary" in kind:
        bits = [
            np.unpackbits(each.view(np.uint8) ^ np.uint8(128 if kind == "binary" else 0), axis=1)
            for each in (queries, passages)
        ]
        signs = [each.astype(np.float32) * 2 - 1 for each in bits]
        return signs[0] @ signs[1].T
    rows = [each.astype(np.float32) - (128 if kind == "uint8" else 0) for each in (queries, passages)]
    return (rows[0] / np.linalg.norm(rows[0], axis=1, keepdims=True)) @ (
        rows[1] / np.linalg.norm(rows[1], axis=1, keepdims=True)
    ).T


def _best(row: np.ndarray, names: list[str]) -> dict[str, float]:
    return {names[index]: float(row[index]) for index in np.argsort(-row, kind="stable")[:DEPTH]}


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def _judgements(path: Path) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            judged[row["query-id"]][row["corpus-id"]] = int(row["score"])
    return dict(judged)


if __name__ == "__main__":
    main()
