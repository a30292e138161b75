"""How a sensor gets the resource that raises alerts."""

from collections.abc import Callable
from typing import Any, TypeVar

from assets_pkg.orchestration.names import Names

F = TypeVar("F", bound=Callable[..., Any])


def takes_alerts(names: Names) -> Callable[[F], F]:
    """For the function of a sensor that takes the resource ``alerts``: it takes the one of its graph."""
    return lambda function: names.taking(function, ("alerts",))
