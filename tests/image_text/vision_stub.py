"""A chat endpoint on loopback that answers with the colour of the image in a request, and records the requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from assets_pkg.image_text.colour import nearest_colour
from resources.encoders.items import decode_image
from tests.loopback import serving


@dataclass
class Vision:
    """``refuse``: colours for which the model refuses to answer. ``asked``: the bodies of all requests."""

    url: str = ""
    refuse: tuple[str, ...] = ()
    asked: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def vision_model(vision: Vision) -> Iterator[Vision]:
    """Serve until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            vision.asked.append(body)
            name = _colour(body)
            message: dict[str, Any] = {"role": "assistant", "content": f"A plain {name}\nsquare."}
            if name in vision.refuse:
                message = {"role": "assistant", "content": None, "refusal": "no"}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            answer = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        vision.url = f"http://127.0.0.1:{server.server_port}/v1"
        yield vision


def _colour(body: dict[str, Any]) -> str:
    (part,) = (part for part in body["messages"][-1]["content"] if part["type"] == "image_url")
    image = decode_image(part["image_url"]["url"])
    return nearest_colour([image.getpixel((0, 0))])[0]
