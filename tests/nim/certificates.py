"""A certificate that signs itself, as an operator makes one."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificate(folder: Path, name: str = "embeddings.example") -> dict[str, str]:
    """The variables that name a new certificate and its key in ``folder``; it is for ``name`` and no address."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, "-days", "2", *files], check=True, capture_output=True)
    return {"NIM_TLS_CERT_PATH": str(certificate), "NIM_TLS_KEY_PATH": str(key)}
