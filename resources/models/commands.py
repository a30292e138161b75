"""What ``retune models list | show | add | check | download | path`` print, as plain rows and lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.models.add import Draft, checks_of, draft, locate, minimal_facts, write_entry
from resources.models.download import DownloadPlan, download, plan_download
from resources.models.entry import GIGABYTE, ModelEntry, Pooling
from resources.models.files import check_files, digest_model
from resources.models.locations import find_weights, weights_folder
from resources.models.registry import Registry
from storage.progress import Progress, no_progress

if TYPE_CHECKING:
    from resources.encoders.conformance import Check
    from resources.machine.accelerator import Accelerator

HIDDEN = ("sources", "unverified")
COMMERCIAL = {True: "yes", False: "NO", None: "unknown"}


@dataclass(frozen=True)
class ModelCheck:
    """What ``check`` found. ``problems`` are of the files (or why there are none), ``checks`` of the behaviour;
    ``digest`` is of the weights, None where they are not whole or not here."""

    name: str
    where: str
    problems: tuple[str, ...]
    digest: str | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return not self.problems and all(check.passed is not False for check in self.checks)


def list_models(registry: Registry, root: Path | None = None) -> list[dict[str, str]]:
    """One row for each model: name, what it embeds, size, licence, and where it is or why it cannot be used.

    Files are looked at, nothing is loaded, no server is asked.
    """
    from resources.models.locations import find_model

    rows: list[dict[str, str]] = []
    for name, entry in registry:
        location = find_model(name, entry, root)
        where = location.reason if location.kind == "missing" else str(location.folder or location.url)
        rows.append(
            {
                "name": name,
                "embeds": ", ".join(entry.modalities),
                "dim": _shown(entry.dimensions),
                "GB": _gigabytes(entry.disk_bytes),
                "commercial": COMMERCIAL[entry.commercial_use],
                "status": location.kind,
                "hub id": entry.hub_id or "",
                "licence": entry.license or "none declared",
                "where": where,
            }
        )
    return rows


def show_model(registry: Registry, name: str) -> list[dict[str, str]]:
    """Every fact of one model: fact, value, source (with ``unverified`` where it was not checked at first hand).

    Raises:
        RegistryError: there is no such model.
    """
    entry = registry.get(name)
    facts: dict[str, Any] = entry.model_dump(mode="json", exclude=set(HIDDEN))
    given = {
        key: value
        for key, value in facts.items()
        if key in entry.model_fields_set and value not in (None, [])
    }
    rows = [
        {"fact": key, "value": _shown(value), "source": entry.source_of(key)} for key, value in given.items()
    ]
    for fact, size in (("disk", entry.disk_bytes), ("memory", entry.memory_bytes)):
        if size is not None:
            rows.append({"fact": f"{fact}, GB", "value": _gigabytes(size), "source": "parameters"})
    return rows


@dataclass(frozen=True)
class Added:
    """What ``add`` did: the entry, the checks of its behaviour, and the file that it was written to; None where a check
    failed."""

    drafted: Draft
    checks: tuple[Check, ...]
    path: Path | None


def add_model(
    target: str,
    name: str | None = None,
    pooling: Pooling | None = None,
    *,
    accelerator: Accelerator | None = None,
    confirm: Callable[[DownloadPlan], None] = lambda plan: None,
    token: str | None = None,
) -> Added:
    """Write an entry for a model folder or hub id to the user's ``models.yaml``, if the model passes the truth checks.

    Args:
        name: in the registry; by default the folder's, in small letters.
        pooling: of a folder that says nothing of it.
        confirm: called with the plan before a model is downloaded.

    Raises:
        RegistryError, ModelNameError: it is registered, there is no such model, or it is no text model.
        DownloadError: it cannot be downloaded.
        EncoderError: it cannot be loaded.
    """
    from resources.machine.accelerator import find_accelerator

    named = locate(target)
    facts = minimal_facts(named, pooling)
    short = name or Path(facts["folder"]).name.lower()
    if named.folder is None:
        plan = plan_download(short, ModelEntry.model_validate(facts), token=token)
        confirm(plan)
        download(plan, token=token)
        named = replace(named, folder=plan.folder)
        facts["revision"] = plan.revision
    device = accelerator or find_accelerator()
    drafted = draft(named, short, facts, device)
    checks = tuple(checks_of(drafted, device))
    passed = all(check.passed is not False for check in checks)
    return Added(drafted, checks, write_entry(drafted) if passed else None)


def check_model(
    registry: Registry,
    name: str,
    root: Path | None = None,
    *,
    accelerator: Accelerator | None = None,
    load: bool = True,
) -> ModelCheck:
    """Are the model's files complete, and does it behave as its registry entry says? Without ``load`` only its
    files are checked.

    Raises:
        RegistryError: there is no such model.
    """
    from resources.encoders.conformance import truth_checks
    from resources.encoders.factory import look_up, open_encoder
    from resources.encoders.http import ServiceError
    from resources.encoders.sentence_transformer import EncoderError

    found = look_up(registry, name, root)
    folder = found.location.folder
    where = str(folder or found.location.url or "not here")
    problems = _all_problems(found.name, found.entry, folder, found.problem)
    if problems or not load:
        digest = digest_model(folder) if folder is not None and not problems else None
        return ModelCheck(found.name, where, problems, digest, ())
    encoder = open_encoder(found, accelerator)
    try:
        checks = tuple(truth_checks(found.entry, encoder))
    except (EncoderError, ServiceError) as error:
        return ModelCheck(found.name, where, (str(error),), None, ())
    finally:
        encoder.close()
    return ModelCheck(found.name, where, (), None if folder is None else digest_model(folder), checks)


def path_of(registry: Registry, name: str, root: Path | None = None) -> Path:
    """The folder of a model's weights; where they would be downloaded to if they are nowhere.

    Raises:
        RegistryError: there is no such model.
    """
    short = registry.name_of(name)
    entry = registry.get(name)
    location = find_weights(short, entry, root)
    if location is not None and location.folder is not None:
        return location.folder
    return weights_folder(short, entry, root)


def plan_model(
    registry: Registry, name: str, root: Path | None = None, token: str | None = None
) -> DownloadPlan:
    """What ``download`` would fetch: show `DownloadPlan.describe` first, it has the size, free space and licence.

    Raises:
        RegistryError: there is no such model.
        DownloadError: the hub cannot be asked.
    """
    return plan_download(registry.name_of(name), registry.get(name), root, token=token)


def download_model(plan: DownloadPlan, progress: Progress = no_progress, token: str | None = None) -> str:
    """Do it; returns the digest of what arrived. Raises `DownloadError`."""
    return download(plan, progress, token=token)


def _all_problems(name: str, entry: ModelEntry, folder: Path | None, first: str | None) -> tuple[str, ...]:
    """Every problem of the files, not only the first."""
    if first is None:
        return ()
    return (first,) if folder is None else tuple(problem.text for problem in check_files(name, entry, folder))


def _gigabytes(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / GIGABYTE:.{1 if size >= GIGABYTE else 2}f}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
    return "" if value is None else str(value)
