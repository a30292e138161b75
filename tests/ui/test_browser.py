"""What a person sees in the UI: the graph, the pictures, a stale index, and the sensor that mends it; and that a second
project beside it keeps to itself.

The pictures taken on the way lie in ``build/screenshots``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.command.conftest import Workplace
from tests.conftest import write_corpus
from tests.ui.browser import Screen, open_screen
from tests.ui.conftest import Ui

SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"
SENSOR = "reindex_when_model_or_corpus_changes"
SENSOR_PAGE = f"/locations/retune/sensors/{SENSOR}"
GROUPS = {
    "corpus": ("raw_corpus", "passages"),
    "sdg": ("synthetic_qa",),
    "prep": ("training_set", "eval_set", "mined_train_set"),
    "finetune": ("base_model", "checkpoint"),
    "eval": ("eval_metrics", "promoted_model"),
    "export": ("onnx_model", "tensorrt_engine"),
    "deploy": ("running_nim", "nim_eval_metrics"),
    "reindex": ("corpus_embeddings", "vector_index"),
}
DESCRIBED = {
    SENSOR: "Rebuilds the index when the promoted model or the passages changed",
    "corpus_when_documents_change": "Reads the corpus again",
    "server_watch": "Checks whether the embedding server runs",
    "pick_up_batch_jobs": "Materializes what a detached job has made",
    "alert_when_a_run_fails": "Raises an alert for each failed run",
    "nightly_refresh": "Runs all stages",
    "weekly_measurement": "lets the gate decide again",
}

DESCRIPTIONS = """{ repositoryOrError(repositorySelector: {repositoryLocationName: "retune",
    repositoryName: "__repository__"}) { ... on Repository {
    sensors { name description } schedules { name description } } } }"""

TICKS = """{ sensorOrError(sensorSelector: {repositoryLocationName: "retune", repositoryName: "__repository__",
    sensorName: "corpus_when_documents_change"}) { ... on Sensor { sensorState { ticks(limit: 50) { status } } } } }"""


@pytest.fixture(scope="module")
def screen(ui: Ui) -> Iterator[Screen]:
    with open_screen(ui.url, SCREENSHOTS) as opened:
        yield opened
        assert opened.problems == []


def test_the_lineage_shows_every_group_and_its_assets(screen: Screen) -> None:
    boxes = screen.show_graph(GROUPS)
    for group, assets in GROUPS.items():
        for name in (group, *assets):
            expect(boxes.get_by_text(name, exact=True)).to_be_visible()
    screen.await_colours()
    screen.keep("lineage")


def test_runs_of_the_command_are_on_the_timeline(screen: Screen) -> None:
    screen.open("/overview/timeline")
    expect(screen.page.locator("a[href$='/jobs/retune']")).to_be_visible()
    screen.keep("timeline")


@pytest.mark.parametrize(("asset", "key"), [("checkpoint", "curves"), ("mined_train_set", "scores")])
def test_pictures_in_the_metadata_are_drawn(screen: Screen, asset: str, key: str) -> None:
    screen.show_asset(asset)
    check_picture(screen, asset, key)


def test_the_measurement_is_read_without_a_click_and_drawn(screen: Screen) -> None:
    screen.show_asset("eval_metrics")
    expect(screen.page.get_by_role("cell", name="NDCG@10", exact=True)).to_be_visible()
    screen.keep("eval_metrics")
    for key in ("bars", "gains"):
        check_picture(screen, "eval_metrics", key)
        screen.page.keyboard.press("Escape")


def check_picture(screen: Screen, asset: str, key: str) -> None:
    image = screen.show_picture(key)
    expect(image).to_be_visible()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    box = image.bounding_box()
    assert box is not None
    assert box["width"] > 500
    screen.keep(f"{asset}-{key}")


def test_a_schedule_says_what_it_does(screen: Screen) -> None:
    screen.open("/locations/retune/schedules/nightly_refresh")
    expect(screen.page.get_by_text(DESCRIBED["nightly_refresh"])).to_be_visible()
    screen.keep("nightly_refresh")


def test_every_sensor_and_schedule_has_a_description(ui: Ui) -> None:
    repository = ui.ask(DESCRIPTIONS)["repositoryOrError"]
    found = {
        each["name"]: each["description"] for kind in ("sensors", "schedules") for each in repository[kind]
    }
    assert {name for name, words in DESCRIBED.items() if words in found[name]} == set(DESCRIBED)


class Own(Workplace):
    """A project of its own: its settings are those of its folder."""

    @property
    def environment(self) -> dict[str, str]:
        kept = super().environment
        del kept["RETUNE_PROFILE"]
        return kept


def ticks(ui: Ui) -> int:
    state: Any = ui.ask(TICKS)["sensorOrError"]["sensorState"]
    return len([each for each in state["ticks"] if each["status"] in ("SKIPPED", "SUCCESS")])


def found(project: Own, text: str) -> list[str]:
    code, output = project.retune("search", text, "--json", "-k", "3")
    assert code == 0, output
    return [json.loads(line)["doc_id"] for line in output.splitlines()]


def test_the_second_project_keeps_its_index_beside_the_first_ones_sensors(screen: Screen, ui: Ui) -> None:
    screen.leave()
    first = ui.workplace
    documents = first.home / "own documents"
    write_corpus(documents, 12)
    for path in documents.iterdir():
        path.rename(path.with_name(f"own-{path.name}"))
    project = Own(first.home, 0)
    model = f"base_model={next((first.home / 'output/artifacts/base_model').iterdir()) / 'model' / 'consolidated'}"
    code, output = project.retune("init", "my project", "--documents", str(documents))
    assert code == 0, output
    project.home = first.home / "my project"
    for command in (("run", "--to", "eval"), ("reindex",)):
        code, output = project.retune(*command, model)
        assert code == 0, output
    hits = found(project, "how is the pump sealed")
    assert all(hit.startswith("own-") for hit in hits)
    before = ticks(ui)
    ui.wait("two more ticks of the first project's sensors", lambda: ticks(ui) >= before + 2)
    assert found(project, "how is the pump sealed") == hits
    assert "nothing is stale" in project.retune("reindex", model)[1]
    assert {ui.statuses()[name] for name in ("raw_corpus", "passages", "vector_index")} == {"FRESH"}


def test_after_a_promotion_the_index_is_unsynced_until_the_sensor_has_rebuilt_it(
    screen: Screen, ui: Ui
) -> None:
    # The sensor is off for a while, so that what it will mend can be seen.
    _switch_sensor(screen, on=False)
    ui.promote_another()
    selection = 'group:"reindex" or key:"promoted_model"'
    boxes = screen.show_graph(("eval", "reindex"), selection)
    expect(boxes.filter(has_text="Unsynced")).to_have_count(3)
    screen.keep("lineage-unsynced")

    _switch_sensor(screen, on=True)
    screen.leave()
    ui.wait("the sensor's run", lambda: ui.reindex_runs() == ["SUCCESS"])
    screen.open(SENSOR_PAGE)
    expect(screen.page.get_by_text(DESCRIBED[SENSOR])).to_be_visible()
    expect(screen.page.get_by_text("1 run requested").first).to_be_visible()
    screen.keep("sensor-requested-a-run")
    screen.open("/runs?q[]=job:reindex")
    expect(screen.page.get_by_text(SENSOR).first).to_be_visible()
    expect(screen.page.get_by_text("Success", exact=True)).to_be_visible()
    screen.keep("runs")
    screen.show_asset("vector_index")
    screen.keep("vector_index-in-sync")  # everything is loaded by then
    expect(screen.page.get_by_text("Unsynced")).to_have_count(0)
    assert {ui.statuses()[name] for name in GROUPS["reindex"]} == {"FRESH"}
    assert ui.reindex_runs() == ["SUCCESS"]


def _switch_sensor(screen: Screen, *, on: bool) -> None:
    screen.open(SENSOR_PAGE)
    switch = screen.page.get_by_role("checkbox")
    expect(switch).to_be_checked(checked=not on)
    screen.page.locator("label", has=switch).click()
    expect(switch).to_be_checked(checked=on)
