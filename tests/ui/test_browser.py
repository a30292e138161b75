"""What a person sees in the UI: the graph, the pictures, a stale index, and the sensor that mends it.

The pictures taken on the way lie in ``build/screenshots``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

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
AUTOMATION = {
    f"sensors/{SENSOR}": "Rebuilds the index when the promoted model or the passages changed",
    "sensors/corpus_when_documents_change": "Reads the corpus again",
    "sensors/server_watch": "Checks whether the embedding server runs",
    "sensors/pick_up_batch_jobs": "Materializes what a detached job has made",
    "sensors/alert_when_a_run_fails": "Raises an alert for each failed run",
    "schedules/nightly_refresh": "Runs all stages",
    "schedules/weekly_measurement": "lets the gate decide again",
}


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
    screen.open("/locations/retune/jobs/retune/runs")
    expect(screen.page.get_by_text("Success", exact=True).first).to_be_visible()
    screen.keep("runs-of-the-job")


@pytest.mark.parametrize(
    ("asset", "key"),
    [
        ("eval_metrics", "bars"),
        ("eval_metrics", "gains"),
        ("checkpoint", "curves"),
        ("mined_train_set", "scores"),
    ],
)
def test_pictures_in_the_metadata_are_drawn(screen: Screen, asset: str, key: str) -> None:
    image = screen.show_picture(asset, key)
    expect(image).to_be_visible()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    box = image.bounding_box()
    assert box is not None
    assert box["width"] > 500
    screen.keep(f"{asset}-{key}")


def test_the_measurement_is_read_without_a_click(screen: Screen) -> None:
    screen.show_asset("eval_metrics")
    expect(screen.page.get_by_role("cell", name="NDCG@10", exact=True)).to_be_visible()
    screen.keep("eval_metrics")


@pytest.mark.parametrize(("page", "words"), AUTOMATION.items())
def test_sensors_and_schedules_say_what_they_do(screen: Screen, page: str, words: str) -> None:
    screen.open(f"/locations/retune/{page}")
    expect(screen.page.get_by_text(words)).to_be_visible()
    screen.keep(page.split("/")[1])


def test_after_a_promotion_and_a_rollback_the_index_is_unsynced_until_the_sensor_has_rebuilt_it(
    screen: Screen, ui: Ui
) -> None:
    # The sensor is off for a while, so that what it will mend can be seen.
    _switch_sensor(screen, on=False)
    ui.promote_another()
    unsynced = screen.page.get_by_text("Unsynced")
    for asset in GROUPS["reindex"]:
        screen.show_asset(asset)
        expect(unsynced.first).to_be_visible()
    screen.keep("vector_index-unsynced")
    selection = 'group:"reindex" or key:"promoted_model" or key:"passages"'
    boxes = screen.show_graph(("corpus", "eval", "reindex"), selection)
    expect(boxes.filter(has_text="Unsynced")).to_have_count(3)
    screen.keep("lineage-unsynced")

    _switch_sensor(screen, on=True)
    ui.wait("the sensor's run", lambda: ui.reindex_runs() == ["SUCCESS"])
    screen.open(SENSOR_PAGE)
    expect(screen.page.get_by_text("1 run requested").first).to_be_visible()
    screen.keep("sensor-requested-a-run")
    screen.open("/runs?q[]=job:reindex")
    expect(screen.page.get_by_text(SENSOR).first).to_be_visible()
    expect(screen.page.get_by_text("Success", exact=True)).to_be_visible()
    screen.keep("runs")
    for asset in GROUPS["reindex"]:
        screen.show_asset(asset)
        screen.keep(f"{asset}-in-sync")  # everything is loaded by then
        expect(unsynced).to_have_count(0)

    seen: set[str] = set()

    def reindexed_again() -> bool:
        seen.update(ui.statuses()[name] for name in GROUPS["reindex"])
        return ui.reindex_runs() == ["SUCCESS", "SUCCESS"]

    code, output = ui.workplace.retune("rollback")
    assert code == 0, output
    ui.wait("one more run after the rollback", reindexed_again)
    assert "STALE" in seen
    ui.wait("a synced index", lambda: {ui.statuses()[name] for name in GROUPS["reindex"]} == {"FRESH"})
    assert ui.reindex_runs() == ["SUCCESS", "SUCCESS"]


def _switch_sensor(screen: Screen, *, on: bool) -> None:
    screen.open(SENSOR_PAGE)
    switch = screen.page.get_by_role("checkbox")
    expect(switch).to_be_checked(checked=not on)
    screen.page.locator("label", has=switch).click()
    expect(switch).to_be_checked(checked=on)
