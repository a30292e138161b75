"""Eight-bit exports in the graph: judged by the eval set, and kept from being served when they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import ir_measures
import numpy as np
import onnx
import pytest

from assets_pkg.automation.execute import run_assets
from assets_pkg.nim.manifest import read_manifest
from assets_pkg.nim.model import OnnxModel
from assets_pkg.nim.tokens import Role, TextTokenizer
from tests.graph.harness import Project

PARITY = dg.AssetCheckKey(dg.AssetKey("onnx_model"), "onnx_parity")
EXPORT = Path("output/stage4_export/onnx")
EVAL_SET = Path("output/stage1_data_prep/eval_beir")


@pytest.fixture(autouse=True)
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.profile_path.parent)


def parity(project: Project) -> dg.AssetCheckEvaluation:
    records = project.instance.event_log_storage.get_asset_check_execution_history(PARITY, limit=1)
    event = records[0].event
    assert event is not None
    assert event.dagster_event is not None
    return event.dagster_event.asset_check_evaluation_data


def eval_set_ndcg(folder: Path) -> float:
    """nDCG@10 of an exported folder on the eval set, by the session and `ir_measures` alone."""
    manifest = read_manifest(folder)
    model, tokenizer = OnnxModel(folder, manifest), TextTokenizer(folder, manifest)

    def embed(texts: list[str], role: Role) -> Any:
        return np.concatenate([model.embed([row]) for row in tokenizer.encode(texts, role)])

    corpus = [json.loads(line) for line in (EVAL_SET / "corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line) for line in (EVAL_SET / "queries.jsonl").read_text().splitlines()]
    judged = [line.split("\t") for line in (EVAL_SET / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    passages = [f"{entry.get('title', '')} {entry['text']}".strip() for entry in corpus]
    scores = embed([query["text"] for query in queries], "query") @ embed(passages, "passage").T
    run = [
        ir_measures.ScoredDoc(query["_id"], entry["_id"], float(score))
        for query, row in zip(queries, scores, strict=True)
        for entry, score in zip(corpus, row, strict=True)
    ]
    qrels = [ir_measures.Qrel(query, document, int(grade)) for query, document, grade in judged]
    return ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]


def test_eight_bit_weights_are_measured_on_the_eval_set(project: Project) -> None:
    here = project.with_overrides("export.export_dtype=int8_weights", "export.max_ndcg_loss=0.05")
    here.run(["onnx_model"])
    assert read_manifest(EXPORT).dtype == "int8_weights"
    graph = onnx.load(str(EXPORT / "model.onnx"))
    assert "MatMulNBits" in {node.op_type for node in graph.graph.node}
    check = parity(here)
    assert check.passed
    shapes = check.metadata["shapes"]
    assert {int(row.split("|")[2]) for row in str(shapes.value).splitlines()[2:]} >= {1, 3, 6}
    before, after, loss = (
        float(str(check.metadata[f"ndcg10_{name}"].value)) for name in ("checkpoint", "exported", "loss")
    )
    results = json.loads(Path("output/stage3_eval/eval_results.json").read_text())
    models = results["metadata"]["models"]
    name = next(each for each, digest in models.items() if digest == here.version("promoted_model"))
    assert before == pytest.approx(results[name][0]["NDCG@10"], abs=1e-4)
    assert after == pytest.approx(eval_set_ndcg(EXPORT), abs=1e-3)
    assert loss == pytest.approx(before - after)


def test_an_export_that_moves_the_neighbours_too_far_is_not_served(project: Project) -> None:
    here = project.with_overrides("export.export_dtype=int8_dynamic", "export.min_top10_overlap=1.0")
    outcome = run_assets(here.defs, here.instance, ["onnx_model", "running_nim"])
    assert not outcome.succeeded
    check = parity(here)
    assert not check.passed
    assert float(str(check.metadata["top10_overlap"].value)) < 1
    assert here.instance.get_latest_materialization_event(dg.AssetKey("running_nim")) is None


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize("always", [True, False])
def test_a_damaged_export_is_not_served(project: Project, always: bool) -> None:
    here = project.with_overrides(f"deploy.verify_fingerprint={str(always).lower()}")
    here.run(["onnx_model"])
    flip_a_byte(EXPORT.resolve() / "model.onnx")
    outcome = run_assets(here.defs, here.instance, ["running_nim"])
    assert not outcome.succeeded
    assert "onnx/model.onnx is not what was published" in outcome.failures[0].message


def test_a_damaged_model_is_neither_promoted_nor_exported(project: Project) -> None:
    promoted = project.version("promoted_model")
    flip_a_byte(Path("output/promoted_model/model/consolidated/model.safetensors"))
    choice = {"promoted_model": {"version": promoted, "because": "rollback"}}
    for assets, config in ((["promoted_model"], choice), (["promoted_model"], None), (["onnx_model"], None)):
        outcome = run_assets(project.defs, project.instance, assets, config)
        assert not outcome.succeeded
        message = outcome.failures[0].message
        assert "model/consolidated/model.safetensors is not what was published" in message
