"""A Hugging Face hub of one repository, over HTTP on this machine: model info, HEAD and ranged GET of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.loopback import serving

COMMIT = "1" * 40


@dataclass
class Hub:
    """What is served, and what was asked. ``cut_after`` breaks off each answer after so many bytes;
    ``broken`` is a file that there is only trouble with."""

    folder: Path
    hub_id: str
    url: str = ""
    cut_after: int | None = None
    gated: bool = False
    broken: str | None = None
    ranges: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve ``hub`` until the end of the block."""
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:  # noqa: C901 (one small class)
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._file(with_body=False)

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith(f"/api/models/{hub.hub_id}"):
                self._info()
            else:
                self._file(with_body=True)

        def _info(self) -> None:
            if hub.gated:
                self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
                return
            files = [
                {"rfilename": path.relative_to(hub.folder).as_posix(), "size": path.stat().st_size}
                for path in sorted(hub.folder.rglob("*"))
                if path.is_file()
            ]
            body = json.dumps({"id": hub.hub_id, "sha": COMMIT, "siblings": files}).encode()
            self._send(200, body, {"Content-Type": "application/json"})

        def _file(self, *, with_body: bool) -> None:
            name = urlsplit(self.path).path.rpartition("/")[2]
            if name == hub.broken:
                self._send(403, b"", {})
                return
            data = (hub.folder / name).read_bytes()
            tag = hashlib.sha256(data).hexdigest()
            headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if not with_body:
                self._send(200, data, headers, with_body=False)
                return
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
            if asked:
                hub.ranges.append(f"{name} from {start}")
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            hub.served.append(name)
            self._send(206 if asked else 200, data[start:], headers)

        def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool = True) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not with_body:
                return
            cut = hub.cut_after
            if cut is not None and len(body) > cut:
                self.wfile.write(body[:cut])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(body)

    return Handler
