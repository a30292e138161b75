"""Steps are tried again when a service did not answer, and only then."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.automation.execute import run_assets
from assets_pkg.automation.jobs import MAIN_JOB
from assets_pkg.orchestration import asset_context as module
from assets_pkg.orchestration.asset_context import asset_context
from assets_pkg.orchestration.stage_asset import stage_asset
from resources.chat_model.client import ChatModel
from resources.chat_model.config import ChatConfig
from resources.chat_model.errors import EndpointError
from resources.compute.errors import ComputeError
from resources.configurable import ArtifactStoreResource
from resources.containers import ContainerEngine, ContainerError
from tests.chat_model.scripted_endpoint import ScriptedEndpoint

DOWN = {"match": ".", "do": "status", "status": 503}
REFUSED = {"match": ".", "do": "status", "status": 401}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_AFTER_SECONDS", (0.0, 0.0))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ScriptedEndpoint]:
    with ScriptedEndpoint() as started:
        yield started


def ask(endpoint: ScriptedEndpoint, folder: Path) -> None:
    """Two questions at once, each repeated for no time at all."""
    config = ChatConfig(base_url=endpoint.base_url, cache=folder / "answers.sqlite", retry_deadline_s=0.001)

    async def main() -> None:
        async with ChatModel(config).session(documents=1) as session:
            calls = [session.ask("m", [{"role": "user", "content": text}]) for text in ("a", "b")]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            for answer in answers:
                if isinstance(answer, EndpointError):
                    raise answer

    asyncio.run(main())


def definitions(work: Callable[[], None], root: Path, tries: list[int]) -> dg.Definitions:
    @stage_asset("sdg", kinds=set())
    def synthetic_qa(context: dg.AssetExecutionContext, store: ArtifactStoreResource) -> None:
        with asset_context(context, store):
            tries.append(1)
            work()

    return dg.Definitions(
        assets=[synthetic_qa],
        jobs=[dg.define_asset_job(MAIN_JOB)],
        resources={"store": ArtifactStoreResource(root=str(root))},
    )


def run(work: Callable[[], None], root: Path) -> tuple[int, str]:
    """How often the step was tried, and the message with which it failed."""
    tries: list[int] = []
    job = definitions(work, root, tries).resolve_job_def(MAIN_JOB)
    with dg.DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(instance=instance, raise_on_error=False)
    failures = [event.step_failure_data for event in done.all_events if event.is_step_failure]
    said = [failure.user_failure_data for failure in failures]
    return len(tries), said[0].description or "" if said and said[0] else ""


def test_an_endpoint_that_fails_once_is_asked_again(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script({**DOWN, "times": 2})  # both questions of the first try
    assert run(lambda: ask(endpoint, tmp_path), tmp_path) == (2, "")


def test_an_endpoint_that_stays_down_fails_the_step(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script(DOWN)
    tries, said = run(lambda: ask(endpoint, tmp_path), tmp_path)
    assert tries == 3
    assert said.startswith("127.0.0.1 does not answer (HTTP 503")


def test_a_refused_key_is_not_tried_again(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script(REFUSED)
    tries, said = run(lambda: ask(endpoint, tmp_path), tmp_path)
    assert tries == 1
    assert "refused" in said


def test_the_command_leaves_it_to_its_user(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.script(DOWN)
    tries: list[int] = []
    defs = definitions(lambda: ask(endpoint, tmp_path), tmp_path, tries)
    with dg.DagsterInstance.ephemeral() as instance:
        (failure,) = run_assets(defs, instance, ["synthetic_qa"]).failures
    assert len(tries) == 1
    assert failure.message.startswith("127.0.0.1 does not answer (HTTP 503")


def test_what_a_service_that_did_not_answer_has_led_to_is_tried_again(tmp_path: Path) -> None:
    def submit() -> None:
        try:
            ContainerEngine("tcp://127.0.0.1:9").status("retune")
        except ContainerError as error:
            raise ComputeError(str(error)) from error

    assert run(submit, tmp_path)[0] == 3
