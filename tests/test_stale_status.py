"""Dagster's own statuses, which no public API gives: a version of Dagster that changes them fails here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.orchestration.stale_status import STATUSES, StaleCause, StaleStatuses


def definitions(code_version: str = "1") -> dg.Definitions:
    @dg.asset(code_version=code_version)
    def source() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion(f"data of {code_version}"))

    @dg.asset(code_version="1", deps=[source])
    def derived() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion("derived"))

    return dg.Definitions(assets=[source, derived])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def materialize(instance: dg.DagsterInstance, defs: dg.Definitions, *names: str) -> None:
    assets = [asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    assert dg.materialize(assets, instance=instance, selection=list(names)).success


def statuses(instance: dg.DagsterInstance, defs: dg.Definitions) -> list[str]:
    found = StaleStatuses(defs, instance)
    return [found.status(dg.AssetKey(name)) for name in ("source", "derived")]


def test_an_asset_is_missing_until_it_is_made_and_fresh_then(instance: dg.DagsterInstance) -> None:
    defs = definitions()
    assert statuses(instance, defs) == ["missing", "missing"]
    materialize(instance, defs, "source", "derived")
    assert statuses(instance, defs) == ["fresh", "fresh"]
    assert list(StaleStatuses(defs, instance).causes(dg.AssetKey("derived"))) == []


def test_a_changed_code_version_is_a_cause_of_the_asset_itself(instance: dg.DagsterInstance) -> None:
    materialize(instance, definitions(), "source", "derived")
    changed = definitions("2")
    assert statuses(instance, changed)[0] == "stale"
    (cause,) = StaleStatuses(changed, instance).causes(dg.AssetKey("source"))
    assert (cause.code_changed, cause.parent) == (True, None)


def test_a_changed_parent_is_a_cause_that_names_it(instance: dg.DagsterInstance) -> None:
    materialize(instance, definitions(), "source", "derived")
    changed = definitions("2")
    materialize(instance, changed, "source")
    assert statuses(instance, changed) == ["fresh", "stale"]
    (cause,) = StaleStatuses(changed, instance).causes(dg.AssetKey("derived"))
    assert isinstance(cause, StaleCause)
    assert (cause.code_changed, cause.parent) == (False, "source")


def test_every_status_of_dagsters_has_a_name() -> None:
    from dagster._core.definitions.data_version import StaleStatus

    assert set(STATUSES) == set(StaleStatus), (
        "Dagster has other statuses: give each a name in stale_status.py"
    )


def test_only_three_modules_import_dagsters_internals() -> None:
    repository = Path(__file__).parents[1]
    found = [
        path.relative_to(repository).as_posix()
        for package in ("assets_pkg", "resources", "storage")
        for path in (repository / package).rglob("*.py")
        if "from dagster._" in (text := path.read_text("utf-8")) or "import dagster._" in text
    ]
    assert sorted(found) == [
        f"assets_pkg/orchestration/{name}.py" for name in ("compute_logs", "run_origin", "stale_status")
    ]
