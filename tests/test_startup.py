"""What a command loads before it shows anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resources.compute.job import TASK, JobFolder
from resources.machine.imports import announce_import

CODE = """
import atexit, gc, json, sys

def report():  # after what the command itself leaves for the end of the process
    loaded = sorted({"asyncio", "dagster", "numpy", "omegaconf", "pydantic"} & set(sys.modules))
    sys.stderr.write(json.dumps({"loaded": loaded, "spared": gc.get_freeze_count() >= len(sys.modules)}))

atexit.register(report)
sys.argv = ["retune", "--help"]
from assets_pkg.cli.main import main
main()
"""


def test_help_loads_no_settings_and_the_process_ends_without_a_search_for_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert "retune" in done.stdout
    assert "rollback" in done.stdout
    assert json.loads(done.stderr) == {"loaded": [], "spared": True}


LANCEDB = """
import json, sys
from resources.vector_store.lance_import import CLIENTS, import_lancedb

lancedb = import_lancedb()
before = [name for name in sys.modules if name.startswith(f"{CLIENTS}.api.")]
import lance_namespace, lance_namespace_urllib3_client
from lance_namespace_urllib3_client import TableApi
print(json.dumps({
    "connects": hasattr(lancedb.connect("memory://"), "open_table"),
    "models": lance_namespace.ListTablesRequest.__module__.startswith(CLIENTS),
    "before": before,
    "later": TableApi.__module__ in sys.modules and lance_namespace_urllib3_client.ApiClient.__name__,
}))
"""


@pytest.mark.slow
def test_lancedb_is_loaded_without_its_rest_clients_which_come_when_they_are_wanted() -> None:
    done = subprocess.run([sys.executable, "-c", LANCEDB], capture_output=True, text=True, check=True)
    expected = {"connects": True, "models": True, "before": [], "later": "ApiClient"}
    assert json.loads(done.stdout) == expected


TASK_OF_AN_ENDED_JOB = """
import json, sys
from assets_pkg.job_worker.__main__ import main
main()
print(json.dumps(sorted({"assets_pkg.build", "dagster", "torch"} & set(sys.modules))))
"""


def test_a_task_of_a_job_array_loads_no_graph(tmp_path: Path) -> None:
    JobFolder(tmp_path).exit_code.write_text("0\n", "utf-8")
    command = [sys.executable, "-c", TASK_OF_AN_ENDED_JOB, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, TASK: "1"}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


SIMILARITY = """
import sys
from resources.machine.imports import spare_imports
spare_imports()
from sentence_transformers.util.similarity import {wanted}
assert ("sklearn" in sys.modules) is {early}
assert pairwise_distances([[1.0, 2.0]], [[3.0, 5.0]], metric="manhattan").tolist() == [[5.0]]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "early"), [("pairwise_distances", False), ("pairwise_distances, f1_score", True)]
)
def test_scikit_learn_is_loaded_when_it_is_used_or_more_of_it_is_wanted(
    tmp_path: Path, wanted: str, early: bool
) -> None:
    package = tmp_path / "sentence_transformers" / "util"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "similarity.py").write_text(f"from sklearn.metrics import {wanted}\n", "utf-8")
    code = SIMILARITY.format(wanted=wanted, early=early)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, check=False)
    assert done.returncode == 0


TRANSFORMERS = """
import collections, json, statistics, sys
from resources.machine.imports import spare_imports
if {spared}:
    spare_imports()
opened = collections.Counter()
sys.addaudithook(lambda event, args: opened.update([str(args[0])]) if event == "open" else None)
import transformers
import transformers.models
from transformers import BertModel
known = [sorted(map(str, each._class_to_module.items())) for each in (transformers, transformers.models)]
sources = [n for name, n in opened.items() if "/transformers/models/" in name and "/configuration_" in name]
print(json.dumps([known, BertModel.__module__, statistics.mode(sources), len(sources)]))
"""


@pytest.mark.slow
def test_the_sources_of_transformers_are_read_once_and_its_classes_are_the_same() -> None:
    plain, spared = (
        json.loads(subprocess.check_output([sys.executable, "-c", TRANSFORMERS.format(spared=spared)]))
        for spared in (False, True)
    )
    assert spared[:2] == plain[:2]
    assert (plain[2], spared[2]) == (2, 1)
    assert spared[3] > 100


SEARCHED = """
import gc
from resources.machine.imports import spare_imports
spare_imports()
import json
import sentence_transformers
tracked = gc.get_objects()
assert not any(each is json.__dict__ for each in tracked)
model = [sentence_transformers]
model.append(model)
del model
assert gc.collect() == 1
"""


def test_no_search_for_garbage_goes_through_what_was_imported(tmp_path: Path) -> None:
    package = tmp_path / "sentence_transformers"
    package.mkdir()
    (package / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    command = [sys.executable, "-c", SEARCHED]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("imported", [False, True])
def test_a_long_import_is_announced(monkeypatch: pytest.MonkeyPatch, imported: bool) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", sys)
    if not imported:
        monkeypatch.delitem(sys.modules, "sentence_transformers")
    notes: list[str] = []
    announce_import(notes.append)
    assert [note.partition(" (")[0] for note in notes] == (
        [] if imported else ["importing torch and transformers"]
    )


def test_the_one_distance_that_needs_scikit_learn() -> None:
    import torch
    from sentence_transformers.util.similarity import manhattan_sim

    a, b = torch.eye(3), torch.ones(2, 3)
    assert torch.equal(manhattan_sim(a.to_sparse(), b.to_sparse()), -torch.cdist(a, b, p=1))
