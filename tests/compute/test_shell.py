"""What the executors write for a shell, a scheduler or an engine, read back by these: folders and values of any kind
arrive as they are, and nothing in them is run."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from resources.compute.docker import DockerExecutor
from resources.compute.errors import ComputeError
from resources.compute.executors import make_executor
from resources.compute.host import SshHost
from resources.compute.job import JobFolder, JobSpec
from resources.compute.ray_jobs import RayExecutor
from resources.compute.slurm import SlurmExecutor
from resources.compute.targets import ComputeTarget, read_target
from tests.apt import install_packages

MARK = "was-run"
FOLDERS = (
    f"My $(touch {MARK}) project",
    f"`touch {MARK}`",
    f"a; touch {MARK} #",
    f"'; touch {MARK} '",
    f'"$(touch {MARK})"',
    f"&& touch {MARK} || true",
    "one, two: three",
    "100%j of %x",
    "-n",
    "#SBATCH --hold",
    "~ * ? [a] {b,c}",
    "überprüft 中文",
)
WITH_BACKSLASH = (*FOLDERS, f"back\\slash \\$(touch {MARK})")
RECORDER = """#!/bin/bash
printf '%s\\0' "$@" >> "$RECORD"
printf '%s\\0' "$GREETING" >> "$RECORD.greeting"
"""


class Place:
    """A project in a folder of the given name; its python, and every program beside it, records its arguments."""

    def __init__(self, home: Path):
        self.home = home
        self.record = home.parent / "record"
        self.job = JobSpec("probe-1", JobFolder(home / "jobs" / "probe-1"), "a_module", home, (home / "out",))
        for folder in (home / "out", self.job.folder.path):
            folder.mkdir(parents=True)
        self.python = home / "python"
        self.python.write_text(RECORDER, "utf-8")
        self.python.chmod(0o755)

    def target(self, **values: Any) -> ComputeTarget:
        greeting = {"GREETING": f"{self.home.name} & co"}
        return ComputeTarget.model_validate({"python": str(self.python), "env_vars": greeting, **values})

    def run(self, *command: str, script: str | None = None, path: Path | None = None) -> None:
        """Run a command, or ``script`` by bash, in a folder where a mark would be seen."""
        environment = {**os.environ, "RECORD": str(self.record)}
        if path is not None:
            environment["PATH"] = f"{path}:{environment['PATH']}"
        given = ["bash", "-c", script] if script is not None else list(command)
        done = subprocess.run(
            given, cwd=self.home, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def arguments(self) -> list[str]:
        return self.record.read_text("utf-8").split("\0")[:-1]

    def check(self) -> None:
        """The job's command ran once, with its own folder and variables; nothing else did."""
        assert self.arguments()[-3:] == ["-m", "a_module", str(self.job.folder.path)]
        assert Path(f"{self.record}.greeting").read_text("utf-8") == f"{self.home.name} & co\0"
        assert self.job.folder.exit_code.read_text() == "0\n"
        self.check_unmarked()

    def check_unmarked(self) -> None:
        assert list(self.home.parent.rglob(MARK)) == []
        assert not Path(MARK).exists()


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path / request.param)


def executables(folder: Path, **scripts: str) -> Path:
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n", "utf-8")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("place", WITH_BACKSLASH, indirect=True)
@pytest.mark.parametrize(
    "values",
    [
        {"executor": "subprocess"},
        {"executor": "docker", "container_image": f"image; touch {MARK}"},
        {"executor": "ray", "address": "http://head:8265", "secrets": ["HOME"]},
        {"executor": "ray", "address": "local"},
    ],
    ids=lambda values: "-".join(str(values[key]) for key in values if key in ("executor", "address")),
)
def test_a_script_runs_the_job_and_nothing_else(place: Place, values: dict[str, Any]) -> None:
    place.run(script=make_executor(place.target(**values)).script(place.job))
    place.check()


@pytest.mark.parametrize("place", FOLDERS, indirect=True)
def test_a_script_for_slurm_runs_the_job_and_nothing_else(place: Place) -> None:
    target = place.target(executor="slurm", account=f"$(touch {MARK})", partition=f"'; touch {MARK} #")
    place.run(script=SlurmExecutor(target).script(place.job))
    place.check()


