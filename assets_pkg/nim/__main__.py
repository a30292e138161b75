"""``python -m assets_pkg.nim``: serve one model folder until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets_pkg.nim.manifest import FolderError
from assets_pkg.nim.settings import SettingsError, settings_from, unknown_variables

if TYPE_CHECKING:
    from assets_pkg.nim.loading import Load

log = logging.getLogger("assets_pkg.nim")

GC_THRESHOLD = 20_000
"""Allocations between two collections of garbage (Python's default: 700)."""


def main(arguments: Sequence[str] | None = None, load: Load | None = None) -> int:
    """Serve the folder that ``load`` loads, by default an exported one.

    Returns the exit status: 0 after a signal, 1 when the server cannot start.
    """
    try:
        settings = settings_from(os.environ, vars(_parser().parse_args(arguments)))
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    from assets_pkg.nim.errors import PortError
    from assets_pkg.nim.loading import load_export
    from assets_pkg.nim.observability import set_up_logging
    from assets_pkg.nim.server import EmbeddingServer, bind
    from assets_pkg.nim.service import EmbeddingService
    from assets_pkg.nim.tracing import TracingError

    try:
        set_up_logging(settings)
    except OSError as error:
        sys.stderr.write(f"error: RETUNE_LOG_FILE: {error.filename}: {error.strerror}\n")
        return 1
    for name in unknown_variables(os.environ):
        log.warning("%s is set, and this server does not know it: it changes nothing", name)
    # End at once while the model loads. The server replaces these handlers while it runs and raises the signal
    # again after draining, which ends the process with status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        listener = bind(settings.host, settings.port, reuse_port=settings.reuse_port)
        service = EmbeddingService(settings, load or load_export)
    except (FolderError, PortError, TracingError) as error:
        log.error("%s", error)
        return 1
    _collect_garbage_less()
    try:
        EmbeddingServer(service).run([listener])
    except PortError as error:
        log.error("%s", error)
        return 1
    finally:
        service.close()
    return 0


def _collect_garbage_less() -> None:
    """Exclude what is loaded from garbage collection, and collect the rest less often: that saves a tenth of a
    request's time outside the model."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m assets_pkg.nim", description=__doc__)
    parser.add_argument("--model-dir", type=Path, help="the model folder")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (8000); 0 takes a free one and logs it")
    parser.add_argument("--grpc-port", type=int, help="port to answer gRPC on (none); 0 takes a free one")
    parser.add_argument(
        "--reuse-port",
        action="store_true",
        default=None,
        help="share the port with another server of this user started the same way",
    )
    parser.add_argument(
        "--served-names", metavar="NAME[,NAME]", help="names to answer to, besides the model's own"
    )
    parser.add_argument("--workers", type=int, help="batches run side by side (one for each core)")
    parser.add_argument("--log-level", help="DEBUG, INFO, WARNING, ERROR or CRITICAL (INFO)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
