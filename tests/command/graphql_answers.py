"""What the UI's server answers about a project: ``python -m tests.command.graphql_answers`` in its folder prints it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget

from assets_pkg.orchestration.instance import open_instance

METADATA = """metadataEntries { label description
  ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr } ... on JsonMetadataEntry { jsonString }
  ... on PathMetadataEntry { path } ... on UrlMetadataEntry { url } ... on TableMetadataEntry { table { records } } }"""
ERROR = "error { message className stack causes { message stack } errorChain { error { message stack } } }"
RUNS = f"""{{ runsOrError {{ ... on Runs {{ results {{
  runId status runConfigYaml pipelineSnapshotId tags {{ key value }}
  eventConnection(limit: 1000) {{ events {{ __typename ... on MessageEvent {{ message stepKey level }}
    ... on MaterializationEvent {{ {METADATA} }}
    ... on ExecutionStepFailureEvent {{ {ERROR} failureMetadata {{ {METADATA} }} }}
    ... on RunFailureEvent {{ {ERROR} }} }} }} }} }} ... on PythonError {{ message }} }} }}"""
RESOURCES = """query($in: RepositorySelector!) { allTopLevelResourceDetailsOrError(repositorySelector: $in) { __typename
  ... on ResourceDetailsList { results { name description resourceType configuredValues { key value type }
    configFields { name description defaultValueAsJson } } } ... on PythonError { message } } }"""
GRAPH = f"""{{ assetNodes {{ assetKey {{ path }} description {METADATA} configField {{ defaultValueAsJson }} }}
  instance {{ info }} workspaceOrError {{ ... on Workspace {{ locationEntries {{ locationOrLoadError {{
    ... on RepositoryLocation {{ name }} ... on PythonError {{ message stack }} }} }} }} }}
}}"""
SNAPSHOT = """query($of: String!) { pipelineSnapshotOrError(snapshotId: $of) { __typename ... on PipelineSnapshot {
  modes { name resources { name configField { defaultValueAsJson
    configType { key ... on CompositeConfigType { fields { name defaultValueAsJson } } } } } }
  solidHandles { solid { definition { name metadata { key value } } } } } ... on PythonError { message } } }"""


def _results(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a query with one field."""
    (field,) = answer.values()
    return field["results"]


def answers_of_the_ui(folder: Path, environment: Mapping[str, str]) -> str:
    """What ``main`` prints in a process of its own, in a project's folder."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    from dagster_graphql.test.utils import execute_dagster_graphql

    module = LoadableTargetOrigin(module_name="assets_pkg.definitions")
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(module, location_name="retune"))
    with open_instance() as instance, WorkspaceProcessContext(instance, target) as workspace:
        context = workspace.create_request_context()

        def ask(query: str, **variables: object) -> Mapping[str, Any]:
            return execute_dagster_graphql(context, query, variables).data

        (repository,) = context.get_code_location("retune").get_repositories()
        names = {"repositoryName": repository, "repositoryLocationName": "retune"}
        runs = _results(ask(RUNS))
        snapshots = {run["pipelineSnapshotId"] for run in runs}
        answers = {
            "runs": runs,
            "resources": _results(ask(RESOURCES, **{"in": names})),
            "graph": ask(GRAPH),
            "snapshots": [ask(SNAPSHOT, of=each) for each in sorted(snapshots)],
        }
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
