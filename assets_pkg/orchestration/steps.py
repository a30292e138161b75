"""The function of a step replaced by another: for a key prefix, and for settings of a single run.

No public API of Dagster changes the step of an asset or check. ``tests/test_prefixed.py`` and
``tests/graph/test_run_config.py`` fail when a version of Dagster changes what is used here.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar, cast

import dagster as dg

A = TypeVar("A", bound=dg.AssetsDefinition)
F = TypeVar("F", bound=Callable[..., Any])


def standing_for(function: F, called: Callable[..., Any]) -> F:
    """``called`` with the name and signature of ``function``, and a generator if that is one: Dagster asks."""

    def generated(*arguments: Any, **named: Any) -> Iterator[Any]:
        yield from called(*arguments, **named)

    chosen: Any = generated if inspect.isgeneratorfunction(function) else called
    wrapped: Any = functools.wraps(function)(chosen)
    return wrapped


def function_of(part: dg.AssetsDefinition) -> Callable[..., Any]:
    """The decorated function of an asset or check."""
    compute: Any = _op(part).compute_fn
    return compute.decorated_fn


def with_function(
    part: A,
    function: Callable[..., Any],
    *,
    name: str | None = None,
    resources: Collection[str] | None = None,
    pool: str | None = None,
    **attributes: Any,
) -> A:
    """``part`` with another function for its step.

    Args:
        name: of the step; by default its own.
        resources: that the function takes; by default those that it has.
        pool: in which the step waits; by default its own.
        attributes: of the definition, to be replaced too.
    """
    step = _op(part)
    compute: Any = step.compute_fn
    made = dg.OpDefinition(
        compute_fn=compute._replace(decorated_fn=function),
        name=name or step.name,
        description=step.description,
        ins={each.name: dg.In.from_definition(each) for each in step.input_defs},
        outs={each.name: dg.Out.from_definition(each) for each in step.output_defs},
        config_schema=step.config_schema,
        required_resource_keys=set(step.required_resource_keys if resources is None else resources),
        tags=step.tags,
        code_version=step._version,
        retry_policy=step.retry_policy,
        pool=step.pool if pool is None else pool,
    )
    replaced = type(part).dagster_internal_init(
        **{**part.get_attributes_dict(), "node_def": made, **attributes}
    )
    return cast("A", replaced)


def _op(part: dg.AssetsDefinition) -> dg.OpDefinition:
    step = part.node_def
    assert isinstance(step, dg.OpDefinition)
    return step
