"""The UI and its daemon, for real: a promotion turns the index Unsynced, and the sensor clears it."""

from __future__ import annotations

from tests.ui.conftest import Ui


def test_a_promotion_is_unsynced_in_the_ui_and_the_sensor_reindexes_once(ui: Ui) -> None:
    index = ("corpus_embeddings", "vector_index")
    assert ui.reindex_runs() == []

    ui.promote_another()
    seen: set[str] = set()

    def reindexed() -> bool:
        seen.update(ui.statuses()[name] for name in index)
        return ui.reindex_runs() == ["SUCCESS"]

    ui.wait("one re-index run", reindexed)
    assert "STALE" in seen
    ui.wait("a synced index again", lambda: {ui.statuses()[name] for name in index} == {"FRESH"})

    code, output = ui.workplace.retune("rollback")
    assert code == 0, output
    ui.wait("a second re-index run after the rollback", lambda: ui.reindex_runs() == ["SUCCESS", "SUCCESS"])
    ui.wait("a synced index at the end", lambda: {ui.statuses()[name] for name in index} == {"FRESH"})
