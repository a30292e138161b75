"""The names of one graph in Dagster: one place maps the name of an asset, job, sensor or resource to what Dagster calls
it there, so that several graphs, each under a key prefix of its own, can live in one code location."""

import inspect
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import dagster as dg

from assets_pkg.config.stages import STAGE_OF
from assets_pkg.orchestration.steps import standing_for
from storage.errors import RetuneError

PREFIX_PART = re.compile(r"[A-Za-z0-9_]+")

F = TypeVar("F", bound=Callable[..., Any])


class NamesError(RetuneError, ValueError):
    """A key prefix that Dagster's names cannot have."""


@dataclass(frozen=True)
class Names:
    """What the parts of one graph are called. ``prefix``: the parts that precede the name in every asset key; none for
    a project of the command."""

    prefix: tuple[str, ...] = ()

    @classmethod
    def under(cls, key_prefix: str | Sequence[str] | None) -> "Names":
        """The names under ``key_prefix``, in the forms that Dagster takes.

        Raises:
            NamesError: a part has other characters than letters, digits and underscores, of which the names of jobs
                and resources are made too.
        """
        parts = (key_prefix,) if isinstance(key_prefix, str) else tuple(key_prefix or ())
        for part in parts:
            if not PREFIX_PART.fullmatch(part):
                raise NamesError(
                    f"key_prefix: {part!r} may have letters, digits and underscores only; several parts are a list"
                )
        return cls(parts)

    @classmethod
    def around(cls, keys: Collection[dg.AssetKey]) -> "Names":
        """The names of the graph that the assets ``keys`` belong to, one of its steps."""
        return cls(tuple(next(iter(keys)).path[:-1]))

    def key(self, asset: str | dg.AssetKey) -> dg.AssetKey:
        """The key of an asset of this graph; a key stays as it is."""
        return asset if isinstance(asset, dg.AssetKey) else dg.AssetKey([*self.prefix, asset])

    def asset(self, key: dg.AssetKey) -> str:
        """The name of the asset ``key`` in this graph; of one under another prefix, all of its key."""
        return key.path[-1] if self.has(key) else key.to_user_string()

    def has(self, key: dg.AssetKey) -> bool:
        """Whether ``key`` is under this graph's prefix."""
        return tuple(key.path[:-1]) == self.prefix

    def makes(self, key: dg.AssetKey) -> bool:
        """Whether ``key`` is an asset of this graph, and none of the user's own."""
        return self.has(key) and key.path[-1] in STAGE_OF

    def of(self, name: str) -> str:
        """What a job, schedule, sensor, step or resource ``name`` of this graph is called."""
        return "__".join((*self.prefix, name))

    def group(self, name: str, group_prefix: str | None) -> str:
        """What the group ``name`` is called: behind ``group_prefix``, by default the key prefix."""
        prefix = "_".join(self.prefix) if group_prefix is None else group_prefix
        return f"{prefix}_{name}" if prefix else name

    def taking(self, function: F, resources: Collection[str]) -> F:
        """``function`` with those of its parameters that are ``resources`` called as these are: Dagster hands a
        resource to the parameter of its name."""
        if not self.prefix:
            return function
        own = {self.of(name): name for name in resources}

        def called(*arguments: Any, **named: Any) -> Any:
            return function(*arguments, **{own.get(name, name): value for name, value in named.items()})

        signature = inspect.signature(function)
        renamed = [
            each.replace(name=self.of(each.name)) if each.name in resources else each
            for each in signature.parameters.values()
        ]
        shown: Any = standing_for(function, called)
        shown.__signature__ = signature.replace(parameters=renamed)
        shown.__annotations__ = {
            self.of(name) if name in resources else name: kind
            for name, kind in inspect.get_annotations(function).items()
        }
        return shown


UNPREFIXED = Names()
"""Of a project of the command, whose keys have no prefix."""