@pytest.mark.slow
@pytest.mark.parametrize("place", FOLDERS, indirect=True)
def test_sbatch_reads_the_directives_back(place: Place, tmp_path: Path) -> None:
    install_packages({"sbatch": "slurm-client"})
    account = f'search\'s "own" \\ $(touch {MARK}) #1'
    target = place.target(executor="slurm", account=account, partition="a b,c", time="1-00:00:00")
    script, configuration = tmp_path / "job.sh", tmp_path / "slurm.conf"
    script.write_text(SlurmExecutor(target).script(place.job), "utf-8")
    configuration.write_text(
        "ClusterName=none\nSlurmctldHost=localhost(127.0.0.1)\nSlurmctldPort=1\nMessageTimeout=2\n"
        "NodeName=localhost\nPartitionName=batch Nodes=ALL\n"
    )
    # No controller listens: sbatch says how it read the script, and then that it cannot submit it.
    done = subprocess.run(
        ["sbatch", "-vvv", str(script)],
        cwd=tmp_path,
        env={**os.environ, "SLURM_CONF": str(configuration)},
        capture_output=True,
        text=True,
        check=False,
    )
    begins = 'Found in script, argument "'
    read = [line.partition(begins)[2][:-1] for line in done.stderr.splitlines() if begins in line]
    log = str(place.job.folder.log).replace("%", "%%")
    assert {f"--account={account}", "--partition=a b,c", "--time=1-00:00:00", f"--output={log}"} <= set(read)
    assert "--hold" not in read
    place.check_unmarked()


@pytest.mark.parametrize("place", [f"$(touch${{IFS}}{MARK})", "it's", "#1&2", "100%j"], indirect=True)
def test_srun_gets_image_and_mounts_as_they_are(place: Place, tmp_path: Path) -> None:
    target = place.target(
        executor="slurm",
        container_image=f"docker://$oauthtoken@nvcr.io#nvidia/x; touch {MARK}",
        mounts=[f"/data/$(touch${{IFS}}{MARK}):/data:ro"],
    )
    programs = executables(
        tmp_path / "bin",
        srun='printf "%s\\0" "$@" > "$RECORD.srun"; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    )
    place.run(script=SlurmExecutor(target).script(place.job), path=programs)
    place.check()
    options = Path(f"{place.record}.srun").read_text("utf-8").split("\0")
    home = place.home
    assert f"--container-image={target.container_image}" in options
    assert f"--container-mounts={home}:{home},{home}/out:{home}/out,{target.mounts[0]}" in options


@pytest.mark.parametrize("place", ["with space", "comma,", "co:lon", "back\\slash"], indirect=True)
def test_a_folder_that_pyxis_cannot_mount_is_named(place: Place) -> None:
    target = place.target(executor="slurm", container_image="/images/retune.sqsh")
    with pytest.raises(ComputeError, match=r"Pyxis cannot mount|no backslash"):
        SlurmExecutor(target).script(place.job)
    elsewhere = JobSpec("probe-1", JobFolder(Path("/jobs/probe-1")), "a_module", Path("/work"), ())
    with pytest.raises(ComputeError, match="Pyxis cannot mount '/a b'"):
        SlurmExecutor(target.model_copy(update={"mounts": ("/a b:/b",)})).script(elsewhere)


@pytest.mark.parametrize("place", WITH_BACKSLASH, indirect=True)
def test_docker_mounts_folders_of_any_name(place: Place) -> None:
    target = place.target(executor="docker", container_image="retune:latest", mounts=["/a b, c:/d:ro"])
    shown = DockerExecutor(target).script(place.job).splitlines()[0]
    argv = shlex.split(shown.removeprefix("# "))
    values = list(pairwise(argv))
    volumes = [value.split(":") for name, value in values if name == "--volume"]
    options = [next(csv.reader([value])) for name, value in values if name == "--mount"]
    binds = [[option.partition("=")[2] for option in each[1:]] for each in options]
    wanted = [[str(place.home)] * 2, [f"{place.home}/out"] * 2]
    assert sorted([*volumes, *binds]) == sorted([*wanted, ["/a b, c", "/d", "ro"]])
    assert values[-2:] == [("retune:latest", "/bin/sh"), ("/bin/sh", str(place.job.folder.script))]
    created = DockerExecutor(target)._spec(place.job).creation()
    mounted = [[mount["Source"], mount["Target"]] for mount in created["mounts"] or []]
    assert mounted == binds
    assert [volume.split(":") for volume in created["volumes"]] == volumes


@pytest.mark.parametrize("place", ["project"], indirect=True)
def test_without_an_image_a_container_has_this_machines_retune(place: Place) -> None:
    """The recipe's table names none, and a relative folder."""
    target = place.target(executor="docker", runtime="nvidia", mounts=["./data:/workspace/data"])
    spec = DockerExecutor(target)._spec(place.job)
    assert spec.image == f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    assert f"{Path('data').resolve()}:/workspace/data" in spec.volumes
    for package in ("resources", "numpy"):
        origin = find_spec(package).origin  # type: ignore[union-attr]
        folder = Path(str(origin)).resolve().parents[1]
        assert folder in spec.mounts
        assert str(folder) in spec.environment["PYTHONPATH"].split(":")
    assert spec.environment["NVIDIA_VISIBLE_DEVICES"] == "all"


@pytest.mark.parametrize("place", WITH_BACKSLASH, indirect=True)
def test_ssh_writes_reads_and_runs_what_it_is_given(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As sshd does it: the last argument is a line for the shell of the user who logs in.
    programs = executables(tmp_path / "bin", ssh='exec /bin/sh -c "${@: -1}"')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(place.record))
    monkeypatch.chdir(place.home)
    host, file = SshHost("login.cluster", "me"), place.home / "new" / "work.json"
    host.write(file, "content")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("content", 0o600)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert host.read(file, 3) == b"tent"
    said = (place.home.name, f"$(touch {MARK})", "two\nlines", "")
    assert host.run([str(place.python), *said]).returncode == 0
    assert place.arguments() == list(said)
    place.check_unmarked()


@pytest.mark.parametrize("place", WITH_BACKSLASH, indirect=True)
def test_a_ray_jobs_entrypoint_runs_its_script(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    entrypoints: list[str] = []

    class Client:
        def submit_job(self, entrypoint: str, **options: Any) -> str:
            entrypoints.append(entrypoint)
            return "raysubmit_1"

    @contextmanager
    def client(self: RayExecutor) -> Generator[Client]:
        yield Client()

    monkeypatch.setattr(RayExecutor, "_client", client)
    RayExecutor(place.target(executor="ray", address="http://head:8265")).submit(place.job)
    place.run("/bin/sh", "-c", entrypoints[0])  # as Ray's job supervisor does
    place.check()


TEXTS = {
    name: field
    for name, field in ComputeTarget.model_fields.items()
    if any(kind in str(field.annotation) for kind in ("str", "Path", "Literal"))
}


@pytest.mark.parametrize(
    ("name", "control"),
    [
        (name, control)
        for name in sorted(TEXTS)
        for control in ("\n", "\r", "\x1b[2J", "\x00", "\u2028", "\x85")
        if (name, control) != ("setup", "\n")  # lines of a shell may be several
    ],
)
def test_no_field_takes_a_control_character(name: str, control: str, tmp_path: Path) -> None:
    shape = str(TEXTS[name].annotation)
    text = f"a{control}#SBATCH --hold"
    value: Any = {"A": text} if "Mapping" in shape else [text] if "tuple" in shape else text
    file = tmp_path / "env.toml"
    file.write_text('[there]\nexecutor = "slurm"\n', "utf-8")
    override = f"{{ A = {quoted(text)} }}" if isinstance(value, dict) else quoted(text)
    override = f"[{override}]" if isinstance(value, list) else override
    with pytest.raises(ComputeError, match="holds a control character") as caught:
        read_target(file, "there", {name: override})
    assert name in str(caught.value)
    assert control not in str(caught.value)


def quoted(text: str) -> str:
    """As a basic string of TOML."""
    return (
        '"'
        + "".join(char if char.isalnum() or char in " #-[" else f"\\u{ord(char):04x}" for char in text)
        + '"'
    )


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"env_vars": {f"A; touch {MARK}; B": "x"}}, "env_vars"),
        ({"secrets": [f'A}}"; touch {MARK}; "']}, "secrets"),
        ({"host": f"-oProxyCommand=touch {MARK}", "tunnel": "ssh"}, "host"),
        ({"host": "-oProxyCommand=x", "tunnel": "ssh"}, "host"),
        ({"host": "a.b", "user": "$(id)", "tunnel": "ssh"}, "user"),
    ],
)
def test_names_are_names(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field}[\s\S]*should match pattern"):
        ComputeTarget.model_validate({"executor": "slurm", **values})


