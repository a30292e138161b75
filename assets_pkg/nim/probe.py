"""``python -m assets_pkg.nim.probe``: ends with status 0 if the server of this environment is ready; a container's
health check."""

from __future__ import annotations

import os
import ssl
import sys
from http.client import HTTPConnection, HTTPSConnection

from assets_pkg.nim.settings import SettingsError, listen_address

TIMEOUT_S = 4
ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def main() -> int:
    try:
        host, port = listen_address(os.environ, None, None, 8000)
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    address = ANY_ADDRESS.get(host, host)
    if os.environ.get("NIM_TLS_CERT_PATH"):
        # Whose certificate it is matters to those who send texts; this asks its own server only whether it is ready.
        context = ssl._create_unverified_context()
        connection: HTTPConnection = HTTPSConnection(address, port, timeout=TIMEOUT_S, context=context)
    else:
        connection = HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/v1/health/ready")
        answer = connection.getresponse()
    except OSError as error:
        sys.stderr.write(f"no answer: {error}\n")
        return 1
    finally:
        connection.close()
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
