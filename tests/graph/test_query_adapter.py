"""An adapter on the side of questions through the graph: taught by BM25, promoted, and searched after one tick."""

from __future__ import annotations

import re

import pytest

from assets_pkg.nim.manifest import QUERY_MAP_FILE
from assets_pkg.reindex.searched_index import current_index
from storage.artifacts import OnnxModel
from tests.graph.harness import Project

REINDEX = "reindex_when_model_or_corpus_changes"
ADAPTER = (
    "finetune.method=adapter",
    "finetune.adapter_side=query",
    "finetune.teacher=lexical",
    "finetune.teacher_questions=60",
    "finetune.learning_rate=1e-2",
)


@pytest.mark.slow
def test_a_new_one_re_embeds_no_passage(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    indexed: list[str] = []
    for seed in (1, 2):
        tuned = project.with_overrides(*ADAPTER, f"finetune.seed={seed}")
        tuned.run(["checkpoint"])
        version = tuned.version("checkpoint")
        tuned.promote(version)
        assert tuned.tick(REINDEX) == ["corpus_embeddings", "vector_index"]
        index = current_index(tuned.store)
        assert index.describe()["model_digest"] == version
        indexed.append(index.version)
    assert indexed[0] != indexed[1]
    (run,) = project.instance.get_run_records(limit=1)
    said = "\n".join(entry.user_message for entry in project.instance.all_logs(run.dagster_run.run_id))
    assert re.search(r"\b(\d+) of \1 texts, cached \1\b", said), said

    project.run(["onnx_model"])  # and the check of its vectors, in both roles
    exported = project.store.get(OnnxModel, "onnx_model", project.version("onnx_model"))
    assert (exported.folder / QUERY_MAP_FILE).is_file()
