"""The manifest of a version, and the names that a store may contain.

A store may be shared, so what it says is not trusted to stay inside it: a manifest names files inside its own version,
and a link leads from a name of a stage to a version.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, ValidationError

from storage.errors import ArtifactError
from storage.paths import ARTIFACTS, BUILD_KEYS, STATE_FOLDER

MANIFEST = "manifest.json"
SHOWN = 200


def safe_name(name: str) -> str:
    """``name``, which must be a relative POSIX path that stays below the folder it is in.

    Raises:
        ValueError: it does not.
    """
    path = PurePosixPath(name)
    if path.as_posix() != name or path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
        raise ValueError(f"{name[:SHOWN]!r} is not a name inside the version")
    return name


def safe_part(name: str) -> str:
    """``name``, which must be one part of a path: the name of an asset, or a version.

    Raises:
        ArtifactError: it is not.
    """
    try:
        if "/" not in safe_name(name):
            return name
    except ValueError:
        pass
    raise ArtifactError(f"{name[:SHOWN]!r} is not the name of an asset or of a version")


def check_link(name: str, target: str) -> tuple[str, str]:
    """(asset, version) of the version that a link points at or into; both paths are relative to the root.

    Raises:
        ArtifactError: the name is one of the store's own, or the target is not in a version.
    """
    try:
        first = PurePosixPath(safe_name(name)).parts[0]
        if first.startswith(".") or first in (ARTIFACTS, BUILD_KEYS, STATE_FOLDER):
            raise ValueError(f"{name[:SHOWN]!r} is not a name for a link")
        parts = PurePosixPath(safe_name(target)).parts
    except ValueError as error:
        raise ArtifactError(f"link {name[:SHOWN]!r} to {target[:SHOWN]!r}: {error}") from None
    if len(parts) < 3 or parts[0] != ARTIFACTS:
        raise ArtifactError(
            f"link {name[:SHOWN]!r} points to {target[:SHOWN]!r}, which is not in a version below {ARTIFACTS}/"
        )
    return parts[1], parts[2]


def is_inside(path: Path, folder: Path) -> bool:
    """Whether ``path``, with symbolic links followed, is below ``folder``."""
    return path.resolve().is_relative_to(folder.resolve())


class _File(BaseModel):
    bytes: NonNegativeInt
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Manifest(BaseModel):
    asset: str
    version: str
    created: str
    files: dict[Annotated[str, AfterValidator(safe_name)], _File]
    content: Annotated[str, Field(pattern=r"^[0-9a-f]+$")] | None = None


def read_manifest(text: str | bytes, asset: str, version: str, where: str) -> dict[str, Any]:
    """The manifest of one version, checked.

    Raises:
        ArtifactError: it is not JSON, a field is missing or wrong, it is another version's, or it names a file
            outside the version. ``where`` is the manifest's path or URL, for the message.
    """
    try:
        value = json.loads(text)
        found = _Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])[:SHOWN]
        raise ArtifactError(f"{where}: {field}: {first['msg']}: delete this version and run again") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: not JSON ({error}): delete this version and run again") from None
    if (found.asset, found.version) != (asset, version):
        raise ArtifactError(
            f"{where}: is the manifest of {found.asset[:SHOWN]!r} {found.version[:SHOWN]!r}: "
            "delete this version and run again"
        )
    return value
