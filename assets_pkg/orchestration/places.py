"""What graphs in one code location may not share: the artifact root, and the port of the embedding server.

Dagster joins definitions without asking anyone. The first that sees all assets is the selection of a job, which is
resolved when the code location is loaded: there graphs are compared by what their assets say of themselves.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from assets_pkg.config.profile import Profile
from assets_pkg.orchestration.names import Names
from storage.errors import RetuneError
from storage.remote import is_url

PLACES_KEY = "retune/places"
STATED_BY = "raw_corpus"
"""The asset whose metadata says where its graph has what."""

A = TypeVar("A", bound=dg.AssetsDefinition)


class PlacesError(RetuneError, ValueError):
    """Two graphs under different prefixes have the same artifact root or server port."""


def with_places(part: A, profile: Profile, names: Names) -> A:
    """``part``, which says where its graph has what if it is the asset that does."""
    if not names.prefix or names.key(STATED_BY) not in part.keys:
        return part
    root = profile.artifact_root
    places = {
        "artifact_root": root if is_url(root) else str(Path(root).expanduser().resolve()),
        "deploy.host_port": profile.deploy.host_port,
    }
    stated: Any = part.map_asset_specs(lambda spec: spec.merge_attributes(metadata={PLACES_KEY: places}))
    return stated


class OwnAssets(dg.AssetSelection):
    """The assets ``keys`` of the graph ``names``, in a code location in which no other graph has the same places."""

    def __init__(self, keys: Collection[dg.AssetKey], names: Names):
        self._keys = frozenset(keys)
        self._names = names

    def resolve_inner(self, asset_graph: Any, allow_missing: bool) -> set[dg.AssetKey]:
        """As Dagster asks when it loads the code location.

        Raises:
            PlacesError: another graph has the same artifact root or server port.
        """
        stated = {
            node.key: node.metadata[PLACES_KEY]
            for node in asset_graph.asset_nodes
            if PLACES_KEY in node.metadata
        }
        own = stated.pop(self._names.key(STATED_BY), {})
        for key, places in stated.items():
            for name in own.keys() & places.keys():
                if own[name] == places[name]:
                    graphs = sorted(["/".join(self._names.prefix), "/".join(key.path[:-1])])
                    raise PlacesError(
                        f"the graphs {' and '.join(graphs)} have the same {name}, {own[name]}: give each profile "
                        "one of its own"
                    )
        return set(dg.AssetSelection.assets(*self._keys).resolve(asset_graph, allow_missing=allow_missing))

    def to_serializable_asset_selection(self, asset_graph: Any) -> dg.AssetSelection:
        return dg.AssetSelection.assets(*self._keys)
