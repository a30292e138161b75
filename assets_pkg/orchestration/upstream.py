"""The artifacts that were made before, by the names of their assets: what a step, a check or a command reads."""

from __future__ import annotations

from typing import TypeVar

import dagster as dg

from assets_pkg.orchestration.history import artifact_ref, latest, latest_record, visible_to
from assets_pkg.orchestration.names import UNPREFIXED, Names
from resources.configurable import ArtifactStoreResource
from storage.artifacts import Artifact

A = TypeVar("A", bound=Artifact)


class UpstreamArtifacts:
    """The artifacts of the latest materializations, typed; for a run, those that it works with
    (:func:`~assets_pkg.orchestration.history.visible_to`). Assets are named as without a key prefix; ``names`` says
    under which they are."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        store: ArtifactStoreResource,
        run_id: str | None = None,
        names: Names = UNPREFIXED,
    ):
        self.instance = instance
        self.store = store.get()
        self.names = names
        self._run_id = run_id

    def input(self, kind: type[A], asset: str) -> A:
        """The artifact that the upstream ``asset`` recorded in its latest materialization.

        Raises:
            dg.Failure: the upstream asset was never materialized here.
        """
        return self._artifact(kind, self.recorded(asset))

    def current(self, kind: type[A], asset: str) -> A | None:
        """The artifact of the latest materialization of ``asset`` in this artifact root, whichever run made it; None
        if there is none."""
        made = self.latest(asset)
        return None if made is None else self._artifact(kind, made)

    def latest(self, asset: str) -> dg.AssetMaterialization | None:
        """The latest materialization of ``asset`` in this artifact root, whichever run made it, if there is one."""
        return latest(self.instance, self.names.key(asset), self.store)

    def previous(self, asset: str | dg.AssetKey) -> dg.AssetMaterialization | None:
        """The latest materialization of ``asset`` that is seen from here, if there is one."""
        record = self._record(asset)
        return None if record is None else record.asset_materialization

    def _artifact(self, kind: type[A], materialization: dg.AssetMaterialization) -> A:
        recorded = artifact_ref(materialization)
        assert recorded is not None, f"{materialization.asset_key.to_user_string()} records no artifact"
        return self.store.get(kind, *recorded)

    def _record(self, asset: str | dg.AssetKey) -> dg.EventLogRecord | None:
        key = self.names.key(asset)
        store = self.store if self.names.makes(key) else None
        if self._run_id is None:
            return latest_record(self.instance, key, store)
        return visible_to(self.instance, self._run_id, key, store)

    def recorded(self, asset: str | dg.AssetKey) -> dg.AssetMaterialization:
        """The latest materialization of the upstream ``asset`` that is seen from here.

        Raises:
            dg.Failure: it was never materialized here.
        """
        materialization = self.previous(asset)
        if materialization is None and not self.names.makes(key := self.names.key(asset)):
            raise dg.Failure(f"{key.to_user_string()} was never materialized", allow_retries=False)
        if materialization is None:
            raise dg.Failure(
                f"'{self.names.key(asset).to_user_string()}' was never materialized: materialize it and what it is "
                "made of first, in the UI or with the command (retune run --from sdg)",
                allow_retries=False,
            )
        return materialization


def inputs_of_check(
    context: dg.AssetCheckExecutionContext, store: ArtifactStoreResource
) -> UpstreamArtifacts:
    """The artifacts that the run of a check works with."""
    names = Names.around([spec.asset_key for spec in context.check_specs])
    return UpstreamArtifacts(context.instance, store, context.run.run_id, names)
