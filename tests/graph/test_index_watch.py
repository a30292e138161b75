"""An index that stays behind its model or corpus is reported once, and again when it has caught up."""

from __future__ import annotations

import time

import dagster as dg
import pytest

from assets_pkg.automation.sensors.watch import behind_since
from resources.configurable import AlertsResource
from tests.graph.harness import Project

YESTERDAY = time.time() - 24 * 3600
FOLLOWED = ["promoted_model", "passages"]


class Watch:
    """The sensor, tick after tick, with what it sent."""

    def __init__(self, project: Project):
        self.project = project
        self.cursor: str | None = None
        self.sent: list[str] = []

    def tick(self) -> bool | None:
        """Whether the check passed; None if nothing was said."""
        defs = self.project.defs
        sensor = defs.resolve_sensor_def("index_watch")
        with (
            pytest.MonkeyPatch.context() as patch,
            dg.build_sensor_context(
                instance=self.project.instance,
                definitions=defs,
                cursor=self.cursor,
                resources={"alerts": AlertsResource()},
            ) as context,
        ):
            patch.setattr(AlertsResource, "send", lambda _, event, text: self.sent.append(f"{event}: {text}"))
            result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return None
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        events = result.asset_events
        return events[0].passed if events else None  # type: ignore[union-attr]


def test_a_lag_is_told_once_and_ends_with_the_re_index(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.profile_path.parent)
    patient = Watch(project.with_overrides("index_may_lag_minutes=60"))
    strict = Watch(project.with_overrides("index_may_lag_minutes=0"))
    assert behind_since(project.instance, FOLLOWED) == {}
    assert (patient.tick(), strict.tick()) == (None, None)
    other = next(
        version
        for version in (project.version("base_model"), project.version("checkpoint"))
        if version != project.version("promoted_model")
    )
    project.promote(other)
    assert list(behind_since(project.instance, FOLLOWED)) == ["promoted_model"]
    with (
        monkeypatch.context() as clock
    ):  # set back by a day before the change was seen: it counts from now on
        clock.setattr("time.time", lambda: YESTERDAY)
        behind = Watch(project.with_overrides("index_may_lag_minutes=60"))
        assert behind.tick() is None
        clock.setattr("time.time", lambda: YESTERDAY + 3601)
        assert behind.tick() is False
    assert (patient.tick(), patient.sent) == (None, [])
    assert [strict.tick(), strict.tick()] == [False, None]
    assert len(strict.sent) == 1
    assert "the index is behind promoted_model" in strict.sent[0]

    project.tick("reindex_when_model_or_corpus_changes")
    assert behind_since(project.instance, FOLLOWED) == {}
    assert strict.tick() is True
    assert len(strict.sent) == 1
