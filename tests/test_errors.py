"""Errors that Retune foresees fail a step with their message alone; all others keep their traceback."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
import pytest

from assets_pkg.automation.execute import Failure, run_assets
from assets_pkg.automation.jobs import MAIN_JOB
from assets_pkg.orchestration.asset_context import asset_context
from assets_pkg.orchestration.stage_asset import stage_asset
from resources.configurable import ArtifactStoreResource
from storage.errors import RetuneError

REPOSITORY = Path(__file__).parents[1]
OTHER_FAMILIES = {
    "nim": "the server's errors answer requests, and it runs without the rest of Retune",
}
OTHER_BASES = {"torch.OutOfMemoryError"}
"""A class that must be caught as torch's own error."""


class NotEnoughPumps(RetuneError):
    """An error of this test."""


def fail_with(error: Callable[[], Exception], root: Path) -> tuple[Failure, int]:
    """How the run of an asset that raises ``error`` ends, and how often the asset was tried, with two retries."""
    tries: list[int] = []

    @stage_asset("corpus", kinds=set())
    def passages(context, store: ArtifactStoreResource):  # type: ignore[no-untyped-def]
        with asset_context(context, store):
            tries.append(1)
            raise error()

    defs = dg.Definitions(
        assets=[passages],
        jobs=[dg.define_asset_job(MAIN_JOB, op_retry_policy=dg.RetryPolicy(max_retries=2))],
        resources={"store": ArtifactStoreResource(root=str(root))},
    )
    with dg.DagsterInstance.ephemeral() as instance:
        (failure,) = run_assets(defs, instance, ["passages"]).failures
    return failure, len(tries)


def test_a_foreseen_error_fails_the_step_with_its_message_and_no_retry(tmp_path: Path) -> None:
    failure, tries = fail_with(lambda: NotEnoughPumps("three pumps, five needed"), tmp_path)
    assert failure == Failure("passages", "three pumps, five needed", "")
    assert tries == 1


def test_any_other_error_keeps_its_traceback_and_is_retried(tmp_path: Path) -> None:
    failure, tries = fail_with(lambda: KeyError("pump"), tmp_path)
    assert "KeyError: 'pump'" in failure.trace
    assert "raise error()" in failure.trace
    assert tries == 3


def classes() -> Iterator[tuple[str, str, list[str]]]:
    """Module, name and bases (as they are written) of every class of the code."""
    for package in ("assets_pkg", "resources", "storage"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            module = path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".")
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    yield module, node.name, [ast.unparse(base) for base in node.bases]


def is_builtin_error(name: str) -> bool:
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, BaseException)


def ancestors(name: str, bases_of: Mapping[str, Sequence[str]]) -> set[str]:
    """The names of all classes above a class."""
    direct = set(bases_of.get(name, []))
    return direct.union(*(ancestors(base, bases_of) for base in direct if base != name))


def test_every_error_has_its_remedy() -> None:
    bases_of = {name: bases for _, name, bases in classes()}
    named = {
        name for name in bases_of if "RetuneError" in ancestors(name, bases_of) and not name.startswith("_")
    }
    text = (REPOSITORY / "docs/troubleshooting.md").read_text("utf-8")
    sections = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=\n\n#|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == named, "docs/troubleshooting.md: one section for each error"


def test_every_exception_class_derives_from_the_one_base() -> None:
    found = list(classes())
    bases_of = {name: bases for _, name, bases in found}
    errors = {
        (module, name): ancestors(name, bases_of)
        for module, name, _ in found
        if any(
            is_builtin_error(base) or base.endswith(("Error", "Exception"))
            for base in ancestors(name, bases_of)
        )
    }
    assert len(errors) > 50
    others = [
        f"{module}.{name}"
        for (module, name), above in errors.items()
        if name != "RetuneError"
        and "RetuneError" not in above
        and not above & OTHER_BASES
        and module.split(".")[1] not in OTHER_FAMILIES
    ]
    assert others == []


@pytest.mark.parametrize("package", OTHER_FAMILIES)
def test_the_exempt_packages_exist(package: str) -> None:
    assert (REPOSITORY / "assets_pkg" / package).is_dir()
