"""Alerts reach a webhook, never fail the work, and never show its address."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from resources.configurable import AlertsResource
from tests.loopback import serving


class Hook(HTTPServer):
    """Keeps the bodies that were posted; answers with ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.asked = 0
        self.address = f"http://127.0.0.1:{self.server_port}/hook/very-secret-token"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(json.loads(body))
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        if 300 <= self.server.status < 400 and self.server.asked == 1:
            self.send_header("Location", self.server.address)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    with serving(Hook()) as server:
        monkeypatch.setenv("RETUNE_ALERT_WEBHOOK", server.address)
        yield server


def test_an_alert_is_posted_and_logged(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    assert AlertsResource().send("gate_failed", "no gain")
    assert hook.bodies == [{"event": "gate_failed", "text": "no gain"}]
    assert "gate_failed: no gain" in caplog.text


@pytest.mark.parametrize("broken", ["status", "gone", "nonsense"])
def test_an_undelivered_alert_is_logged_without_the_address(
    broken: str, hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    if broken == "status":
        hook.status = 500
    elif broken == "gone":
        hook.shutdown()
        hook.server_close()
    else:
        monkeypatch.setenv("RETUNE_ALERT_WEBHOOK", "not-an-address/very-secret-token")
    assert not AlertsResource().send("run_failed", "it broke")
    assert "did not take the alert" in caplog.text
    assert "very-secret-token" not in caplog.text


def test_without_a_webhook_an_alert_is_only_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RETUNE_ALERT_WEBHOOK", raising=False)
    assert not AlertsResource().send("server_died", "gone")
    assert "server_died: gone" in caplog.text


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_counts_as_undelivered(status: int, hook: Hook) -> None:
    hook.status = status
    assert not AlertsResource().send("run_failed", "it broke")
    assert hook.asked == 1


def test_a_hook_on_this_machine_is_reached_without_the_proxy_of_the_environment(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert AlertsResource().send("run_failed", "it broke")
