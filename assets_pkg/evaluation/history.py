"""What was promoted when, by whom and why: read from the events of ``promoted_model``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from assets_pkg.door import ARTIFACT_KEY

if TYPE_CHECKING:
    import dagster as dg

MOST = 1000


@dataclass(frozen=True)
class Promotion:
    """One decision: ``model`` is what was pointed at after it, as ``asset/version``."""

    when: datetime
    model: str
    moved: bool
    reason: str

    @property
    def version(self) -> str:
        return self.model.partition("/")[2]


def promotions(instance: dg.DagsterInstance, most: int = MOST) -> list[Promotion]:
    """The latest decisions, newest first."""
    import dagster as dg

    found: list[Promotion] = []
    for record in instance.fetch_materializations(dg.AssetKey("promoted_model"), limit=most).records:
        event = record.asset_materialization
        if event is not None:
            told = event.metadata
            when = datetime.fromtimestamp(record.timestamp).astimezone()
            reason = str(told["decision"].value)
            found.append(Promotion(when, str(told[ARTIFACT_KEY].value), bool(told["moved"].value), reason))
    return found


def rows(history: Sequence[Promotion]) -> list[dict[str, str]]:
    """The history as a table for people."""
    return [
        {
            "when": each.when.strftime("%Y-%m-%d %H:%M"),
            "model": each.model,
            "pointer": "moved" if each.moved else "kept",
            "decision": each.reason,
        }
        for each in history
    ]
