"""Speed of the remote artifact store: publish an artifact to a URL, fetch it into an empty folder, publish it again.

    python bench/remote.py s3://bucket/bench --megabytes 512 --files 16

Without a URL an S3 server (moto) is started on this machine; the figures then show the cost of Retune's own side.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

from storage.artifact_store import BuildKey
from storage.artifacts import Artifact
from storage.remote_store import RemoteArtifactStore


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?")
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--files", type=int, default=8)
    options = parser.parse_args()
    with ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = options.url or f"{_own_server(stack, here)}/bench"
        measure(f"{url}/{uuid.uuid4().hex}", here, options.megabytes, options.files)


def measure(url: str, here: Path, megabytes: int, files: int) -> None:
    """Print seconds and MB/s of each operation."""
    began = 0.0

    def produce(folder: Path) -> None:
        nonlocal began
        for number in range(files):
            (folder / f"{number}.bin").write_bytes(os.urandom(megabytes * 10**6 // files))
        began = time.perf_counter()

    one, two = RemoteArtifactStore(url, here / "one"), RemoteArtifactStore(url, here / "two")
    key = BuildKey("bench", "1", {})
    artifact = one.build(Artifact, key, produce)
    _show("publish: hash and send", began, megabytes)
    began = time.perf_counter()
    two.get(Artifact, "bench", artifact.version)
    _show("fetch and verify", began, megabytes)
    began = time.perf_counter()
    one.build(Artifact, key, produce)
    _show("find again", began, 0)
    one.remove("bench", artifact.version)


def _own_server(stack: ExitStack, here: Path) -> str:
    from tests.s3.server import running_s3

    server = stack.enter_context(running_s3(here))
    os.environ.update(server.environment)
    return f"s3://{server.new_bucket()}"


def _show(what: str, began: float, megabytes: int) -> None:
    seconds = time.perf_counter() - began
    rate = f"{megabytes / seconds:8.0f} MB/s" if megabytes else ""
    print(f"{what:28} {seconds:8.3f} s {rate}")


if __name__ == "__main__":
    main()
