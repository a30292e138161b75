"""Kill commands at random moments, and see whether anything is lost.

    python bench/kills.py [--kills 100] [--seed 0] [--folder DIR]

Two tiny projects (40 documents, a random two-layer BERT) go through the same changes of their documents. In one of
them each of ``retune run``, ``reindex``, ``promote``, ``rollback`` and ``gc`` is killed (SIGKILL to the whole process
group) at a random moment of the time that it takes; in the other one nothing is killed. After every kill the killed
project must be readable: its history and pointers name whole artifacts only. At the end the same commands run once in
both, and every current artifact must have the same files (scores may differ in the fifth decimal: batches of texts are
composed otherwise after a kill), and search the same results; nothing of the killed builds may be left after
``retune gc``, and no process.

Commands run in processes forked from this one, so that importing torch is not what is killed most of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import random
import re
import runpy
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import dagster as dg
import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from assets_pkg.orchestration.history import artifact_ref, latest
from storage.artifact_store import ArtifactStore
from tests.command.forked import IMPORTED
from tests.conftest import save_tiny_model, write_corpus, write_profile

ASSETS = (
    "raw_corpus",
    "passages",
    "base_model",
    "synthetic_qa",
    "eval_set",
    "training_set",
    "mined_train_set",
    "checkpoint",
    "eval_metrics",
    "promoted_model",
    "onnx_model",
    "corpus_embeddings",
    "vector_index",
)
RUN = ("run", "--to", "export")
VOLATILE = re.compile(
    r"manifest\.json|summary\.json|training\.jsonl?|README\.md|events\.out.*|.*\.(png|html)"
)
TEXTS = (".json", ".jsonl", ".trec", ".tsv")
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
ROUNDING = 2e-5
QUERY = "how is the pressure of the pump checked"


@dataclass
class Project:
    """A folder with documents, a profile, an artifact root and a history."""

    home: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def documents(self) -> Path:
        return self.home / "documents"

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.home / "output")

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home / ".dagster"))

    def command(self, arguments: Sequence[str], kill_after: float | None = None) -> tuple[int, str]:
        """Exit code (negative: the signal that ended it) and what was printed."""
        log = self.home / "command.log"
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _become_command(self.home, log, arguments)
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            self.seconds[arguments[0]] = time.monotonic() - started
        return code, log.read_text("utf-8", errors="replace")

    def finish(self, *arguments: str) -> str:
        code, output = self.command(arguments)
        if code != 0:
            raise SystemExit(f"{self.home}: retune {' '.join(arguments)} ended with {code}:\n{output}")
        return output

    def current(self) -> dict[str, str]:
        """The version of every asset's latest materialization."""
        with self.instance() as instance:
            made = {asset: latest(instance, asset) for asset in ASSETS}
        found = {asset: artifact_ref(each) for asset, each in made.items() if each is not None}
        return {asset: str(each) for asset, each in found.items() if each is not None}


