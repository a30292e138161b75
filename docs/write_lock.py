"""Writes the exact versions that the embedding server's image is built with; run with the Python version of its base.

    python docs/write_lock.py

They are those of constraints.txt where it has them. Packages that the server never imports are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVER = ROOT / "assets_pkg" / "nim"

UNUSED = {
    *("huggingface-hub", "hf-xet", "fsspec", "filelock", "tqdm", "pyyaml"),
    *("httpx2", "httpcore2", "truststore"),
}
"""What tokenizers brings along to download files."""

GPU = "onnxruntime-gpu[cuda,cudnn]"


def main() -> None:
    processor = _resolved(["-r", str(SERVER / "requirements.txt")])
    locked = {name: version for name, version in processor.items() if name not in UNUSED}
    _write("requirements.lock", locked)
    # The same onnxruntime with NVIDIA's libraries in place of the processor's.
    gpu = _resolved([f"{GPU}=={locked['onnxruntime']}"])
    _write("requirements-gpu.lock", {name: each for name, each in gpu.items() if name not in locked})


def _resolved(wanted: list[str]) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.json"
        options = ["--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        constraints = ["-c", str(ROOT / "constraints.txt")]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *constraints, *wanted], check=True)
        found = json.loads(report.read_text("utf-8"))["install"]
    named = ((each["metadata"]["name"], each["metadata"]["version"]) for each in found)
    return dict(sorted((name.lower().replace("_", "-"), version) for name, version in named))


def _write(name: str, versions: dict[str, str]) -> None:
    lines = [f"{package}=={version}" for package, version in versions.items()]
    (SERVER / name).write_text("\n".join(["# by docs/write_lock.py", *lines, ""]), "utf-8")


if __name__ == "__main__":
    main()
