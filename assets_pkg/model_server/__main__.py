"""``python -m assets_pkg.model_server NAME``: serve a registered model until SIGTERM or SIGINT, as its image does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from assets_pkg.model_server.serve import ready_line, serve_model
from storage.errors import RetuneError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 after a signal, 1 when the server cannot start."""
    parser = argparse.ArgumentParser(prog="python -m assets_pkg.model_server", description=__doc__)
    parser.add_argument("name", help="a name, alias or hub id of models.yaml")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8003, help="port to listen on (8003); 0 takes a free one")
    given = parser.parse_args(arguments)
    try:
        serve_model(given.name, given.host, given.port, ready=lambda url: _say(ready_line(given.name, url)))
    except RetuneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
