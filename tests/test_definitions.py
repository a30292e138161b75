"""The code location: loads light, in both of Dagster's tools, with everything people look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.automation.jobs import MAIN_JOB
from assets_pkg.build import build_definitions, configured_benchmarks
from assets_pkg.config.profile_files import load_profile
from assets_pkg.config.stages import BENCHMARKS
from storage.paths import IMAGE_TEXT_RESULTS, JUDGE_RESULTS

REPOSITORY = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "transformers",
    "sentence_transformers",
    "datasets",
    "lancedb",
    "onnxruntime",
    "pandas",
    "pyarrow",
}
GRAPH = {
    "raw_corpus": set(),
    "passages": {"raw_corpus"},
    "base_model": set(),
    "synthetic_qa": {"raw_corpus", "passages", "base_model"},
    "training_set": {"synthetic_qa", "eval_set"},
    "eval_set": {"synthetic_qa"},
    "mined_train_set": {"training_set", "base_model"},
    "checkpoint": {"mined_train_set", "base_model"},
    "eval_metrics": {"checkpoint", "base_model", "eval_set"},
    "promoted_model": {"eval_metrics", "checkpoint", "base_model"},
    "onnx_model": {"promoted_model"},
    "tensorrt_engine": {"onnx_model"},
    "running_nim": {"onnx_model", "promoted_model"},
    "nim_eval_metrics": {"running_nim", "promoted_model", "eval_set", "eval_metrics"},
    "corpus_embeddings": {"promoted_model", "passages"},
    "vector_index": {"promoted_model", "passages"},
}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(load_profile("laptop"))


@pytest.mark.parametrize("key_prefix", [None, "faq"])
def test_checks_are_of_the_class_that_dagster_expects(key_prefix: str | None) -> None:
    """Of another it makes one itself, with a warning in the output of each command."""
    checks = list(build_definitions(load_profile("laptop"), key_prefix=key_prefix).asset_checks or ())
    assert len(checks) > 3
    assert {type(check) for check in checks} == {dg.AssetChecksDefinition}


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    script = "import sys, json, assets_pkg.definitions; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.check_output([sys.executable, "-c", script], text=True)))
    assert not loaded & HEAVY


def test_the_graph_is_the_one_that_is_documented(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert {name: parents[name] for name in GRAPH} == GRAPH


def test_the_ui_shows_the_benchmarks_that_are_used(tmp_path: Path) -> None:
    """ "Materialize all" of a fresh project makes only what can be made."""

    def shown(*overrides: str) -> list[str]:
        profile = load_profile("laptop", [f"artifact_root={tmp_path}", *overrides])
        chosen = configured_benchmarks(profile)
        graph = build_definitions(profile, include=chosen).resolve_asset_graph()
        groups = {graph.get(key).group_name for key in graph.get_all_asset_keys()}
        assert groups & set(BENCHMARKS) == set(chosen)
        return chosen

    assert shown() == []
    assert shown("judges.references=captions.json") == ["judges"]
    assert shown("image_text.num_pairs_limit=10") == ["image_text"]
    (tmp_path / JUDGE_RESULTS).mkdir(parents=True)
    (tmp_path / IMAGE_TEXT_RESULTS).parent.mkdir()
    (tmp_path / IMAGE_TEXT_RESULTS).symlink_to("anywhere")
    assert shown() == ["judges", "image_text"], "someone ran them here"


def test_every_asset_says_what_it_is(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert spec.code_version, spec.key
        assert spec.group_name != "default", spec.key


def test_every_asset_names_its_code(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        (reference,) = spec.metadata["dagster/code_references"].code_references
        line = Path(reference.file_path).read_text("utf-8").splitlines()[reference.line_number - 1]
        assert line.strip().startswith(("@", "def ")), spec.key


def test_every_sensor_schedule_and_job_says_what_it_does(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    automation = [*repository.sensor_defs, *repository.schedule_defs, *jobs]
    assert {each.name: bool(each.description) for each in automation} == {
        each.name: True for each in automation
    }
    assert len(automation) >= 11


def test_steps_that_train_or_embed_wait_for_the_gpu_pool(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for name in ("synthetic_qa", "mined_train_set", "checkpoint", "eval_metrics", "corpus_embeddings"):
        assert graph.get(dg.AssetKey(name)).pools == {"gpu"}, name
    assert not graph.get(dg.AssetKey("passages")).pools


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["dagster", "definitions", "validate", "-w", "workspace.yaml"],
        ["dg", "check", "defs"],
    ],
    ids=["dagster", "dg"],
)
def test_both_of_dagsters_tools_load_the_location(command: list[str], tmp_path: Path) -> None:
    executable = Path(sys.executable).parent / command[0]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    done = subprocess.run(
        [str(executable), *command[1:]],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_sensors_are_on_and_the_schedules_off(definitions: dg.Definitions) -> None:
    for sensor in ("reindex_when_model_or_corpus_changes", "corpus_when_documents_change", "server_watch"):
        assert definitions.resolve_sensor_def(sensor).default_status is dg.DefaultSensorStatus.RUNNING
    for schedule in ("nightly_refresh", "weekly_measurement"):
        stopped = dg.DefaultScheduleStatus.STOPPED
        assert definitions.resolve_schedule_def(schedule).default_status is stopped


def test_the_resources_in_the_launchpad_decide_no_result(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def(MAIN_JOB)
    fields = {
        f"{name}.{field}"
        for name, resource in job.resource_defs.items()
        if name != "io_manager"  # Dagster's own; no asset uses it
        for field in getattr(resource.config_schema.config_type, "fields", {})
    }
    assert fields == {
        "store.root",
        "accelerator.device",
        "accelerator.check_memory",
        "chat_model.api_key",
        "alerts.webhook_variable",
        "containers.base_url",
        "compute.run_on",
        "compute.stages",
    }
    poisoned = {"resources": {"encoders": {"config": {"query_prefix": "another: "}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="query_prefix"):
        job.execute_in_process(run_config=poisoned, instance=dg.DagsterInstance.ephemeral())