def _become_command(home: Path, log: Path, arguments: Sequence[str]) -> None:
    os.setsid()
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(home)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "RETUNE"))}
    os.environ.clear()
    os.environ.update(kept, RETUNE_PROFILE=str(home / "profile.yaml"))
    sys.path[0] = str(home)
    sys.argv[1:] = arguments
    code = 1
    try:
        runpy.run_module("assets_pkg.cli", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def make_project(home: Path, model: Path) -> Project:
    home.mkdir(parents=True)
    write_corpus(home / "documents")
    profile = write_profile(
        home / "profile.yaml", corpus=Path("documents"), model=model, root=home / "output"
    )
    settings = yaml.safe_load(profile.read_text("utf-8"))
    profile.write_text(yaml.safe_dump({**settings, "artifact_root": "output"}), "utf-8")
    return Project(home)


def change(projects: Sequence[Project], rng: random.Random, number: int) -> None:
    """The same change in the documents of all projects."""
    names = sorted(path.name for path in projects[0].documents.glob("*.md"))
    name, kind = rng.choice(names), rng.choice(("append", "append", "delete", "add"))
    for project in projects:
        path = project.documents / name
        if kind == "append":
            with path.open("a", encoding="utf-8") as stream:
                stream.write(f"\nA changed sentence about cargo and tide, number {number}, stands here.\n")
        elif kind == "delete" and len(names) > 30:
            path.unlink()
        else:
            text = path.read_text("utf-8").replace("#", f"# {number}:", 1)
            (project.documents / f"new-{number}.md").write_text(text, "utf-8")


def choose(rng: random.Random, models: Sequence[str]) -> tuple[str, ...]:
    """A command to kill."""
    choices: list[tuple[str, ...]] = [
        *4 * [RUN],
        *3 * [("reindex",)],
        ("promote", rng.choice(models), "--because", "a test"),
        ("rollback",),
        *2 * [("gc", "--keep", "1")],
    ]
    return rng.choice(choices)


def problems_of(project: Project) -> list[str]:
    """What the history or a pointer names, and the store does not hold whole."""
    found: list[str] = []
    for asset, named in project.current().items():
        kind, _, version = named.partition("/")
        if not project.store.has(kind, version):
            found.append(f"{asset}: the history names {named}, which is not whole")
    for link in project.store.root.rglob("*"):
        if link.is_symlink() and not link.exists():
            found.append(f"{link.relative_to(project.store.root)}: names what is not there")
    return found


def files_of(project: Project) -> dict[str, Path]:
    """The files of every current artifact, without those that tell times or the versions of inputs."""
    found: dict[str, Path] = {}
    for asset, named in project.current().items():
        folder = project.store.root / "artifacts" / named
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            # LanceDB's files have random names: the index is compared by searching it.
            if path.is_file() and inside.parts[0] != "lancedb" and not VOLATILE.fullmatch(path.name):
                found[f"{asset}/{inside}"] = path
    return found


def is_same(path: Path, expected: Path) -> bool:
    """Whether two files are equal; numbers in texts may differ by what the composition of batches changes."""
    data = (path.read_bytes(), expected.read_bytes())
    if data[0] == data[1] or path.suffix not in TEXTS:
        return data[0] == data[1]
    words = [NUMBER.split(each.decode()) for each in data]
    numbers = [[float(number) for number in NUMBER.findall(each.decode())] for each in data]
    return words[0] == words[1] and bool(np.allclose(*numbers, rtol=0, atol=ROUNDING))


def compare(killed: Project, whole: Project) -> list[str]:
    """What differs between the projects after the same last commands in both."""
    files, expected = files_of(killed), files_of(whole)
    found = [f"{name}: only in one of the projects" for name in sorted(files.keys() ^ expected.keys())]
    common = sorted(files.keys() & expected.keys())
    found += [f"{name}: other contents" for name in common if not is_same(files[name], expected[name])]
    printed = [each.finish("search", QUERY, "--json") for each in (killed, whole)]
    hits = [[json.loads(line) for line in each.splitlines() if line.startswith("{")] for each in printed]
    if not hits[0] or hits[0] != hits[1]:
        found.append("search: other results")
    return found


def leftovers(project: Project) -> list[str]:
    """Files of unfinished builds; the locks that builds take are empty files and stay."""
    work = project.store.root / ".work"
    files = (path for path in work.rglob("*") if path.is_file() and path.suffix != ".lock")
    return [str(path.relative_to(project.store.root)) for path in files]


def processes_of(project: Project) -> list[str]:
    found: list[str] = []
    for process in psutil.process_iter(["cmdline", "cwd", "pid"]):
        if process.info["pid"] != os.getpid() and str(project.home) in str(process.info["cwd"]):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def run(kills: int, seed: int, folder: Path, console: Console) -> int:
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    rng = random.Random(seed)
    model = folder / "model"
    model.mkdir(parents=True)
    save_tiny_model(model)
    killed, whole = (make_project(folder / name, model / "st") for name in ("killed", "whole"))
    console.print("first, every command once without a kill")
    killed.finish(*RUN)
    models = [killed.current()[name].partition("/")[2] for name in ("base_model", "checkpoint")]
    killed.finish("reindex")
    killed.finish("promote", models[0], "--because", "a test")
    killed.finish("rollback")
    killed.finish("gc", "--keep", "1")
    typical = dict(killed.seconds)
    count, dead, problems = Counter[str](), Counter[str](), list[str]()
    started = time.monotonic()
    for number in range(kills):
        if number % 10 == 0:
            console.print(f"{number} of {kills} kills, {time.monotonic() - started:.0f} s")
        change([killed, whole], rng, number)
        models = (
            sorted({path.name for path in (killed.store.root / "artifacts" / "checkpoint").iterdir()})
            or models
        )
        arguments = choose(rng, models)
        code, output = killed.command(arguments, rng.uniform(0, typical[arguments[0]]))
        count[arguments[0]] += 1
        dead[arguments[0]] += code == -signal.SIGKILL
        if code not in (0, 1, -signal.SIGKILL) or "Traceback" in output:
            problems.append(f"{number}: {' '.join(arguments)} ended with {code}: {output[-600:]}")
        problems += [f"{number}: after {' '.join(arguments)}: {each}" for each in problems_of(killed)]
    elapsed = time.monotonic() - started
    console.print("last, the same commands in both")
    for project in (killed, whole):
        project.finish(*RUN)
        checkpoint = project.current()["checkpoint"].partition("/")[2]
        project.finish("promote", checkpoint, "--because", "the last one")
        project.finish(*RUN)
        project.finish("reindex")
        project.finish("gc", "--keep", "1")
    problems += compare(killed, whole)
    problems += [f"left behind: {each}" for each in leftovers(killed)]
    problems += [f"still running: {each}" for each in processes_of(killed)]
    table = Table("command", "started", "killed before it ended", "seconds without a kill")
    for name in count:
        table.add_row(name, str(count[name]), str(dead[name]), f"{typical[name]:.1f}")
    console.print(table)
    console.print(
        f"{sum(dead.values())} of {kills} commands killed, in {elapsed / 60:.1f} minutes; seed {seed}"
    )
    same = killed.current().items() & whole.current().items()
    console.print(
        f"{len(files_of(killed))} files of {len(ASSETS)} assets compared; {len(same)} have the same version"
    )
    for each in problems:
        console.print(f"PROBLEM {each}", markup=False)
    console.print("nothing lost, nothing mixed" if not problems else f"{len(problems)} problems")
    return bool(problems)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the projects there")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        sys.exit(run(options.kills, options.seed, folder.absolute(), Console()))


if __name__ == "__main__":
    main()
