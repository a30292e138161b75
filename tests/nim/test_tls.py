"""HTTPS and gRPC with TLS, with a certificate that signs itself; no plain HTTP beside them."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import tritonclient.grpc as triton

from assets_pkg.nim.errors import PortError
from assets_pkg.nim.server import guarded_config
from assets_pkg.nim.settings import FrontSettings
from tests.loopback import free_port
from tests.nim.certificates import make_certificate
from tests.nim.serving import environment, serving

NAME = "embeddings.example"


@pytest.mark.slow
def test_requests_are_answered_over_tls_alone(tiny_export: Path, tmp_path: Path) -> None:
    files, grpc_port = make_certificate(tmp_path, NAME), free_port()
    certificate = files["NIM_TLS_CERT_PATH"]
    trusting = ssl.create_default_context(cafile=certificate)
    trusting.check_hostname = False  # it is asked at another name than its certificate's
    with serving(tiny_export, "--grpc-port", str(grpc_port), **files) as server:
        port = urlsplit(server.url).port
        assert server.url == f"https://127.0.0.1:{port}"
        with httpx2.Client(base_url=server.url, verify=trusting) as client:
            assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
        with httpx2.Client(base_url=server.url) as client, pytest.raises(httpx2.ConnectError):
            client.get("/v1/health/ready")
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client, pytest.raises(httpx2.HTTPError):
            client.get("/v1/health/ready")
        with triton.InferenceServerClient(
            f"127.0.0.1:{grpc_port}",
            ssl=True,
            root_certificates=certificate,
            channel_args=[("grpc.ssl_target_name_override", NAME)],
        ) as client:
            assert client.is_server_ready()
        probe = subprocess.run(
            [sys.executable, "-m", "assets_pkg.nim.probe"],
            env=environment(NIM_HTTP_API_PORT=str(port), **files),
            check=False,
        )
        assert probe.returncode == 0


async def _nothing(*_: object) -> None:
    """An application that is not asked."""


def test_files_that_are_no_certificate_and_key_are_named(tmp_path: Path) -> None:
    files = make_certificate(tmp_path)
    certificate, key = files.values()
    (tmp_path / "empty").touch()
    for pair in ((certificate, certificate), (certificate, tmp_path / "none"), (tmp_path / "empty", key)):
        settings = FrontSettings(tls_cert_path=Path(pair[0]), tls_key_path=Path(pair[1]))
        with pytest.raises(PortError, match=r"cannot be used for TLS") as error:
            guarded_config(_nothing, settings, grace_s=1)
        assert str(pair[0]) in str(error.value)
