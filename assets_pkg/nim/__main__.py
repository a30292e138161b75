"""``python -m assets_pkg.nim``: serve one model folder until told to stop."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from assets_pkg.nim.manifest import FolderError
from assets_pkg.nim.settings import SettingsError, settings_from

log = logging.getLogger("assets_pkg.nim")

GARBAGE_AT = 20_000
"""So many more objects than before are made before garbage is looked for (Python: 700)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve. Returns the exit status: 0 after a stop that was asked for, 1 when it cannot start."""
    try:
        settings = settings_from(os.environ, vars(_parser().parse_args(arguments)))
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    from assets_pkg.nim.errors import PortError
    from assets_pkg.nim.observability import set_up_logging
    from assets_pkg.nim.server import EmbeddingServer, bind
    from assets_pkg.nim.service import EmbeddingService

    set_up_logging(settings)
    # Stops at once while the model loads. The server replaces these while it runs, and when it has drained
    # raises the signal again, which ends the process with status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        listener = bind(settings)
        service = EmbeddingService(settings)
    except (FolderError, PortError) as error:
        log.error("%s", error)
        return 1
    _collect_seldom()
    try:
        EmbeddingServer(service).run([listener])
    except PortError as error:
        log.error("%s", error)
        return 1
    finally:
        service.close()
    return 0


def _collect_seldom() -> None:
    """Leave what is loaded out of garbage collection, and look at the rest less often: a tenth of the time that a
    request costs beside the model."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m assets_pkg.nim", description=__doc__)
    parser.add_argument("--model-dir", type=Path, help="folder written by the export")
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