def test_what_people_write_is_still_taken() -> None:
    values = {
        "executor": "slurm",
        "tunnel": "ssh",
        "host": "me@login-1.cluster.example.org",
        "user": "DOMAIN\\me",
        "setup": ["if true; then\n\tmodule load cuda\nfi"],
        "env_vars": {"TOKENIZERS_PARALLELISM": "false", "HF_TOKEN_PATH": "/home/me/.token", "A": "1"},
    }
    assert ComputeTarget.model_validate(values).host == values["host"]


@pytest.mark.parametrize("part", ["folder", "cwd", "needs"])
def test_a_path_with_a_line_break_is_refused_for_every_executor(part: str) -> None:
    plain, broken = Path("/project"), Path("/project/a\n#SBATCH --hold")
    given = {name: broken if name == part else plain for name in ("folder", "cwd", "needs")}
    with pytest.raises(ComputeError, match=r"a\\n#SBATCH.*rename the folder"):
        JobSpec("x", JobFolder(given["folder"]), "m", given["cwd"], (given["needs"],))


def test_a_jobs_files_are_its_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path / "project")
    job = JobSpec("new-1", JobFolder(tmp_path / "jobs" / "new-1"), "a_module", place.home, ())
    monkeypatch.setenv("RECORD", str(place.record))
    before = os.umask(0)
    try:
        executor = make_executor(place.target(executor="subprocess"))
        handle = executor.submit(job)
    finally:
        os.umask(before)
    with suppress(ChildProcessError):  # the subprocess module may have waited for it already
        os.waitpid(int(handle.partition(":")[0]), 0)
    assert job.folder.path.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in (job.folder.script, job.folder.log)}
    assert modes == {"job.sh": 0o600, "log.txt": 0o600}
    assert sys.executable not in job.folder.script.read_text()
