"""Weights from the Hugging Face hub: the plan, the download, and the check that it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from resources.models.entry import GIGABYTE, ModelEntry
from resources.models.files import check_files, digest_model
from resources.models.locations import weights_folder
from storage.errors import RetuneError
from storage.progress import Progress, no_progress

LEFT_OUT = (
    "*.onnx",
    "*.onnx_data",
    "onnx/*",
    "openvino/*",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.gguf",
    "*.md5",
    "*.pdf",
)
NOT_ONNX = (*LEFT_OUT, "*.safetensors", "*.bin", "*.index.json")
GRAPH = "onnx/model.onnx*"
"""The graph in float32 and its weights, in the hub's usual layout; other precisions lie beside it."""

PICKLED = ("*.bin", "*.bin.index.json")
HEADROOM_BYTES = 500_000_000
"""Space that must stay free on the disk."""


class DownloadError(RetuneError):
    """A model cannot be downloaded; the message says what is missing and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository, and whether it is here already."""

    name: str
    size: int
    present: bool


@dataclass(frozen=True)
class DownloadPlan:
    """What a download would do. Sizes are in bytes; ``revision`` is the commit that is fetched."""

    name: str
    entry: ModelEntry
    revision: str
    folder: Path
    files: Sequence[RemoteFile]
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def needed_bytes(self) -> int:
        """Bytes that are not here yet."""
        return sum(file.size for file in self.files if not file.present)

    @property
    def fits(self) -> bool:
        return self.needed_bytes + HEADROOM_BYTES <= self.free_bytes

    def describe(self) -> list[str]:
        """What to show before the download is confirmed: size, free space, licence."""
        entry = self.entry
        allowed = {True: "commercial use allowed", False: "NO commercial use", None: "commercial use unknown"}
        return [
            f"{entry.hub_id} at {self.revision[:12]} into {self.folder}",
            f"{self.needed_bytes / GIGABYTE:.2f} GB to download of {self.total_bytes / GIGABYTE:.2f} GB; "
            f"{self.free_bytes / GIGABYTE:.2f} GB free",
            f"licence: {entry.license or 'none declared'} ({allowed[entry.commercial_use]})"
            + (f", {entry.license_url}" if entry.license_url else ""),
        ]


def plan_download(
    name: str, entry: ModelEntry, root: Path | None = None, *, token: str | None = None
) -> DownloadPlan:
    """Ask the hub what a download would fetch. Nothing is written.

    Raises:
        DownloadError: the model has no hub id, the hub cannot be reached, or the repository needs a token or a
            licence accepted on its page.
    """
    if entry.hub_id is None:
        raise DownloadError(f"{name} is a service ({entry.base_url}): there are no weights to download")
    revision, sizes = _remote_files(entry, token)
    folder = weights_folder(name, entry, root)
    files = [RemoteFile(file, size, _present(folder / file, size)) for file, size in sorted(sizes.items())]
    return DownloadPlan(name, entry, revision, folder, files, _free_bytes(folder))


def download(plan: DownloadPlan, progress: Progress = no_progress, *, token: str | None = None) -> str:
    """Fetch what is missing and return the model's digest.

    Files that are complete are never fetched again; a file whose connection broke is resumed where
    it broke. (A process that is killed loses the file it was in: huggingface_hub keeps no part of it.)

    Raises:
        DownloadError: the disk is too full, the connection broke, or the files are incomplete.
    """
    from huggingface_hub import hf_hub_download  # pyright: ignore[reportUnknownVariableType]

    if not plan.fits:
        raise DownloadError(
            f"{plan.name} needs {(plan.needed_bytes + HEADROOM_BYTES) / GIGABYTE:.1f} GB and "
            f"{plan.free_bytes / GIGABYTE:.1f} GB are free at {plan.folder}: free some space, or name another "
            "disk with RETUNE_EMBEDDING_MODELS"
        )
    done = plan.total_bytes - plan.needed_bytes
    for file in plan.files:
        if file.present:
            continue
        try:
            hf_hub_download(
                str(plan.entry.hub_id), file.name, revision=plan.revision, local_dir=plan.folder, token=token
            )
        except Exception as error:
            raise DownloadError(_explain(plan.entry, error)) from error
        done += file.size
        progress(done // 1_000_000, plan.total_bytes // 1_000_000, "MB")
    for partial in (plan.folder / ".cache").rglob("*.incomplete"):
        partial.unlink(missing_ok=True)
    problems = check_files(plan.name, plan.entry, plan.folder) if plan.entry.adapter != "http" else []
    if problems:
        raise DownloadError("; ".join(problem.text for problem in problems))
    return digest_model(plan.folder)


def _remote_files(entry: ModelEntry, token: str | None) -> tuple[str, dict[str, int]]:
    """The commit and the files that are needed, with sizes; pickled weights only where there are no others."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    try:
        info = HfApi(token=token).model_info(str(entry.hub_id), revision=entry.revision, files_metadata=True)
    except Exception as error:
        raise DownloadError(_explain(entry, error)) from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    safe = {PurePosixPath(name).parent for name in sizes if name.endswith(".safetensors")}

    def left_out(name: str) -> bool:
        if entry.adapter == "onnx":
            return any(fnmatch(name, pattern) for pattern in NOT_ONNX) and not fnmatch(name, GRAPH)
        pickled = PICKLED if PurePosixPath(name).parent in safe else ()
        return any(fnmatch(name, pattern) for pattern in (*LEFT_OUT, *pickled))

    wanted = {name: size for name, size in sizes.items() if not left_out(name)}
    return info.sha or entry.revision or "main", wanted


def _present(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _free_bytes(folder: Path) -> int:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _explain(entry: ModelEntry, error: Exception) -> str:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{entry.hub_id}"
    if isinstance(error, errors.GatedRepoError):
        return f"{entry.hub_id} asks for its licence to be accepted: open {page}, accept it, and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{entry.hub_id} is not on the hub, or only for some: see {page}; set HF_TOKEN if you have access"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{entry.hub_id} has no revision {entry.revision}: correct it in models.yaml"
    return (
        f"{entry.hub_id} cannot be fetched ({type(error).__name__}: {' '.join(str(error).split())[:200]}). Complete "
        "files are kept: run the same command again"
    )
