"""A real S3-compatible server (moto) as a process of its own, and a network in front of it that can be disturbed."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx

from tests.loopback import free_port, serving

REGION = "us-east-1"
NOT_FORWARDED = {"connection", "keep-alive", "transfer-encoding", "expect", "server", "date"}


@dataclass(frozen=True)
class S3Server:
    """A running server, and a key that it takes."""

    url: str
    key: str = "test-key-id"
    secret: str = "test-secret"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str = "s3") -> Any:
        """Amazon's own client."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )

    def new_bucket(self) -> str:
        name = f"retune-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Every object of a bucket."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        names = [each["Key"] for page in pages for each in page.get("Contents", [])]
        return {name: client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}


@contextmanager
def running_s3(folder: Path) -> Generator[S3Server]:
    """Start a server with nothing in it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    server = S3Server(f"http://127.0.0.1:{port}")
    try:
        _await(server.url, process, folder / "s3.log")
        yield server
    finally:
        process.terminate()
        process.wait(30)


def require_keys(server: S3Server) -> S3Server:
    """The same server, from now on taking only requests signed with the key of the one that is returned."""
    identities = server.client("iam")
    identities.create_user(UserName="retune")
    key = identities.create_access_key(UserName="retune")["AccessKey"]
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    identities.put_user_policy(UserName="retune", PolicyName="all", PolicyDocument=policy)
    httpx.post(f"{server.url}/moto-api/reset-auth", content=b"0").raise_for_status()
    return S3Server(server.url, key["AccessKeyId"], key["SecretAccessKey"])


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{url}/moto-api/data.json")
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the S3 server did not start:\n" + log.read_text()[-2000:])


# ---- the network in front of it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What passes by: method, path (``/bucket/name``) and the range asked for."""

    method: str
    path: str
    range: str


@dataclass(frozen=True)
class Answer:
    """Sent in place of the server's: an S3 error, or (status 0) a connection cut."""

    status: int
    code: str = ""


@dataclass
class Network:
    """Forwards to a server. ``meddle`` may answer in its place, or take its time."""

    target: str
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    meddle: Callable[[Request], Answer | None] = lambda request: None

    def of(self, method: str, part: str) -> list[Request]:
        """The requests with this method whose path holds ``part``."""
        return [each for each in self.requests if each.method == method and part in each.path]


class Hold:
    """Lets ``passing`` requests that ``concerns`` chooses through; the next ones wait for the end of the test."""

    def __init__(self, concerns: Callable[[Request], bool], passing: int):
        self._concerns, self._passing = concerns, passing
        self._lock = threading.Lock()
        self.reached, self.released = threading.Event(), threading.Event()

    def __call__(self, request: Request) -> Answer | None:
        if not self._concerns(request):
            return None
        with self._lock:
            self._passing -= 1
            if self._passing >= 0:
                return None
        self.reached.set()
        self.released.wait(60)
        return Answer(0)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    network: Network

    def _pass(self) -> None:
        request = Request(self.command, urlsplit(self.path).path, self.headers.get("Range", ""))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.network.requests.append(request)
        answer = self.network.meddle(request)
        if answer is None:
            self._forward(body)
        elif answer.status == 0:
            self.close_connection = True
        else:
            text = f"<?xml version='1.0'?><Error><Code>{answer.code}</Code><Message>no</Message></Error>"
            self._reply(answer.status, {"Content-Type": "application/xml"}, text.encode())

    def _forward(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.network.target).netloc, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        left_out = NOT_FORWARDED if self.command == "HEAD" else {*NOT_FORWARDED, "content-length"}
        kept = {name: value for name, value in response.getheaders() if name.lower() not in left_out}
        self._reply(response.status, kept, response.read())
        connection.close()

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        # The answer to HEAD has no body, and the length that the body would have.
        length = {} if self.command == "HEAD" else {"Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in {**headers, **length}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def network_to(server: S3Server) -> Iterator[Network]:
    """A network in front of ``server``, at its own address."""
    network = Network(server.url)
    handler = type("Handler", (_Handler,), {"network": network})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as listening:
        network.url = f"http://127.0.0.1:{listening.server_port}"
        yield network


def environment_through(server: S3Server, network: Network) -> dict[str, str]:
    """The environment of a client that reaches ``server`` over ``network``."""
    return {**os.environ, **server.environment, "AWS_ENDPOINT_URL": network.url}
